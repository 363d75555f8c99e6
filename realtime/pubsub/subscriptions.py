"""
The subscribers' side of the multiplexer.

Owns the buffers of subscribers, their limits, and how subscribers are notified of losses. Does not own Redis names
(subscription_table) nor the connection (multiplexer).
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from realtime.exceptions import SubscriberTooSlow, SubscriptionClosed, SubscriptionGap
from realtime.untrusted.text import LimitedLog

__all__ = ["Attachment", "Listener", "ListenerCounters", "Message", "Subscription"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)


class Message(msgspec.Struct, frozen=True, gc=False):
    """
    One message of a Redis channel.

    Attributes:
        channel: The Redis channel on which it was published.
        data: The bytes as published.
        pattern: The glob pattern that it matched, if it was received through one.
    """

    channel: str
    data: bytes
    pattern: str | None = None


class ListenerCounters:
    """What the listeners of one multiplexer count together; see `MultiplexerStatistics`."""

    __slots__ = ("dropped_count", "failed_count")

    def __init__(self) -> None:
        self.dropped_count = self.failed_count = 0


class Listener(ABC):
    """
    One local subscriber to a set of Redis names.

    The multiplexer calls the methods with an underscore, on its event loop, in the order of Redis's replies.
    """

    __slots__ = ("_counters", "_has_gap", "_ready", "_unconfirmed_count")

    def __init__(self, counters: ListenerCounters) -> None:
        self._counters = counters
        # How many of its names Redis has not confirmed yet on the current connection.
        self._unconfirmed_count = 0
        # Whether its connection was lost and it was not notified yet.
        self._has_gap = False
        # Done when all of its names are live for the first time; failed if the multiplexer stops before.
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_live(self) -> bool:
        """Whether Redis has confirmed all of its names on the current connection."""
        return self._ready.done() and not self._unconfirmed_count

    async def _wait_ready(self) -> None:
        if self._ready.done():
            self._ready.result()
        else:
            # Others may be waiting for it too.
            await asyncio.shield(self._ready)

    @abstractmethod
    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        """Hold one message; never calls foreign code. Returns whether `_flush` must be called after the batch."""

    @abstractmethod
    def _flush(self) -> None:
        """A batch is complete: deliver what is held."""

    @abstractmethod
    def _notify_gap(self) -> None:
        """Notify the subscriber that messages may be missing at this place."""

    def _expect(self, unconfirmed_count: int) -> None:
        """It was added to its names; this many of them are not live yet."""
        self._unconfirmed_count = unconfirmed_count
        if not unconfirmed_count:
            self._ready.set_result(None)

    def _confirm(self) -> None:
        """One of its names has become live."""
        self._unconfirmed_count -= 1
        if self._unconfirmed_count:
            return
        has_gap, self._has_gap = self._has_gap, False
        if not self._ready.done():
            # Before this moment nothing was guaranteed, so nothing is missing.
            self._ready.set_result(None)
        elif has_gap:
            self._notify_gap()

    def _lose(self) -> None:
        """One of its names is no longer live, because the connection was lost."""
        self._unconfirmed_count += 1
        self._has_gap = True

    def _close(self) -> None:
        """It has left, or the multiplexer has stopped: no more messages will arrive."""
        if not self._ready.done():
            self._ready.set_exception(SubscriptionClosed())
            # Marks the exception as retrieved, because perhaps nobody waits.
            self._ready.exception()


class Subscription(Listener):
    """
    A subscription as an async context manager and async iterator; created by `Multiplexer.subscribe`.

    Entering waits until Redis has confirmed every name, even through an outage. For one reader at a time.
    """

    def __init__(
        self,
        *,
        attach: Callable[[Listener], Awaitable[None]],
        detach: Callable[[Listener], None],
        high_water_mark: int,
        counters: ListenerCounters,
    ) -> None:
        if high_water_mark < 1:
            raise ValueError(f"high_water_mark is {high_water_mark}, it must be at least 1")
        super().__init__(counters)
        self.high_water_mark = high_water_mark
        self._attach, self._detach = attach, detach
        # Messages not yet received, oldest first; None marks the place of a gap.
        self._held: deque[Message | None] = deque()
        # How many dropped messages `receive` has not reported yet.
        self._unreported_dropped_count = 0
        self._is_closed = False
        self._wakeup = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._attach(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """As `receive`, but a stopped multiplexer ends the iteration. After an error, iteration may continue."""
        try:
            return await self.receive()
        except SubscriptionClosed:
            raise StopAsyncIteration from None

    @property
    def held_count(self) -> int:
        """How many messages are waiting to be received."""
        return len(self._held)

    async def receive(self) -> Message:
        """
        Wait for the next message of this subscription.

        Returns:
            The oldest message held; messages are in publish order per Redis channel.

        Raises:
            SubscriberTooSlow: Once after an overflow, before the messages that are still held.
            SubscriptionGap: Once after the connection was lost and every name is subscribed again, before the first
                message that arrived after the loss.
            SubscriptionClosed: The subscription was left or the multiplexer has stopped, and nothing is held.

        Guarantees:
            At most ``high_water_mark`` messages are held; beyond that the oldest are dropped and counted.
            Cancelling is safe: nothing is lost, and the next call returns the same message.
        """
        while not self._held and not self._unreported_dropped_count:
            if self._is_closed:
                raise SubscriptionClosed
            self._wakeup.clear()
            await self._wakeup.wait()
        if dropped_count := self._unreported_dropped_count:
            self._unreported_dropped_count = 0
            raise SubscriberTooSlow(dropped_count=dropped_count, high_water_mark=self.high_water_mark)
        message = self._held.popleft()
        if message is None:
            raise SubscriptionGap
        return message

    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        if self._has_gap:
            # Messages are part of the gap until all names are subscribed again and the subscriber is notified.
            return False
        if len(self._held) >= self.high_water_mark:
            # If this drops the mark of a gap, nothing is lost: SubscriberTooSlow says the same.
            self._held.popleft()
            self._counters.dropped_count += 1
            self._unreported_dropped_count += 1
        self._held.append(Message(channel, data, pattern))
        # The reader runs after the whole batch is held.
        self._wakeup.set()
        return False

    def _flush(self) -> None: ...

    def _notify_gap(self) -> None:
        self._held.append(None)
        self._wakeup.set()

    def _close(self) -> None:
        super()._close()
        self._is_closed = True
        self._wakeup.set()


class Attachment(Listener):
    """
    A subscription to one channel with callbacks instead of a buffer, created by `Multiplexer.attach`.

    ``on_payloads`` is called once for each read, with the data of all its messages, in publish order. ``on_gap`` is
    called when a lost connection was reopened and the channel is subscribed again. Both run on the event loop and must
    not block. If they raise, it is logged and counted, and the subscription continues.
    """

    __slots__ = ("_detach", "_on_gap", "_on_payloads", "_payloads")

    def __init__(
        self,
        *,
        on_payloads: Callable[[list[bytes]], None],
        on_gap: Callable[[], None],
        detach: Callable[[Listener], None],
        counters: ListenerCounters,
    ) -> None:
        super().__init__(counters)
        self._on_payloads, self._on_gap, self._detach = on_payloads, on_gap, detach
        self._payloads: list[bytes] = []

    async def ready(self) -> None:
        """
        Wait until Redis has confirmed the channel for the first time.

        Raises:
            SubscriptionClosed: It was detached before, or the multiplexer stopped.
        """
        await self._wait_ready()

    def detach(self) -> None:
        """Unsubscribe: no callback runs after this. Idempotent."""
        self._payloads = []
        self._detach(self)

    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        payloads = self._payloads
        payloads.append(data)
        return len(payloads) == 1

    def _flush(self) -> None:
        payloads, self._payloads = self._payloads, []
        if payloads:
            try:
                self._on_payloads(payloads)
            except Exception as error:
                self._failed(error)

    def _notify_gap(self) -> None:
        self._flush()
        try:
            self._on_gap()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._counters.failed_count += 1
        _log.exception("callback", error, "a callback of a subscription failed; the subscription continues")
