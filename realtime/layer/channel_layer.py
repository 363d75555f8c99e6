"""
A Channels channel layer on the multiplexer: everything stock consumers expect, and publications with offsets.

Owns publishing, which names and messages are taken, and which Redis host and channel a name lives on. The wire is that
of the parent, `channels_redis.pubsub`; its Redis side is replaced (loop_layer): it polls, holds one lock across round
trips, queues without bound, and no longer calls `on_reconnect`. Does not own what consumers hold (loop_layer), sockets
(hub) nor the form of a publication (publications).
"""

import asyncio
import fnmatch
import functools
import itertools
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import redis
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, _wrap_close, decode_hosts

from realtime import conf
from realtime.broker.history import (
    CALLS_PER_ROUND_TRIP,
    PUBLICATIONS_PER_CALL,
    Outgoing,
    PublishCall,
    Published,
    publish_all,
    publish_all_async,
)
from realtime.broker.publication import Crypter
from realtime.hub.hub import Hub
from realtime.layer.event_loop import LoopLayer
from realtime.pubsub.subscriptions import Attachment
from realtime.redis import clients
from realtime.redis.keys import Keys

__all__ = ["RedisChannelLayer"]

# The default of channels_redis: its own pub/sub layer and this one can exchange messages.
DEFAULT_PREFIX: Final = "asgi"
# Knows which names the specification allows.
_names: Final = BaseChannelLayer()


