"""
Limits for each transport: how many messages are sent at a time, and how many per second.

Each transport has its own slots, so that a slow transport does not use up those of others. Owns the slots, the rate,
and when a transport counts as saturated. Does not own sending (bot) or postponing deliveries (claim).
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Limit", "Slots", "TransportSlots"]

# The longest wait for a slot while other transports are in use. After that, the transport counts as saturated.
WAIT_SECONDS = 2.0
# How long a transport counts as saturated. Deliveries do not wait for its slots then: they get a free one, or are
# postponed.
SATURATED_SECONDS = 30.0
# A transport counts as in use for this long after its last message.
IN_USE_SECONDS = 60.0
# How often a task that waits for the rate limit checks whether the slots are closed.
CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The limits of one transport."""

    # The most messages that are sent at a time.
    slots: int
    # The most messages that begin in a second; None for no limit.
    rate_per_second: float | None = None


class TransportSlots:
    """The slots of one transport, and its rate. For the rate, a message begins when its slot is taken."""

    def __init__(self, limit: Limit) -> None:
        self._semaphore = asyncio.Semaphore(limit.slots)
        # The shortest time between the beginnings of two messages.
        self._interval_seconds = 1.0 / limit.rate_per_second if limit.rate_per_second else 0.0
        # When the next message may begin, by the monotonic clock.
        self._next_at = -math.inf
        # How many tasks have a slot and wait because of the rate.
        self._pacing_count = 0
        # Until when the transport counts as saturated, by the monotonic clock.
        self._saturated_until = -math.inf
        # When the last message ended, by the monotonic clock.
        self._used_at = -math.inf

    @property
    def is_in_use(self) -> bool:
        """Whether a message was sent recently."""
        return time.monotonic() - self._used_at < IN_USE_SECONDS

    @property
    def is_saturated(self) -> bool:
        """Whether a task recently waited for a slot and got none. Other tasks do not wait then."""
        return time.monotonic() < self._saturated_until

    def mark_saturated(self) -> None:
        """A task has waited for a slot and got none."""
        self._saturated_until = time.monotonic() + SATURATED_SECONDS

    @property
    def rate_wait_seconds(self) -> float:
        """How long until the rate allows the next message; 0 if it does now, or if no slot is free anyway."""
        return 0.0 if self._semaphore.locked() else max(0.0, self._next_at - time.monotonic())

    async def take_free(self) -> bool:
        """Take a slot if one is free and no task waits for it. Does not wait."""
        if self._semaphore.locked() or self._pacing_count or time.monotonic() < self._next_at:
            return False
        await self._semaphore.acquire()
        self._begin()
        return True

    async def wait(self) -> bool:
        """Wait for a slot; False after WAIT_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await self._semaphore.acquire()
                try:
                    await self.pace()
                except BaseException:
                    self._semaphore.release()
                    raise
            return True
        return False

    async def pace(self) -> None:
        """Wait until the rate allows one more message, and count it."""
        self._pacing_count += 1
        try:
            while (seconds := self._next_at - time.monotonic()) > 0:  # noqa: ASYNC110 - waits for a time
                await asyncio.sleep(seconds)
        finally:
            self._pacing_count -= 1
        self._begin()

    def _begin(self) -> None:
        self._next_at = max(time.monotonic(), self._next_at) + self._interval_seconds

    def give_back(self, *, was_used: bool) -> None:
        """Give back a slot that was taken."""
        if was_used:
            self._used_at = time.monotonic()
        else:
            self._next_at -= self._interval_seconds
        self._semaphore.release()


class Slots:
    """
    The slots of all transports.

    Args:
        names: The names of the transports.
        slots: The most messages that are sent at a time on each transport.
        limits: The limits of the transports that have their own, by name.

    Guarantees:
        Slots are given in the order of the requests. Waits are short where a wait would block other transports, and
        only there.
    """

    def __init__(self, names: Iterable[str], *, slots: int, limits: Mapping[str, Limit] | None = None) -> None:
        # Whether slots are no longer given.
        self.is_closed = False
        own = limits or {}
        self._slots = {name: TransportSlots(own.get(name, Limit(slots=slots))) for name in names}
        # Set when a slot is given back, and when the slots are closed.
        self._freed = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    async def take_free(self) -> tuple[frozenset[str], frozenset[str]]:
        """
        Take a free slot of each transport that has one. Waits until there is at least one, or the slots are closed.

        Returns:
            The names of the transports whose slot was taken, and those of the others.
        """
        while not self.is_closed:
            taken = frozenset([name for name, each in self._slots.items() if await each.take_free()])
            if taken or not self._slots:
                return taken, frozenset(self._slots) - taken
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                # If a slot is free and only the rate forbids a message, no slot will be given back: wait for the time.
                waits = [seconds for each in self._slots.values() if (seconds := each.rate_wait_seconds)]
                async with asyncio.timeout(min(waits, default=None)):
                    await self._freed.wait()
        return frozenset(), frozenset(self._slots)

    def close(self) -> None:
        """Give no more slots. Tasks that wait for one stop waiting."""
        self.is_closed = True
        self._freed.set()

    def give_back(self, name: str, *, was_used: bool) -> None:
        """Give back a slot that was taken."""
        self._slots[name].give_back(was_used=was_used)
        self._freed.set()

    def saturated(self, names: Iterable[str]) -> frozenset[str]:
        """The saturated ones among these transports."""
        return frozenset(name for name in names if self._slots[name].is_saturated)

    async def pace(self, name: str) -> None:
        """Wait until the rate allows one more message in a slot that is taken, or until the slots are closed."""
        while not self.is_closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    return await self._slots[name].pace()

    async def wait(self, name: str) -> bool:
        """Wait for a slot; False if the slots are closed, or if the transport is saturated and others are in use."""
        while not await self._slots[name].wait():
            if self.is_closed:
                return False
            if any(each.is_in_use for other, each in self._slots.items() if other != name):
                self._slots[name].mark_saturated()
                return False
        if self.is_closed:
            self.give_back(name, was_used=False)
        return not self.is_closed
