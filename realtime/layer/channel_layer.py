"""
A Channels channel layer on the multiplexer: everything stock consumers expect, and publications with offsets.

Owns the calls that Channels and the publisher make, which names and messages they accept, and one `LoopLayer` for each
event loop. Does not own names, hosts and bytes (configuration), what consumers hold (event_loop), sockets (hub) nor the
form of a publication (broker).

Why not `channels_redis.pubsub`: it polls, holds one lock across round trips, queues without bound, and no longer calls
`on_reconnect`.
"""

import asyncio
import functools
import itertools
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import redis
from channels.exceptions import ChannelFull, MessageTooLarge

from realtime import conf
from realtime.broker.history import (
    CALLS_PER_ROUND_TRIP,
    PUBLICATIONS_PER_CALL,
    PublishCall,
    Published,
    PublishRequest,
    publish_all,
    publish_all_async,
)
from realtime.hub.hub import Hub
from realtime.layer.configuration import Configuration
from realtime.layer.event_loop import LoopLayer
from realtime.pubsub.subscriptions import Attachment
from realtime.redis import clients

__all__ = ["RedisChannelLayer"]


class RedisChannelLayer(Configuration):
    """
    The channel layer of this project: `"BACKEND": "realtime.layer.RedisChannelLayer"`.

    Args:
        hosts: As for channels_redis: URLs or dicts; several are shared out by a hash of the name. Sentinels too. By
            default the one of REALTIME["REDIS_URL"].
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
        As with channels_redis.pubsub, a message reaches those who listen when it is sent. If several processes receive
        from a channel, each of them gets the message.

    Source: Channels, "Channel Layer Specification".
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    # Part of the specification, and never raised here: senders do not see how full a consumer is.
    ChannelFull, MessageTooLarge = ChannelFull, MessageTooLarge

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
        self.require_valid_group_name(group)
        await self._get_layer().group_add(group, self._checked_channel(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """End what `group_add` began, if it did; TypeError as there."""
        self.require_valid_group_name(group)
        await self._get_layer().group_discard(group, self._checked_channel(channel))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to every channel in a group; errors as `send`."""
        self.require_valid_group_name(group)
        await self._get_layer().group_send(group, _checked(message))

    async def flush(self) -> None:
        """On this event loop, forget all channels, groups and sockets, and close the connections to Redis."""
        await self._get_layer().flush()

    # Publishing -------------------------------------------------------------------------------------------------------

    def publish_now(self, request: PublishRequest) -> Published:
        """Publish from sync code, on a pooled connection of the process; see `publish`."""
        return self.publish_many_now([request])[0]

    async def publish(self, request: PublishRequest) -> Published:
        """
        Publish on a topic: offset, history and PUBLISH in one round trip.

        Who hears the topic through the hub gets it spliced into a frame; stock consumers in the group of the same name
        get {"type": "realtime.message", "topic": …, "offset": …, "data": JSON text}.

        Raises:
            redis.RedisError, OSError: Redis did not answer; whether it was published is not known.
        """
        return (await self.publish_many([request]))[0]

    def publish_many_now(self, items: Sequence[PublishRequest]) -> list[Published]:
        """Publish from sync code, in order for each topic, many in one round trip."""
        results: dict[int, Published] = {}
        for shard, indexes, calls in self._round_trips(items):
            results |= zip(indexes, publish_all(self._sync_publishers[shard], calls), strict=True)
        return [results[index] for index in range(len(items))]

    async def publish_many(self, items: Sequence[PublishRequest]) -> list[Published]:
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

    def _checked_channel(self, name: str) -> str:
        # The names that we make begin with the prefix, which is the administrator's.
        self.require_valid_channel_name(name.removeprefix(self.prefix) if isinstance(name, str) else name)
        return name

    def _round_trips(self, items: Sequence[PublishRequest]) -> Iterator[tuple[int, Sequence[int], list[PublishCall]]]:
        """What publishes `items`: a host, the places in `items`, and the calls that publish those."""
        indexes_of: dict[int, list[int]] = {}
        for index, request in enumerate(items):
            indexes_of.setdefault(self.shard_of(request.topic), []).append(index)
        for shard, indexes in indexes_of.items():
            for part in itertools.batched(indexes, PUBLICATIONS_PER_CALL * CALLS_PER_ROUND_TRIP):
                requests = itertools.batched([items[index] for index in part], PUBLICATIONS_PER_CALL)
                channel_of = self._group_starts[shard].__add__
                yield (
                    shard,
                    part,
                    [
                        PublishCall(each, keys=self.keys, channel_of=channel_of, crypter=self.crypter)
                        for each in requests
                    ],
                )

    @functools.cached_property
    def _sync_publishers(self) -> list[redis.Redis]:
        conf.join_embedded_server()
        # Publishing twice is worse than not at all: callers are told, and know whether it matters.
        timeout_seconds = clients.CALLER_TIMEOUT_SECONDS
        publishers = [clients.publisher(host, timeout_seconds=timeout_seconds, retries=0) for host in self.hosts]
        for publisher in publishers:
            # Nobody closes a layer that has no event loop.
            weakref.finalize(self, publisher.close)
        return publishers

    def __getattr__(self, name: str) -> Any:
        """Attributes of the running event loop's layer, such as `channels`: channels_redis has them here."""
        if not name.startswith("_"):
            try:
                return getattr(self._get_layer(), name)
            except RuntimeError:
                # No event loop runs in this thread.
                pass
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    @functools.cached_property
    def _layers(self) -> dict[asyncio.AbstractEventLoop, LoopLayer]:
        """What this layer is on each event loop that uses it, until the loop is closed."""
        return {}

    def _get_layer(self) -> LoopLayer:
        loop = asyncio.get_running_loop()
        layer = self._layers.get(loop)
        if layer is None:
            conf.join_embedded_server()
            layer = self._layers[loop] = LoopLayer(self)
            self._flush_before_close(loop)
        return layer

    def _flush_before_close(self, loop: asyncio.AbstractEventLoop) -> None:
        """When the loop is closed, its connections to Redis are closed first. asyncio has no hook for that."""
        close = loop.close

        def flush_and_close(loop: asyncio.AbstractEventLoop) -> None:
            loop.close = close  # type: ignore[method-assign]
            if (layer := self._layers.pop(loop, None)) is not None:
                loop.run_until_complete(layer.flush())
            close()

        loop.close = types.MethodType(flush_and_close, loop)  # type: ignore[method-assign]


def _checked(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise TypeError(f'a message is a dict with a "type", not {type(message).__name__}')
    return message
