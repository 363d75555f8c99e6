"""
How many messages are sent at a time, for each transport on its own: a slow one takes no slot of another.

Owns slots and when a transport counts as clogged. Does not own what is sent (bot) nor what waits (deliveries).
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable

__all__ = ["Lane", "Lanes"]

# Who waits so long for a slot makes room for other transports, if there are any in use.
PATIENCE_SECONDS = 2.0
# So long after that nobody waits for the transport: it gets what finds a free slot, and the rest is put off.
CLOGGED_SECONDS = 30.0
# A transport that was sent to so lately is in use.
IN_USE_SECONDS = 60.0


class Lane:
    """The slots of one transport."""

    def __init__(self, slots: int) -> None:
        self._semaphore = asyncio.Semaphore(slots)
        # Until when nobody waits, on the monotonic clock.
        self._clogged_until = -math.inf
        # When the sending of a message last ended, on the monotonic clock.
        self._used_at = -math.inf

    @property
    def is_in_use(self) -> bool:
        """Whether a message was sent lately."""
        return time.monotonic() - self._used_at < IN_USE_SECONDS

    @property
    def is_clogged(self) -> bool:
        """Whether somebody has waited in vain lately, so that nobody waits now."""
        return time.monotonic() < self._clogged_until

    def clog(self) -> None:
        """Somebody has waited in vain."""
        self._clogged_until = time.monotonic() + CLOGGED_SECONDS

    async def take_free(self) -> bool:
        """Take a slot if there is one that nobody waits for. Does not wait."""
        if self._semaphore.locked():
            return False
        await self._semaphore.acquire()
        return True

    async def wait(self) -> bool:
        """Wait for a slot; False if there was none for too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._semaphore.acquire()
            return True
        return False

    def give_back(self, *, was_used: bool) -> None:
        """Let others have a slot that was taken."""
        if was_used:
            self._used_at = time.monotonic()
        self._semaphore.release()


class Lanes:
    """
    One lane for each transport.

    Args:
        names: Of the transports.
        slots: The most messages that are sent at a time, on each.

    Guarantees:
        Who waits for a slot gets one in turn. Where others would be held up by the waiting, and only there, nobody
        waits for long.
    """

    def __init__(self, names: Iterable[str], *, slots: int) -> None:
        # Whether nobody gets a slot any more.
        self.is_closed = False
        self._lanes = {name: Lane(slots) for name in names}
        # Set when a slot was given back, or nobody is to wait any more.
        self._freed = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        return name in self._lanes

    async def take_free(self) -> tuple[frozenset[str], frozenset[str]]:
        """
        Take a slot in each lane that has a free one; wait until one has, or the lanes are closed.

        Returns:
            The names of lanes in which there was one, and of those in which there was none.
        """
        while not self.is_closed:
            taken = frozenset([name for name, lane in self._lanes.items() if await lane.take_free()])
            if taken or not self._lanes:
                return taken, frozenset(self._lanes) - taken
            self._freed.clear()
            await self._freed.wait()
        return frozenset(), frozenset(self._lanes)

    def close(self) -> None:
        """Nobody gets a slot from now on, and those who wait for one hear of it."""
        self.is_closed = True
        self._freed.set()

    def give_back(self, name: str, *, was_used: bool) -> None:
        """Let others have a slot that was taken."""
        self._lanes[name].give_back(was_used=was_used)
        self._freed.set()

    def clogged(self, names: Iterable[str]) -> frozenset[str]:
        """Those of these for whose slots nobody waits now."""
        return frozenset(name for name in names if self._lanes[name].is_clogged)

    async def wait(self, name: str) -> bool:
        """Wait for a slot; False if the lanes are closed, or others need the room more, and the lane is clogged."""
        while not await self._lanes[name].wait():
            if self.is_closed:
                return False
            if any(lane.is_in_use for other, lane in self._lanes.items() if other != name):
                self._lanes[name].clog()
                return False
        if self.is_closed:
            self.give_back(name, was_used=False)
        return not self.is_closed