class RedisChannelLayer(RedisPubSubChannelLayer):  # type: ignore[misc]
    """
    The channel layer of this project: `"BACKEND": "realtime.layer.RedisChannelLayer"`.

    Args:
        hosts: As for channels_redis: URLs or dicts; several are shared out by a hash of the name. Sentinels too.
        prefix: The beginning of the names that the layer makes. In Redis, REALTIME["KEY_PREFIX"] is put before it,
            unless `prefix` begins with it already.
        capacity: Messages that may wait for one consumer; no limit by default.
        channel_capacity: Other capacities by channel name: glob → messages. The first glob that matches decides.
        capacity_bytes: Bytes that may wait for one consumer. Beyond either limit, messages are dropped and counted.
            All messages that arrive in one turn of the event loop are accepted together if there was room at its
            beginning, because a consumer cannot receive between them.
        group_expiry: Seconds after its last `group_add` when a channel falls out of a group.
        on_disconnect: Type of a message that every consumer of this process gets when Redis is lost, e.g.
            "redis.disconnected"; what is published from then on is missed.
        on_reconnect: Likewise when it is back and everything is subscribed again.
        symmetric_encryption_keys, serializer_format: As for channels_redis; publications are encrypted too.
        expiry, random_prefix_length: They have no effect, and a system check (W008) warns. They are accepted because
            channels_redis.core.RedisChannelLayer has them.

    Guarantees:
        In each event loop, one pub/sub connection a host, however many groups and consumers. A message of a group
        reaches each of its consumers in publish order, or is counted as dropped.
        As with the parent, a message is for who listens when it is sent; a channel that several processes receive from
        is heard by each of them.

    Source: Channels, "Channel Layer Specification".
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    # Part of the specification, and never raised here: senders do not see how full a consumer is.
    ChannelFull, MessageTooLarge = ChannelFull, MessageTooLarge

    def __init__(
        self,
        hosts: Sequence[Any] | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        capacity: int | None = None,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        capacity_bytes: int = 16_777_216,
        group_expiry: float = 86_400,
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
        expiry: float | None = None,
        random_prefix_length: int | None = None,
    ) -> None:
        super().__init__(symmetric_encryption_keys=symmetric_encryption_keys, serializer_format=serializer_format)
        self.hosts: list[Mapping[str, Any]] = decode_hosts(hosts)
        self.prefix = prefix
        self.capacity, self.capacity_bytes = capacity, capacity_bytes
        self._capacities = [(_compiled(name), number) for name, number in (channel_capacity or {}).items()]
        self.group_expiry = group_expiry
        self.on_disconnect, self.on_reconnect = on_disconnect, on_reconnect
        key_prefix = conf.get_settings().key_prefix
        # The length of the key prefix if `prefix` begins with it: it is cut off, as it is put before every name anyway.
        self._repeated = len(key_prefix) if prefix != DEFAULT_PREFIX and prefix.startswith(key_prefix) else 0
        # Histories bear the layer's prefix too: two layers on one Redis keep apart.
        self.keys = Keys(key_prefix + ("" if prefix == DEFAULT_PREFIX else prefix[self._repeated :]))
        # For each host: the names of Redis channels, and the beginning of the names of group channels.
        self._spellings = [Keys(key_prefix, database=clients.database_of(host)) for host in self.hosts]
        self._group_starts = [self.redis_name(f"{prefix}__group__", shard) for shard in range(len(self.hosts))]
        self.crypter: Crypter | None = self._serializer.crypter
        # Messages that full consumers lost, and those that nobody could read, on all event loops of this process.
        self.dropped_count = self.unreadable_count = 0

    # The channel layer ------------------------------------------------------------------------------------------------

    async def new_channel(self, prefix: str = "specific.") -> str:
        """
        A new name that messages can be sent to from now on, for one consumer of this event loop.

        Raises:
            redis.TimeoutError: Redis did not confirm the subscription within five seconds. `receive` and `group_add`
                raise it too, if they have to subscribe.
        """
        channel: str = await self._get_layer().new_channel(prefix)
        return channel

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """
        Send a message to whoever receives from the channel.

        Raises:
            TypeError: The name is not allowed, the message is not a dict, or it contains something that cannot be sent
                or that its receivers could not read.
            redis.RedisError, OSError: Redis did not answer; whether it was sent is not known.

        Guarantees:
            On one event loop and host, messages reach Redis in the order of the calls, even if the calls are
            concurrent. The message of a cancelled call may still be sent.
        """
        await self._get_layer().send(self._checked_channel(channel), _checked(message))

    async def receive(self, channel: str) -> dict[str, Any]:
        """
        Wait for the next message of a channel; each is for one of those that wait.

        Guarantees:
            A channel whose last receiver is cancelled ends, and with it its place in groups: its consumer has left.
        """
        message: dict[str, Any] = await self._get_layer().receive(self._checked_channel(channel))
        return message

    async def group_add(self, group: str, channel: str) -> None:
        """
        Let a channel of this event loop have the messages of a group, until `group_expiry` at most.

        Raises:
            RuntimeError: The channel is not one of this event loop.
            TypeError: A name is not allowed.
        """
        _names.require_valid_group_name(group)
        await self._get_layer().group_add(group, self._checked_channel(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """End what `group_add` began, if it did; TypeError as there."""
        _names.require_valid_group_name(group)
        await self._get_layer().group_discard(group, self._checked_channel(channel))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to every channel in a group; errors as `send`."""
        _names.require_valid_group_name(group)
        await self._get_layer().group_send(group, _checked(message))

    async def flush(self) -> None:
        """On this event loop, forget all channels, groups and sockets, and close the connections to Redis."""
        await self._get_layer().flush()

    # Publishing -------------------------------------------------------------------------------------------------------

    def publish_now(self, outgoing: Outgoing) -> Published:
        """Publish from sync code, on a pooled connection of the process; see `publish`."""
        return self.publish_many_now([outgoing])[0]

    async def publish(self, outgoing: Outgoing) -> Published:
        """
        Publish on a topic: offset, history and PUBLISH in one round trip.

        Who hears the topic through the hub gets it spliced into a frame; stock consumers in the group of the same name
        get {"type": "realtime.message", "topic": …, "offset": …, "data": JSON text}.

        Raises:
            redis.RedisError, OSError: Redis did not answer; whether it was published is not known.
        """
        return (await self.publish_many([outgoing]))[0]

    def publish_many_now(self, items: Sequence[Outgoing]) -> list[Published]:
        """Publish from sync code, in order for each topic, many in one round trip."""
        results: dict[int, Published] = {}
        for shard, indexes, calls in self._round_trips(items):
            results |= zip(indexes, publish_all(self._sync_publishers[shard], calls), strict=True)
        return [results[index] for index in range(len(items))]

    async def publish_many(self, items: Sequence[Outgoing]) -> list[Published]:
        """The async twin of `publish_many_now`."""
        results: dict[int, Published] = {}
        for shard, indexes, calls in self._round_trips(items):
            publisher = self._get_layer().shards[shard].publisher
            results |= zip(indexes, await publish_all_async(publisher, calls), strict=True)
        return [results[index] for index in range(len(items))]

    # Between the processes of the site --------------------------------------------------------------------------------

    def tell_now(self, name: str, payloads: Sequence[bytes]) -> list[int]:
        """
        Send payloads to all processes that are attached to `name`, in one round trip, without an offset or a history.

        Returns:
            For each payload, how many processes received it.
        """
        pipeline = self._sync_publishers[self.shard_of(name)].pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(self.redis_channel(name), self._sealed(payload))
        counts: list[int] = pipeline.execute()
        return counts

    async def tell(self, name: str, payloads: Sequence[bytes]) -> list[int]:
        """The async twin of `tell_now`."""
        pipeline = self._get_layer().shard(name).publisher.pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(self.redis_channel(name), self._sealed(payload))
        counts: list[int] = await pipeline.execute()
        return counts

    def attach(
        self, name: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Receive on this event loop what `tell` sends to `name`; `opened` decrypts each payload."""
        return self._get_layer().attach_topic(name, on_payloads=on_payloads, on_gap=on_gap)

    def opened(self, payload: bytes) -> bytes:
        """The bytes that were given to `tell`; raises what the crypter raises if another key encrypted them."""
        return payload if self.crypter is None else self.crypter.decrypt(payload)

    def _sealed(self, payload: bytes) -> bytes:
        return payload if self.crypter is None else self.crypter.encrypt(payload)

    # Who is where -----------------------------------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The hub of the running event loop."""
        return self._get_layer().hub

    def shard_of(self, topic: str) -> int:
        """Which host a topic lives on: its place in `hosts`."""
        return int(_consistent_hash(f"{self.prefix}__group__{topic}", len(self.hosts))) if len(self.hosts) > 1 else 0

    def redis_channel(self, topic: str) -> str:
        """The Redis channel of a topic, and of the group of the same name."""
        return self._group_starts[self.shard_of(topic)] + topic

    def redis_name(self, name: str, shard: int) -> str:
        """The Redis channel of a channel or group of Channels that is called `name`, on one of the hosts."""
        return self._spellings[shard].channel(name[self._repeated :] if name.startswith(self.prefix) else name)

    def _checked_channel(self, name: str) -> str:
        # The names that we make begin with the prefix, which is the administrator's.
        _names.require_valid_channel_name(name.removeprefix(self.prefix) if isinstance(name, str) else name)
        return name

    def capacity_of(self, channel: str) -> int | None:
        """The most messages that may wait for the consumer of a channel; None for no limit."""
        for pattern, capacity in self._capacities:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def serialize(self, message: Any) -> bytes:
        """
        Serialize like the parent, but refuse a message that no receiver could read.

        Raises:
            TypeError: The message contains something that cannot be sent.
        """
        try:
            # msgpack writes a dict key that is a number, but refuses to read it.
            self._serializer.from_bytes(self._serializer.as_bytes(message))
        except Exception as error:
            raise TypeError(f"this message cannot be sent: {error}: {message!r:.200}") from error
        payload: bytes = super().serialize(message)
        return payload

    def deserialize(self, message: Any) -> Any:
        """As the parent; what is no bytes is a message already, which each consumer gets a copy of."""
        return dict(message) if isinstance(message, dict) else super().deserialize(message)

    def _round_trips(self, items: Sequence[Outgoing]) -> Iterator[tuple[int, Sequence[int], list[PublishCall]]]:
        """What publishes `items`: a host, the places in `items`, and the calls that publish those."""
        indexes_of: dict[int, list[int]] = {}
        for index, outgoing in enumerate(items):
            indexes_of.setdefault(self.shard_of(outgoing.topic), []).append(index)
        for shard, indexes in indexes_of.items():
            for part in itertools.batched(indexes, PUBLICATIONS_PER_CALL * CALLS_PER_ROUND_TRIP):
                outgoings = itertools.batched([items[index] for index in part], PUBLICATIONS_PER_CALL)
                channel_of = self._group_starts[shard].__add__
                yield (
                    shard,
                    part,
                    [
                        PublishCall(each, keys=self.keys, channel_of=channel_of, crypter=self.crypter)
                        for each in outgoings
                    ],
                )

    @functools.cached_property
    def _sync_publishers(self) -> list[redis.Redis]:
        # Publishing twice is worse than not at all: callers are told, and know whether it matters.
        timeout_seconds = clients.CALLER_TIMEOUT_SECONDS
        publishers = [clients.publisher(host, timeout_seconds=timeout_seconds, retries=0) for host in self.hosts]
        for publisher in publishers:
            # Nobody closes a layer that has no event loop.
            weakref.finalize(self, publisher.close)
        return publishers

    def __getattr__(self, name: str) -> Any:
        """Attributes of the running event loop's layer, such as `channels`; the parent's users expect them here."""
        if not name.startswith("_"):
            try:
                return getattr(self._get_layer(), name)
            except RuntimeError:
                # No event loop runs in this thread.
                pass
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def _get_layer(self) -> LoopLayer:
        loop = asyncio.get_running_loop()
        layer: LoopLayer | None = self._layers.get(loop)
        if layer is None:
            layer = self._layers[loop] = LoopLayer(self)
            # Closing the loop flushes the layer first.
            _wrap_close(self, loop)
        return layer


def _compiled(name: str | re.Pattern[str]) -> re.Pattern[str]:
    return name if isinstance(name, re.Pattern) else re.compile(fnmatch.translate(name))


def _checked(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise TypeError(f'a message is a dict with a "type", not {type(message).__name__}')
    return message
