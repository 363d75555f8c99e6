"""
A channel layer on the multiplexer: everything that stock consumers of Channels expect, and publications with offsets.

Owns the methods that Channels and the publisher call, and one `LoopLayer` for each event loop. Does not own names,
hosts and encoding (configuration), the queues of consumers (event_loop, queues), sockets (hub) nor the format of a
publication (broker).

Why not `channels_redis.pubsub`: it polls, holds one lock across round trips, has unbounded queues, and no longer calls
`on_reconnect`.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import redis
from channels.exceptions import ChannelFull, MessageTooLarge

from realtime import conf
from realtime.broker.extents import ANNOUNCEMENT, Extents
from realtime.broker.publish import (
    CALLS_PER_ROUND_TRIP,
    PUBLICATIONS_PER_CALL,
    PublishCall,
    Published,
    PublishRequest,
    publish_all,
    publish_all_async,
)
from realtime.broker.sweep import Sweep
from realtime.event_loops import before_close
from realtime.hub.hub import Hub
from realtime.layer.configuration import Configuration
from realtime.layer.event_loop import LoopLayer
from realtime.live.views import Views
from realtime.pubsub.subscriptions import Attachment
from realtime.redis import clients
from realtime.redis.outage import REDIS_ERRORS
from realtime.statistics import unregister

__all__ = ["RedisChannelLayer"]

logger = logging.getLogger(__name__)

# After a publisher has removed the silent keys of a full snapshot, no other process does so for this long.
FULL_LEASE_SECONDS = 1.0


class RedisChannelLayer(Configuration):
    """
    The channel layer of this project: `"BACKEND": "realtime.layer.RedisChannelLayer"`.

    Args:
        hosts: URLs, dicts or Sentinels, as for channels_redis. With several hosts, a hash of the name decides.
            By default the server of REALTIME["REDIS_URL"].
        prefix: The beginning of the names that the layer creates. In Redis, REALTIME["KEY_PREFIX"] is put before it,
            unless `prefix` already begins with it.
        capacity: How many messages may wait for one consumer; no limit by default.
        channel_capacity: Other capacities by channel name: glob → messages. The first matching glob counts.
        capacity_bytes: How many bytes may wait for one consumer. Beyond either limit, messages are dropped and counted.
            All messages that arrive in one turn of the event loop are accepted if there was room at its beginning,
            because a consumer cannot receive between them.
        group_expiry: How many seconds after its last `group_add` a channel leaves a group.
        on_disconnect: The type of a message to every consumer of this process when the connection to Redis is lost,
            e.g. "redis.disconnected". Messages sent from then on are missed.
        on_reconnect: The same, when the connection is back and everything is subscribed again.
        symmetric_encryption_keys, serializer_format: As for channels_redis; publications are encrypted too.
        expiry, random_prefix_length: Accepted because channels_redis.core.RedisChannelLayer has them, but without
            effect; a system check (W008) warns.

    Guarantees:
        Each event loop has one pub/sub connection per host, however many groups and consumers there are. Messages of a
        group reach each of its consumers in publish order, or are counted as dropped.
        As with channels_redis.pubsub, a message reaches only those who are subscribed when it is sent. If several
        processes receive from a channel, each of them gets the message.

    Source: Channels, "Channel Layer Specification".
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    # Part of the specification, but never raised: senders do not know how full a consumer's queue is.
    ChannelFull, MessageTooLarge = ChannelFull, MessageTooLarge

    # The channel layer ------------------------------------------------------------------------------------------------

    async def new_channel(self, prefix: str = "specific.") -> str:
        """
        Create a channel for one consumer of this event loop; messages can be sent to it at once.

        Raises:
            redis.TimeoutError: Redis did not confirm the subscription within five seconds. `receive` and `group_add`
                raise it too if they have to subscribe.
        """
        channel: str = await self._get_layer().new_channel(prefix)
        return channel

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """
        Send a message to all receivers of the channel.

        Raises:
            TypeError: The name is not allowed, the message is not a dict, or it contains something that cannot be sent
                or that its receivers could not read.
            redis.RedisError, OSError: Redis did not answer. Whether the message was sent is unknown.

        Guarantees:
            On one event loop and host, messages reach Redis in the order of the calls, even if the calls are
            concurrent. The message of a cancelled call may still be sent.
        """
        await self._get_layer().send(self._checked_channel(channel), _checked(message))

    async def receive(self, channel: str) -> dict[str, Any]:
        """
        Wait for the next message of a channel. If several callers wait, one of them gets it.

        Guarantees:
            When the last receiver is cancelled, its consumer has left: the channel ends and leaves its groups.
        """
        message: dict[str, Any] = await self._get_layer().receive(self._checked_channel(channel))
        return message

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel of this event loop to a group, for at most `group_expiry` seconds.

        Raises:
            RuntimeError: The channel does not belong to this event loop.
            TypeError: A name is not allowed.
        """
        self.require_valid_group_name(group)
        await self._get_layer().group_add(group, self._checked_channel(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, if it is in it. Raises TypeError as `group_add`."""
        self.require_valid_group_name(group)
        await self._get_layer().group_discard(group, self._checked_channel(channel))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to every channel in a group; errors as `send`."""
        self.require_valid_group_name(group)
        await self._get_layer().group_send(group, _checked(message))

    async def flush(self) -> None:
        """Forget all channels, groups and sockets of this event loop, and close its connections to Redis."""
        await self._get_layer().flush()

    # Publishing -------------------------------------------------------------------------------------------------------

    def publish_now(self, request: PublishRequest) -> Published:
        """Publish from sync code, on a pooled connection of the process; see `publish`."""
        return self.publish_many_now([request])[0]

    async def publish(self, request: PublishRequest) -> Published:
        """
        Publish on a topic: offset, history and PUBLISH in one round trip.

        Sockets that are subscribed to the topic get it in a frame. Stock consumers in the group of the same name get
        {"type": "realtime.message", "topic": …, "offset": …, "data": JSON text}.

        Raises:
            redis.RedisError, OSError: Redis did not answer. Whether it was published is unknown.
        """
        return (await self.publish_many([request]))[0]

    def publish_many_now(self, items: Sequence[PublishRequest]) -> list[Published]:
        """
        Publish many from sync code, in few round trips; the order within each topic is kept.

        If a snapshot has no room for a publication, the silent keys are removed and it is tried again. While a topic
        has no viewers, no other process removes them.
        """
        published = self._publish_now(items)
        if not any(each.is_full for each in published):
            return published
        full = _refused_as_full(items, published)
        for index in _one_a_topic(items, full):
            publisher = self._sync_publishers[self.shard_of(items[index].topic)]
            self.silent_count += self._sweep_of(items[index]).run(publisher)
        if full:
            again = self._publish_now([items[index] for index in full])
            for index, each in zip(full, again, strict=True):
                published[index] = each
        self.full_count += sum(each.is_full for each in published)
        return published

    async def publish_many(self, items: Sequence[PublishRequest]) -> list[Published]:
        """The async twin of `publish_many_now`."""
        published = await self._publish(items)
        if not any(each.is_full for each in published):
            return published
        full = _refused_as_full(items, published)
        for index in _one_a_topic(items, full):
            publisher = self._get_layer().shard(items[index].topic).publisher
            removed_count = await self._sweep_of(items[index]).arun(publisher)
            self.silent_count += removed_count
        if full:
            again = await self._publish([items[index] for index in full])
            for index, each in zip(full, again, strict=True):
                published[index] = each
        self.full_count += sum(each.is_full for each in published)
        return published

    def _sweep_of(self, request: PublishRequest) -> Sweep:
        assert request.keyed is not None  # noqa: S101 - the caller's condition
        return Sweep(
            request.topic,
            request.keyed.policy,
            history=request.history,
            holder=self._publisher_id,
            lease_seconds=FULL_LEASE_SECONDS,
            keys=self.keys,
            channel_of=self.redis_channel,
            crypter=self.crypter,
        )

    def _publish_now(self, items: Sequence[PublishRequest]) -> list[Published]:
        self._register_now(items)
        results: dict[int, Published] = {}
        for shard, indexes, calls in self._round_trips(items):
            results |= zip(indexes, publish_all(self._sync_publishers[shard], calls), strict=True)
        published = [results[index] for index in range(len(items))]
        if self._extents.published(items, published):
            with contextlib.suppress(*REDIS_ERRORS):
                self._register_now(items)
        return published

    async def _publish(self, items: Sequence[PublishRequest]) -> list[Published]:
        await self._register(items)
        results: dict[int, Published] = {}
        for shard, indexes, calls in self._round_trips(items):
            publisher = self._get_layer().shards[shard].publisher
            results |= zip(indexes, await publish_all_async(publisher, calls), strict=True)
        published = [results[index] for index in range(len(items))]
        if self._extents.published(items, published):
            with contextlib.suppress(*REDIS_ERRORS):
                await self._register(items)
        return published

    def _register_now(self, items: Sequence[PublishRequest]) -> None:
        """
        Register where the items are published, as far as it is not known.

        Raises:
            redis.RedisError, OSError: A host did not answer on which the items would be published: they would fail too.
        """
        for family, topics in self._extents.due(items).items():
            shard = self.shard_of_family(family)
            channel = self.redis_channel(f"{ANNOUNCEMENT}{family}")
            try:
                self._extents.register(self._sync_publishers[shard], family, topics, channel)
            except REDIS_ERRORS as error:
                self._extents.failed(family, error)
                self.unregistered_count += 1
                if self._is_unreachable(shard, topics, error):
                    raise

    async def _register(self, items: Sequence[PublishRequest]) -> None:
        """The async twin of `_register_now`."""
        for family, topics in self._extents.due(items).items():
            shard = self.shard_of_family(family)
            channel = self.redis_channel(f"{ANNOUNCEMENT}{family}")
            try:
                await self._extents.aregister(self._get_layer().shards[shard].publisher, family, topics, channel)
            except REDIS_ERRORS as error:
                self._extents.failed(family, error)
                self.unregistered_count += 1
                if self._is_unreachable(shard, topics, error):
                    raise

    def _is_unreachable(self, shard: int, topics: Iterable[str], error: Exception) -> bool:
        """Whether the host that did not answer is that of one of these topics."""
        is_lost = isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError))
        return is_lost and any(self.shard_of(topic) == shard for topic in topics)

    # Between the processes of the site --------------------------------------------------------------------------------

    def broadcast_now(self, name: str, payloads: Sequence[bytes]) -> list[int]:
        """
        Send payloads to all processes that are attached to `name`, in one round trip, without an offset or a history.

        Returns:
            For each payload, how many processes received it.
        """
        pipeline = self._sync_publishers[self.shard_of(name)].pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(self.redis_channel(name), self._encrypted(payload))
        counts: list[int] = pipeline.execute()
        return counts

    async def broadcast(self, name: str, payloads: Sequence[bytes]) -> list[int]:
        """The async twin of `broadcast_now`."""
        pipeline = self._get_layer().shard(name).publisher.pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(self.redis_channel(name), self._encrypted(payload))
        counts: list[int] = await pipeline.execute()
        return counts

    def attach(
        self, name: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Receive the payloads that `broadcast` sends to `name`; decrypt each with `decrypted`."""
        return self._get_layer().attach_topic(name, on_payloads=on_payloads, on_gap=on_gap)

    def decrypted(self, payload: bytes) -> bytes:
        """The bytes given to `broadcast`. Raises what the crypter raises if they were encrypted with another key."""
        return payload if self.crypter is None else self.crypter.decrypt(payload)

    def _encrypted(self, payload: bytes) -> bytes:
        return payload if self.crypter is None else self.crypter.encrypt(payload)

    # Event loops and hosts --------------------------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The hub of the running event loop."""
        return self._get_layer().hub

    @property
    def views(self) -> Views:
        """The filtered subscriptions of the running event loop."""
        return self._get_layer().views

    def _checked_channel(self, name: str) -> str:
        # Our own names begin with the prefix, which may contain characters that Channels does not allow.
        self.require_valid_channel_name(name.removeprefix(self.prefix) if isinstance(name, str) else name)
        return name

    def _round_trips(self, items: Sequence[PublishRequest]) -> Iterator[tuple[int, Sequence[int], list[PublishCall]]]:
        """The round trips that publish `items`: a host, the indexes in `items`, and the calls that publish these."""
        # By host, and by script. A topic has one of each, so its order is kept.
        indexes_of: dict[tuple[int, bool], list[int]] = {}
        for index, request in enumerate(items):
            indexes_of.setdefault((self.shard_of(request.topic), request.keyed is None), []).append(index)
        for (shard, _), indexes in indexes_of.items():
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

    def shard_of_family(self, family: str) -> int:
        """The host that has what the publishers of a family register."""
        return self.shard_of(f"{ANNOUNCEMENT}{family}")

    @functools.cached_property
    def _publisher_id(self) -> str:
        return uuid.uuid4().hex[:12]

    @functools.cached_property
    def _extents(self) -> Extents:
        return Extents(self._publisher_id, keys=self.keys, crypter=self.crypter)

    @functools.cached_property
    def _sync_publishers(self) -> list[redis.Redis]:
        conf.join_embedded_server()
        # No retries: publishing twice is worse than not at all. Callers get the error and can decide.
        timeout_seconds = clients.CALLER_TIMEOUT_SECONDS
        publishers = [clients.publisher(host, timeout_seconds=timeout_seconds, retries=0) for host in self.hosts]
        for publisher in publishers:
            # A layer without an event loop is never flushed.
            weakref.finalize(self, publisher.close)
        return publishers

    def __getattr__(self, name: str) -> Any:
        """Attributes of the running event loop's layer, such as `channels`, which channels_redis has on the layer."""
        if not name.startswith("_"):
            try:
                return getattr(self._get_layer(), name)
            except RuntimeError:
                # No event loop runs in this thread.
                pass
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    @functools.cached_property
    def _layers(self) -> dict[asyncio.AbstractEventLoop, LoopLayer]:
        """The part of this layer on each event loop that uses it, until the loop is closed."""
        return {}

    def _get_layer(self) -> LoopLayer:
        loop = asyncio.get_running_loop()
        layer = self._layers.get(loop)
        if layer is None:
            conf.join_embedded_server()
            layer = self._layers[loop] = LoopLayer(self)
            before_close(loop, lambda: self._end_layer(loop))
        return layer

    def _end_layer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections to Redis of this loop."""
        layer = self._layers.pop(loop, None)
        if layer is None:
            return
        try:
            loop.run_until_complete(layer.flush())
        except REDIS_ERRORS:
            # Its connections end with the loop in any case.
            logger.debug("the connections of an event loop were not closed cleanly", exc_info=True)
        finally:
            # They end with their loop, and their totals stay in the sum.
            unregister(layer.hub)
            unregister(layer.views)


def _checked(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise TypeError(f'a message is a dict with a "type", not {type(message).__name__}')
    return message


def _refused_as_full(items: Sequence[PublishRequest], published: Sequence[Published]) -> list[int]:
    """
    The indexes of those that a snapshot had no room for, though keys of it may be silent for too long.

    Without those whose key a later item has changed already: a removed key must not come back.
    """
    found: list[int] = []
    changed: set[tuple[str, str]] = set()
    for index in range(len(items) - 1, -1, -1):
        keyed = items[index].keyed
        if keyed is None or keyed.policy.absent_after_seconds is None:
            continue
        name = (items[index].topic, keyed.relevance.key)
        if not published[index].is_full:
            changed.add(name)
        elif name not in changed:
            found.append(index)
    return found[::-1]


def _one_a_topic(items: Sequence[PublishRequest], indexes: Iterable[int]) -> Iterable[int]:
    return {items[index].topic: index for index in indexes}.values()
