"""
The channel layer on one event loop: the groups and channels of its consumers, its hub, views and connections.

Owns which consumer gets a message. Does not own the host of a name (configuration), the queues (queues), the connection
(pubsub), sockets (hub) nor what filtered subscriptions get (live).
"""

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import redis.asyncio
import redis.exceptions

from realtime.broker.extents import remove_extents
from realtime.broker.history import HistoryPolicy, HistoryReader
from realtime.broker.publication import BATCH_MARK, MARK, History, parse, split_batch
from realtime.broker.snapshot import Loaded, Snapshot, SnapshotReader
from realtime.broker.sweep import Sweep
from realtime.hub.hub import Hub
from realtime.layer.configuration import Configuration
from realtime.layer.queues import Inbox, Sender
from realtime.live.views import Views
from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Attachment
from realtime.redis import clients
from realtime.untrusted.text import LimitedLog

__all__ = ["LoopLayer"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

# If Redis has not confirmed a subscription by then, the consumer's call fails. Otherwise it could wait for ever.
SUBSCRIBE_TIMEOUT_SECONDS = 5.0


class LoopLayer:
    """`RedisChannelLayer` on one event loop; the contracts are documented there."""

    def __init__(self, layer: Configuration) -> None:
        self.configuration = self._layer = layer
        self._now = asyncio.get_running_loop().time
        # The queue of each consumer, by channel.
        self.channels: dict[str, Inbox] = {}
        # Name of a group, with the prefix → its channels → when each expires, by the event loop's clock.
        self.groups: dict[str, dict[str, float]] = {}
        self.shards = [_Shard(number, self) for number in range(len(layer.hosts))]
        self.hub = Hub(self, crypter=layer.crypter)
        self.views = Views(self, crypter=layer.crypter)
        # Distinguishes this event loop from all others, where one of them is to do something.
        self._id = uuid.uuid4().hex
        # Counts the turns of the event loop in which messages arrived.
        self._turn = 0
        # Whether `_end_turn` is scheduled.
        self._turn_ends = False

    def shard(self, topic: str) -> "_Shard":
        """The host of a topic."""
        return self.shards[self._layer.shard_of(topic)]

    # For the hub ------------------------------------------------------------------------------------------------------

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        channel = self._layer.redis_channel(topic)
        return self.shard(topic).attach(channel, on_payloads=on_payloads, on_gap=on_gap)

    async def read_history(self, topic: str, *, after: int | None) -> History:
        return await self.shard(topic).histories.read(topic, after=after)

    # For the views ----------------------------------------------------------------------------------------------------

    async def read_snapshot(self, topic: str, policy: Snapshot) -> Loaded:
        return await self.shard(topic).snapshots.read(topic, policy)

    async def sweep_snapshot(
        self, topic: str, policy: Snapshot, *, history: HistoryPolicy, lease_seconds: float
    ) -> int:
        layer = self._layer
        sweep = Sweep(
            topic,
            policy,
            history=history,
            holder=self._id,
            lease_seconds=lease_seconds,
            keys=layer.keys,
            channel_of=layer.redis_channel,
            crypter=layer.crypter,
        )
        removed_count = await sweep.arun(self.shard(topic).publisher)
        layer.silent_count += removed_count
        return removed_count

    async def read_extents(self, family: str) -> Mapping[bytes, bytes]:
        publisher = self.shards[self._layer.shard_of_family(family)].publisher
        fields: Mapping[bytes, bytes] = await publisher.hgetall(self._layer.keys.family_extents(family))
        return fields

    async def remove_extents(self, family: str, fields: Mapping[bytes, bytes]) -> None:
        publisher = self.shards[self._layer.shard_of_family(family)].publisher
        await remove_extents(publisher, self._layer.keys.family_extents(family), fields)

    # The methods of the channel layer ---------------------------------------------------------------------------------

    async def new_channel(self, prefix: str) -> str:
        channel = f"{self._layer.prefix}{prefix}{uuid.uuid4().hex}"
        await self._open_inbox(channel)
        return channel

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        await self._shard_of_name(channel).publish(channel, self._layer.serialize(message))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        await self.send(self._layer.group_name(group), message)

    async def receive(self, channel: str) -> Any:
        inbox = self.channels.get(channel)
        if inbox is None:
            inbox = await self._open_inbox(channel)
        while True:
            inbox.reader_count += 1
            try:
                payload = await inbox.get()
            except BaseException:
                inbox.reader_count -= 1
                # The consumer that waited has left.
                self._close_inbox(channel, inbox)
                raise
            inbox.reader_count -= 1
            try:
                return self._layer.deserialize(payload)
            except Exception as error:
                # Encrypted with another key, or not from a channel layer at all. The consumer continues.
                self._layer.unreadable_count += 1
                _log.warning("message", "a message for %s cannot be read: %r", channel, payload[:100], error=error)

    async def group_add(self, group: str, channel: str) -> None:
        inbox = self.channels.get(channel)
        if inbox is None:
            raise RuntimeError(
                f"{channel} cannot be added to {group}: it does not belong to this event loop. A consumer adds "
                "itself: group_add(group, self.channel_name)"
            )
        name = self._layer.group_name(group)
        self.groups.setdefault(name, {})[channel] = self._now() + self._layer.group_expiry
        inbox.groups.add(name)
        try:
            await self._shard_of_name(name).subscribe(name)
        except BaseException:
            self._leave(name, channel)
            raise

    async def group_discard(self, group: str, channel: str) -> None:
        self._leave(self._layer.group_name(group), channel)

    async def flush(self) -> None:
        await self.hub.close()
        await self.views.close()
        self.channels.clear()
        self.groups.clear()
        # If one fails, the others are still flushed.
        async with contextlib.AsyncExitStack() as flushing:
            for shard in self.shards:
                flushing.push_async_callback(shard.flush)

    def _shard_of_name(self, name: str) -> "_Shard":
        return self.shards[self._layer.shard_of_name(name)]

    async def _open_inbox(self, channel: str) -> "Inbox":
        inbox = self.channels[channel] = Inbox(self._layer.capacity_of(channel), self._layer.capacity_bytes)
        try:
            await self._shard_of_name(channel).subscribe(channel)
        except BaseException:
            self._close_inbox(channel, inbox)
            raise
        return inbox

    def _close_inbox(self, channel: str, inbox: "Inbox") -> None:
        """Remove a channel without receivers; does nothing if there is one, or the name has another inbox now."""
        if inbox.reader_count or self.channels.get(channel) is not inbox:
            return
        for name in tuple(inbox.groups):
            self._leave(name, channel)
        del self.channels[channel]
        self._shard_of_name(channel).unsubscribe(channel)

    def _leave(self, name: str, channel: str) -> None:
        members = self.groups.get(name)
        if members is None or members.pop(channel, None) is None:
            return
        if channel in self.channels:
            self.channels[channel].groups.discard(name)
        if not members:
            del self.groups[name]
            self._shard_of_name(name).unsubscribe(name)

    # From the shards --------------------------------------------------------------------------------------------------

    def take(self, name: str, payloads: list[bytes]) -> None:
        """Queue messages for the consumers of a channel or a group."""
        if not self._turn_ends:
            self._turn_ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        if any(payload.startswith(BATCH_MARK) for payload in payloads):
            parts = [split_batch(payload) if payload.startswith(BATCH_MARK) else [payload] for payload in payloads]
            payloads = list(itertools.chain.from_iterable(parts))
        messages = [each for payload in payloads if (each := self._open(payload)) is not None]
        if name in self.channels:
            self._put(name, messages)
            return
        now = self._now()
        for channel, ends_at in tuple(self.groups.get(name, {}).items()):
            if ends_at > now:
                self._put(channel, messages)
            else:
                self._leave(name, channel)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._turn += 1

    def send_to_all(self, message_type: str | None) -> None:
        """Queue a message that has only a type for every consumer; None for no message."""
        if message_type is not None:
            for channel in self.channels:
                self._put(channel, [{"type": message_type}])

    def _open(self, payload: bytes) -> Any:
        """Decode a publication for queueing; other payloads are decoded by their receiver. None if unreadable."""
        if not payload.startswith(MARK):
            return payload
        publication = parse(payload, self._layer.crypter)
        try:
            if publication is not None:
                return publication.as_event()
        except msgspec.MsgspecError as error:
            # Other messages of the same read must not be lost.
            _log.warning("not JSON", "a publication is not JSON: %r", payload[:100], error=error)
        self._layer.unreadable_count += 1
        return None

    def _put(self, channel: str, messages: Sequence[Any]) -> None:
        inbox = self.channels[channel]
        if inbox.is_full(self._turn):
            self._count_dropped(channel, len(messages))
            return
        for message in messages:
            inbox.put_nowait(message)

    def _count_dropped(self, channel: str, count: int) -> None:
        before = self._layer.dropped_count
        self._layer.dropped_count += count
        if before.bit_length() < self._layer.dropped_count.bit_length():
            # Logged after about 1, 2, 4, 8, … messages: a stuck consumer must not fill the log.
            logger.warning(
                "the consumer of %s is too slow: %d messages wait for it, and new ones are dropped "
                "(dropped so far in this process: %d)",
                channel,
                self.channels[channel].qsize(),
                self._layer.dropped_count,
            )


class _Shard:
    """One Redis host on one event loop. Its connections are opened when they are first needed."""

    def __init__(self, number: int, loop_layer: LoopLayer) -> None:
        self._number, self._loop_layer = number, loop_layer
        self._layer = layer = loop_layer.configuration
        host = layer.hosts[number]
        timeout_seconds = clients.CALLER_TIMEOUT_SECONDS
        self.publisher = clients.async_publisher(host, timeout_seconds=timeout_seconds, retries=0)
        self.histories = HistoryReader(self.publisher, keys=layer.keys, crypter=layer.crypter)
        self.snapshots = SnapshotReader(self.publisher, keys=layer.keys, crypter=layer.crypter)
        self._sender = Sender(self.publisher)
        # Created when the first subscription needs it: sync code that publishes has a new event loop for each call.
        self._reader: redis.asyncio.Redis | None = None
        self._multiplexer: Multiplexer | None = None
        # Subscriptions for consumers, by the name of the channel or group in Channels.
        self._attachments: dict[str, Attachment] = {}

    async def publish(self, channel: str, message: bytes) -> None:
        await self._sender.publish(self._redis_name(channel), message)

    async def subscribe(self, channel: str) -> None:
        attachment = self._attachments.get(channel)
        if attachment is None:
            attachment = self._attachments[channel] = self.attach(
                self._redis_name(channel),
                on_payloads=lambda payloads: self._loop_layer.take(channel, payloads),
                on_gap=lambda: None,
            )
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_SECONDS):
                await attachment.ready()
        except TimeoutError as error:
            raise redis.exceptions.TimeoutError(
                f"could not subscribe to {channel} within {SUBSCRIBE_TIMEOUT_SECONDS:g} s: Redis is unavailable"
            ) from error

    def unsubscribe(self, channel: str) -> None:
        attachment = self._attachments.pop(channel, None)
        if attachment is not None:
            attachment.detach()

    def attach(
        self, channel: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        if self._multiplexer is None:
            layer = self._layer
            self._reader = self._reader or clients.async_reader(layer.hosts[self._number])
            self._multiplexer = Multiplexer(
                self._reader,
                publisher=self.publisher,
                probe_channel=self._redis_name(f"{layer.prefix}__probe"),
                on_lost=lambda: self._loop_layer.send_to_all(layer.on_disconnect),
                on_back=lambda: self._loop_layer.send_to_all(layer.on_reconnect),
            )
            # Runs until flush(), which is called before the loop is closed.
            self._multiplexer.start()
        return self._multiplexer.attach(channel, on_payloads=on_payloads, on_gap=on_gap)

    def _redis_name(self, name: str) -> str:
        return self._layer.redis_name(name, self._number)

    async def flush(self) -> None:
        multiplexer, self._multiplexer = self._multiplexer, None
        self._attachments.clear()
        if multiplexer is not None:
            await multiplexer.stop()
        await self.histories.stop()
        await self.snapshots.stop()
        try:
            await clients.close(self.publisher)
        finally:
            if self._reader is not None:
                await clients.close(self._reader)
