"""
The subscriber's side of the multiplexer: what a subscriber holds, gets and is told.

Owns the buffers of subscribers and their limits. Does not own Redis names or the connection: see `multiplexer`.
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

__all__ = ["Attachment", "Listener", "ListenerCounters", "Message", "Subscription"]

logger = logging.getLogger(__name__)


class Message(msgspec.Struct, frozen=True, gc=False):
    """
    One message of a Redis channel.

    Attributes:
        channel: The Redis channel it was published on.
        data: The bytes as published.
        pattern: The glob pattern it matched, when it came by a pattern subscription.
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

    The multiplexer calls the underscored methods, on its event loop, in the order of Redis's replies.
    """

    __slots__ = ("_counters", "_gap_is_due", "_ready", "_unconfirmed_count")

    def __init__(self, counters: ListenerCounters) -> None:
        self._counters = counters
        # How many of its names Redis has yet to confirm on the present connection.
        self._unconfirmed_count = 0
        # Whether a connection was lost under it and it has not been told.
        self._gap_is_due = False
        # Done when all of its names are live for the first time; failed when the multiplexer stops before.
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_live(self) -> bool:
        """Whether Redis has confirmed all of its names on the present connection."""
        return self._ready.done() and not self._unconfirmed_count

    async def _wait_ready(self) -> None:
        if self._ready.done():
            self._ready.result()
        else:
            # Others may be waiting for it too.
            await asyncio.shield(self._ready)

    @abstractmethod
    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        """Hold one message; never runs foreign code. Says whether `_hand_on` is to be called when the batch is over."""

    @abstractmethod
    def _hand_on(self) -> None:
        """A batch is complete: let the subscriber have what is held."""

    @abstractmethod
    def _tell_gap(self) -> None:
        """Messages may be missing between what was pushed before and what is pushed after."""

    def _expect(self, unconfirmed_count: int) -> None:
        """It has joined its names, so many of which are not live yet."""
        self._unconfirmed_count = unconfirmed_count
        if not unconfirmed_count:
            self._ready.set_result(None)

    def _confirm(self) -> None:
        """One of its names has become live."""
        self._unconfirmed_count -= 1
        if self._unconfirmed_count:
            return
        gap_is_due, self._gap_is_due = self._gap_is_due, False
        if not self._ready.done():
            # It was promised nothing before this moment, so it has missed nothing.
            self._ready.set_result(None)
        elif gap_is_due:
            self._tell_gap()

    def _lose(self) -> None:
        """One of its names is live no more, as the connection was lost."""
        self._unconfirmed_count += 1
        self._gap_is_due = True

    def _close(self) -> None:
        """It has left, or the multiplexer has stopped: nothing will come any more."""
        if not self._ready.done():
            self._ready.set_exception(SubscriptionClosed())
            # Whether somebody waits for it or nobody, both are fine.
            self._ready.exception()


class Subscription(Listener):
    """
    A subscription as an async context manager and async iterator; made by `Multiplexer.subscribe`.

    Entering waits until Redis has confirmed every name, as long as Redis is away if need be. For one reader at a time.
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
        # How many messages were dropped since the subscriber was last told of it.
        self._untold_dropped_count = 0
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
        """As `receive`, but a stopped multiplexer ends the iteration. After an error, iterating again goes on."""
        try:
            return await self.receive()
        except SubscriptionClosed:
            raise StopAsyncIteration from None

    @property
    def held_count(self) -> int:
        """How many messages wait to be received."""
        return len(self._held)

    async def receive(self) -> Message:
        """
        Wait for the next message of this subscription.

        Returns:
            The oldest one held, in publish order per Redis channel.

        Raises:
            SubscriberTooSlow: Once after an overflow, before the messages that are still held.
            SubscriptionGap: Once after the connection was lost and every name is subscribed again, before the first
                message that came after the loss.
            SubscriptionClosed: It was left or the multiplexer has stopped, and nothing is held any more.

        Guarantees:
            At most ``high_water_mark`` messages are held; of more, the oldest are dropped and counted.
            Cancelling is safe: nothing is lost, the next call returns the same message.
        """
        while not self._held and not self._untold_dropped_count:
            if self._is_closed:
                raise SubscriptionClosed
            self._wakeup.clear()
            await self._wakeup.wait()
        if dropped_count := self._untold_dropped_count:
            self._untold_dropped_count = 0
            raise SubscriberTooSlow(dropped_count=dropped_count, high_water_mark=self.high_water_mark)
        message = self._held.popleft()
        if message is None:
            raise SubscriptionGap
        return message

    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        if self._gap_is_due:
            # Until all of its names are back and it has been told, what comes is part of the gap.
            return False
        if len(self._held) >= self.high_water_mark:
            # A gap's mark that is dropped is not lost: being too slow is told too, and says the same.
            self._held.popleft()
            self._counters.dropped_count += 1
            self._untold_dropped_count += 1
        self._held.append(Message(channel, data, pattern))
        # Whoever waits for it runs when the whole batch is held.
        self._wakeup.set()
        return False

    def _hand_on(self) -> None: ...

    def _tell_gap(self) -> None:
        self._held.append(None)
        self._wakeup.set()

    def _close(self) -> None:
        super()._close()
        self._is_closed = True
        self._wakeup.set()


class Attachment(Listener):
    """
    A subscription to one channel by callbacks, made by `Multiplexer.attach`: for code that hands on at once.

    ``on_payloads`` is called with the data of everything that one read brought, in publish order, once a read; there is
    no buffer beyond it. ``on_gap`` is called when a lost connection is made again and the channel is subscribed. Both
    run on the event loop and must not block; what they raise is logged and counted, and stops nobody.
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
            SubscriptionClosed: It was detached, or the multiplexer stopped, before.
        """
        await self._wait_ready()

    def detach(self) -> None:
        """Leave: no callback runs after this. Idempotent."""
        self._payloads = []
        self._detach(self)

    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        payloads = self._payloads
        payloads.append(data)
        return len(payloads) == 1

    def _hand_on(self) -> None:
        payloads, self._payloads = self._payloads, []
        if payloads:
            try:
                self._on_payloads(payloads)
            except Exception:
                self._failed()

    def _tell_gap(self) -> None:
        self._hand_on()
        try:
            self._on_gap()
        except Exception:
            self._failed()

    def _failed(self) -> None:
        self._counters.failed_count += 1
        logger.exception("a callback of a subscription failed; the subscription goes on")
