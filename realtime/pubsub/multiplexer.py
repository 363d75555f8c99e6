"""
One Redis pub/sub connection, shared by any number of local subscribers to channels and glob patterns.

Owns the connection: opening, reading, probing and reopening it. Does not own the buffers of subscribers (subscriptions)
nor who is subscribed to what (subscription_table).
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import redis.asyncio
from redis.exceptions import RedisError

from realtime.exceptions import SubscriptionClosed
from realtime.pubsub.subscription_table import NameTable
from realtime.pubsub.subscriptions import Attachment, Listener, ListenerCounters, Subscription
from realtime.redis.backoff import Backoff
from realtime.redis.reply_stream import ReplyStream
from realtime.statistics import MultiplexerStatistics, register, unregister

__all__ = ["Multiplexer"]

logger = logging.getLogger(__name__)

# Names in one command: after a reconnect, 100,000 names must be neither one huge command nor 100,000 commands.
NAMES_PER_COMMAND = 1_000
CONNECT_TIMEOUT_SECONDS = 5.0


class Multiplexer:
    """
    Shares one pub/sub connection among local subscribers. An async context manager; belongs to one event loop.

    Args:
        reader: Opens the connection: a client without a socket timeout (`clients.async_reader`).
        publisher: Sends the probes (`clients.async_publisher`).
        probe_channel: The beginning of the Redis channel of the probes; a random part is added.
        probe_after_seconds: How long the connection may be silent before a probe is published.
        probe_timeout_seconds: If a probe does not arrive within this time, the connection is replaced.
        backoff: The waits between attempts to connect. The first attempt after a loss is made at once.
        on_lost: Called on the event loop when the connection is lost.
        on_back: Called on the event loop when everything is subscribed again.

    Guarantees:
        Every message that Redis sends for a name reaches every subscriber whose subscription to the name was confirmed
        before, in publish order per channel. Otherwise the subscriber is notified of a loss (`Subscription.receive`).
        A lost connection is reopened and everything resubscribed; each subscriber is notified of the gap.
    """

    def __init__(
        self,
        reader: redis.asyncio.Redis,
        *,
        publisher: redis.asyncio.Redis,
        probe_channel: str,
        probe_after_seconds: float = 30.0,
        probe_timeout_seconds: float = 5.0,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
        on_lost: Callable[[], None] | None = None,
        on_back: Callable[[], None] | None = None,
    ) -> None:
        self._on_lost, self._on_back = on_lost, on_back
        self._reader, self._publisher, self._backoff = reader, publisher, backoff
        self._probe_after_seconds, self._probe_timeout_seconds = probe_after_seconds, probe_timeout_seconds
        # Which names are subscribed, here and in Redis.
        self._names = NameTable()
        # Set when the table has changed and the sender has not looked since.
        self._change_happened = asyncio.Event()
        # Listeners that got a message in the current read; `_flush` is called for them at its end.
        self._touched: list[Listener] = []
        self._stream: ReplyStream | None = None
        self._task: asyncio.Task[None] | None = None
        # The multiplexer's own subscription, on which its probes come back; not counted in the statistics.
        self._probe_channel = f"{probe_channel}:{uuid.uuid4().hex}"
        self._probe_listener: Attachment | None = None
        self._echo = asyncio.Event()
        # The event loop's clock, and when the last reply of any kind arrived.
        self._now: Callable[[], float] = time.monotonic
        self._last_reply_at = 0.0
        # Whether `on_lost` was called and `on_back` was not.
        self._is_lost = False
        # Consecutive connections that could not be opened, or were lost before everything was subscribed.
        self._failures = 0
        # See MultiplexerStatistics.
        self._received_count = self._batch_count = self._lost_connection_count = self._deaf_count = 0
        self._listener_counters = ListenerCounters()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to connect, without waiting, until `stop`. Entering the context manager does the same."""
        self._task = asyncio.create_task(self._run(), name="multiplexer")
        register(self, starts_pushing=True)
        self._probe_listener = self.attach(
            self._probe_channel, on_payloads=lambda _: self._echo.set(), on_gap=lambda: None
        )

    def subscribe(self, *channels: str, patterns: Iterable[str] = (), high_water_mark: int = 4_096) -> Subscription:
        """
        Subscribe to channels and glob patterns: ``async with multiplexer.subscribe("a", "b") as subscription``.

        Args:
            channels: Redis channel names.
            patterns: Redis glob patterns. A message that matches a channel and a pattern arrives twice, as Redis sends
                it.
            high_water_mark: The most messages held for this subscriber. Beyond it the oldest are dropped, and
                `receive` reports it.

        Guarantees:
            Once entered, every later message arrives. Leaving does not affect other subscribers of the same name.
        """

        async def attach(listener: Listener) -> None:
            self._register(listener, channels, patterns)
            try:
                await listener._wait_ready()
            except BaseException:
                self._remove(listener)
                raise

        return Subscription(
            attach=attach, detach=self._remove, high_water_mark=high_water_mark, counters=self._listener_counters
        )

    def attach(
        self, channel: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Subscribe to a channel with callbacks, without waiting; see `Attachment`."""
        attachment = Attachment(
            on_payloads=on_payloads, on_gap=on_gap, detach=self._remove, counters=self._listener_counters
        )
        self._register(attachment, [channel], [])
        return attachment

    async def stop(self) -> None:
        """Close the connection and end all subscriptions; messages they hold can still be received. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        for listener in self._names.listeners():
            self._remove(listener)
        unregister(self)

    def statistics(self) -> MultiplexerStatistics:
        """The counters of this multiplexer now; its own probe is not among the names and listeners."""
        own_count = int(self._probe_listener in self._names)
        return MultiplexerStatistics(
            connected_count=int(self._stream is not None),
            name_count=self._names.wanted_count - own_count,
            listener_count=self._names.listener_count - own_count,
            received_count=self._received_count,
            batch_count=self._batch_count,
            dropped_count=self._listener_counters.dropped_count,
            failed_count=self._listener_counters.failed_count,
            lost_connection_count=self._lost_connection_count,
            deaf_count=self._deaf_count,
        )

    def _register(self, listener: Listener, channels: Iterable[str], patterns: Iterable[str]) -> None:
        if self._task is None:
            raise SubscriptionClosed
        self._names.join(listener, channels, patterns)
        self._change_happened.set()

    def _remove(self, listener: Listener) -> None:
        if self._names.leave(listener):
            self._change_happened.set()
            listener._close()

    # The connection: opened, used, lost, reopened ---------------------------------------------------------------------

    async def _run(self) -> None:
        # Cancelling the task is not enough: before Python 3.13, a task group swallows a cancellation that arrives while
        # it aborts its tasks because one has failed.
        while self._task is not None:
            try:
                await self._use_connection(await self._connect())
            except* (RedisError, OSError, TimeoutError) as errors:
                # One line for each outage, whatever the number of attempts.
                if not self._failures:
                    logger.warning("the Redis subscription is lost, reconnecting: %s", errors.exceptions[0])
            except* Exception:
                logger.exception("unexpected error on the Redis subscription, reconnecting")
            finally:
                await self._drop_connection()
            # The first attempt does not wait: most lost connections can be reopened at once, and a wait widens the gap.
            if self._failures and self._task is not None:
                await asyncio.sleep(self._backoff.delay_seconds(self._failures - 1))
            self._failures += 1

    async def _connect(self) -> ReplyStream:
        stream = ReplyStream(on_reply=self._take_reply, on_drained=self._flush)
        # Without a timeout, a server that accepts but never answers would block the handshake for ever.
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await stream.open(self._reader)
        self._stream = stream
        self._now = asyncio.get_running_loop().time
        self._last_reply_at = self._now()
        self._change_happened.set()
        return stream

    async def _use_connection(self, stream: ReplyStream) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_changes(stream), name="multiplexer sender")
            tasks.create_task(self._probe(), name="multiplexer probe")
            await stream.lost

    async def _drop_connection(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        await stream.close()
        self._names.connection_lost()
        # Not when the multiplexer is being stopped.
        if self._task is not None:
            self._lost_connection_count += 1
            self._notify_lost()

    async def _send_changes(self, stream: ReplyStream) -> None:
        while True:
            await self._change_happened.wait()
            # All subscriptions of this tick go into the same command.
            await asyncio.sleep(0)
            self._change_happened.clear()
            for command, names in self._names.take_commands().items():
                for start in range(0, len(names), NAMES_PER_COMMAND):
                    stream.send(command, *names[start : start + NAMES_PER_COMMAND])
            if self._is_lost or self._failures:
                # Redis answers in order: when this comes back, all of them are subscribed.
                stream.send(b"PING")

    def _notify_lost(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            if self._on_lost is not None:
                self._on_lost()

    def _notify_back(self) -> None:
        if self._failures:
            # Only now, not when connected: a server that refuses to subscribe would otherwise be asked without a pause.
            self._failures = 0
            logger.info("Redis is available again: %d names are subscribed again", self.statistics().name_count)
        if self._is_lost:
            self._is_lost = False
            if self._on_back is not None:
                self._on_back()

    def _take_reply(self, reply: list[Any]) -> None:
        kind = reply[0]
        if kind == b"message":
            name = self._names.channels.get(reply[1])
            if name is not None and name.is_live:
                self._received_count += 1
                data, text = reply[2], name.text
                for listener in name.listeners:
                    if listener._push(text, data, None):
                        self._touched.append(listener)
        elif kind == b"pmessage":
            name = self._names.patterns.get(reply[1])
            if name is not None and name.is_live:
                self._received_count += 1
                channel = reply[2].decode(errors="surrogateescape")
                for listener in name.listeners:
                    if listener._push(channel, reply[3], name.text):
                        self._touched.append(listener)
        elif kind == b"pong":
            self._notify_back()
        else:
            self._names.take_answer(reply[1], is_pattern=kind.startswith(b"p"))

    def _flush(self) -> None:
        """End of a batch: everything that the socket held has been read."""
        self._last_reply_at = self._now()
        self._batch_count += 1
        touched, self._touched = self._touched, []
        for listener in touched:
            listener._flush()

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silent_seconds = loop.time() - self._last_reply_at
            if silent_seconds < self._probe_after_seconds:
                await asyncio.sleep(self._probe_after_seconds - silent_seconds)
                continue
            asked_at = loop.time()
            self._echo.clear()
            await self._publisher.publish(self._probe_channel, b"")
            try:
                async with asyncio.timeout(self._probe_timeout_seconds):
                    await self._echo.wait()
            except TimeoutError:
                if self._last_reply_at >= asked_at:
                    continue
                self._deaf_count += 1
                raise TimeoutError(
                    f"the connection is dead: silent for {silent_seconds:.1f} s, and a probe did not arrive within "
                    f"{self._probe_timeout_seconds} s"
                ) from None
