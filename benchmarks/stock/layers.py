"""The two channel layers of channels_redis, set up so that they work with redis-py 8 and lose nothing here."""

from typing import Any

__all__ = ["CORE", "channel_layers"]

# The default of 100 messages a consumer drops those beyond it.
CORE: dict[str, Any] = {"capacity": 2_000}


def channel_layers(name: str, redis_url: str) -> dict[str, Any]:
    """CHANNEL_LAYERS for "pubsub" or "core"."""
    # Without it redis-py 8 ends a connection that was idle for 5 s, and the consumers with it.
    hosts = [{"address": redis_url, "socket_timeout": None}]
    if name == "core":
        return {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": hosts, **CORE}}}
    return {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": hosts}}}
