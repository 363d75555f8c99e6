"""
The part of a channel layer that all event loops of a process share: its options, and what follows from them.

Owns the Redis host and the Redis channel of each name, the capacities of consumers, and the encoding of a message. Does
not own the queues of consumers (event_loop, queues) nor the methods that Channels calls (channel_layer).

Names, hosts and encoding are those of `channels_redis.pubsub`: a process with that layer and one with this layer can
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
# The number of slots on channels_redis's ring of hosts.
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
        # The length of the key prefix if `prefix` begins with it: that part is removed, as it is added to every name.
        self._repeated = len(key_prefix) if prefix != DEFAULT_PREFIX and prefix.startswith(key_prefix) else 0
        # The keys of histories contain the layer's prefix too, so that two layers can share one Redis.
        self.keys = Keys(key_prefix + ("" if prefix == DEFAULT_PREFIX else prefix[self._repeated :]))
        # For each host: how Redis channels are named, and the beginning of the names of group channels.
        self._spellings = [Keys(key_prefix, database=clients.database_of(host)) for host in self.hosts]
        self._group_starts = [self.redis_name(self.group_name(""), shard) for shard in range(len(self.hosts))]
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        self.crypter: Crypter | None = self._serializer.crypter
        # See LayerStatistics.
        self.dropped_count = self.unreadable_count = self.full_count = self.silent_count = 0
        self.unregistered_count = 0
        register(self)

    # Names and hosts --------------------------------------------------------------------------------------------------

    def group_name(self, group: str) -> str:
        """The name of the channel that stands for a group."""
        return f"{self.prefix}__group__{group}"

    def shard_of_name(self, name: str) -> int:
        """The index in `hosts` of the host of a channel or a group's channel."""
        if len(self.hosts) == 1:
            return 0
        return int((binascii.crc32(name.encode()) % _RING_SIZE) / (_RING_SIZE / len(self.hosts)))

    def shard_of(self, topic: str) -> int:
        """The index of the host of a topic, and of the group of the same name."""
        return self.shard_of_name(self.group_name(topic)) if len(self.hosts) > 1 else 0

    def redis_channel(self, topic: str) -> str:
        """The Redis channel of a topic, and of the group of the same name."""
        return self._group_starts[self.shard_of(topic)] + topic

    def redis_name(self, name: str, shard: int) -> str:
        """The Redis channel of a channel or a group's channel, on one of the hosts."""
        return self._spellings[shard].channel(name[self._repeated :] if name.startswith(self.prefix) else name)

    def statistics(self) -> LayerStatistics:
        """The counters of this layer now, over all its event loops."""
        return LayerStatistics(
            dropped_count=self.dropped_count,
            unreadable_count=self.unreadable_count,
            full_count=self.full_count,
            silent_count=self.silent_count,
            unregistered_count=self.unregistered_count,
        )

    # Messages ---------------------------------------------------------------------------------------------------------

    def capacity_of(self, channel: str) -> int | None:
        """The most messages that may wait for the consumer of a channel; None for no limit."""
        capacity: int | None = self.get_capacity(channel)
        return capacity

    def serialize(self, message: Any) -> bytes:
        """
        Encode a message, as channels_redis does.

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
        """Decode a message. A dict is already decoded; each consumer gets its own copy."""
        return dict(message) if isinstance(message, dict) else self._serializer.deserialize(message)
