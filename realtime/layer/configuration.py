"""
What a channel layer is on all event loops of a process: its options, and the names and messages that follow from them.

Owns the Redis host and the Redis channel of each name, the capacities of consumers, and the bytes of a message. Does
not own what a consumer holds (event_loop) nor the calls of Channels (channel_layer).

Names, hosts and bytes are those of `channels_redis.pubsub`: a process with that layer and one with this layer can
exchange messages.
"""

import binascii
from collections.abc import Mapping, Sequence
from re import Pattern
from typing import Any, Final

from channels.layers import BaseChannelLayer
from channels_redis.serializers import registry
from channels_redis.utils import decode_hosts

from realtime import conf
from realtime.broker.publication import Crypter
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.statistics import LayerStatistics, register

__all__ = ["DEFAULT_PREFIX", "Configuration", "hosts_of"]

# The default of channels_redis.
DEFAULT_PREFIX: Final = "asgi"
# channels_redis has so many places on the ring of hosts.
_RING_SIZE: Final = 4096


def hosts_of(hosts: Sequence[Any] | None) -> list[Mapping[str, Any]]:
    """The Redis servers that an option `hosts` names, as clients take them; that of REALTIME if it names none."""
    found: list[Mapping[str, Any]] = decode_hosts(hosts or [conf.get_settings().redis_url])
    return [
        {**host, "address": conf.resolve(host["address"])} if isinstance(host.get("address"), str) else host
        for host in found
    ]


class Configuration(BaseChannelLayer):  # type: ignore[misc]
    """The options of `RedisChannelLayer`, which documents them."""

    def __init__(
        self,
        hosts: Sequence[Any] | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        capacity: int | None = None,
        channel_capacity: Mapping[str | Pattern[str], int] | None = None,
        capacity_bytes: int = 16_777_216,
        group_expiry: float = 86_400,
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
        expiry: float | None = None,
        random_prefix_length: int | None = None,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity: list[tuple[Pattern[str], int]] = self.compile_capacities(channel_capacity or {})
        self.capacity_bytes = capacity_bytes
        self.hosts: list[Mapping[str, Any]] = hosts_of(hosts)
        self.prefix = prefix
        self.group_expiry = group_expiry
        self.on_disconnect, self.on_reconnect = on_disconnect, on_reconnect
        key_prefix = conf.get_settings().key_prefix
        # The length of the key prefix if `prefix` begins with it: it is cut off, as it is put before every name anyway.
        self._repeated = len(key_prefix) if prefix != DEFAULT_PREFIX and prefix.startswith(key_prefix) else 0
        # The keys of histories contain the layer's prefix too: two layers on one Redis keep apart.
        self.keys = Keys(key_prefix + ("" if prefix == DEFAULT_PREFIX else prefix[self._repeated :]))
        # For each host: the names of Redis channels, and the beginning of the names of group channels.
        self._spellings = [Keys(key_prefix, database=clients.database_of(host)) for host in self.hosts]
        self._group_starts = [self.redis_name(self.group_name(""), shard) for shard in range(len(self.hosts))]
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        self.crypter: Crypter | None = self._serializer.crypter
        # See LayerStatistics.
        self.dropped_count = self.unreadable_count = 0
        register(self)

    # Names and hosts --------------------------------------------------------------------------------------------------

    def group_name(self, group: str) -> str:
        """The name of a group's channel, among the names of channels."""
        return f"{self.prefix}__group__{group}"

    def shard_of_name(self, name: str) -> int:
        """Which host a channel or a group's channel lives on: its place in `hosts`."""
        if len(self.hosts) == 1:
            return 0
        return int((binascii.crc32(name.encode()) % _RING_SIZE) / (_RING_SIZE / len(self.hosts)))

    def shard_of(self, topic: str) -> int:
        """Which host a topic lives on, and the group of the same name."""
        return self.shard_of_name(self.group_name(topic)) if len(self.hosts) > 1 else 0

    def redis_channel(self, topic: str) -> str:
        """The Redis channel of a topic, and of the group of the same name."""
        return self._group_starts[self.shard_of(topic)] + topic

    def redis_name(self, name: str, shard: int) -> str:
        """The Redis channel of a channel or a group's channel, on one of the hosts."""
        return self._spellings[shard].channel(name[self._repeated :] if name.startswith(self.prefix) else name)

    def statistics(self) -> LayerStatistics:
        """The counters of this layer now, over all its event loops."""
        return LayerStatistics(dropped_count=self.dropped_count, unreadable_count=self.unreadable_count)

    # Messages ---------------------------------------------------------------------------------------------------------

    def capacity_of(self, channel: str) -> int | None:
        """The most messages that may wait for the consumer of a channel; None for no limit."""
        capacity: int | None = self.get_capacity(channel)
        return capacity

    def serialize(self, message: Any) -> bytes:
        """
        The bytes of a message, as channels_redis writes them.

        Raises:
            TypeError: The message contains something that cannot be sent, or that no receiver could read.
        """
        try:
            # msgpack writes a dict key that is a number, but refuses to read it.
            self._serializer.from_bytes(self._serializer.as_bytes(message))
        except Exception as error:
            raise TypeError(f"this message cannot be sent: {error}: {message!r:.200}") from error
        payload: bytes = self._serializer.serialize(message)
        return payload

    def deserialize(self, message: Any) -> Any:
        """The message in these bytes. A dict is a message already; each consumer gets a copy of it."""
        return dict(message) if isinstance(message, dict) else self._serializer.deserialize(message)
