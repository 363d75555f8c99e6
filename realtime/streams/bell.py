"""
What wakes a worker that has nothing to do: a new entry, an entry whose turn has come, room for more.

Owns waiting on the stream without being handed anything. Does not own reading (worker).
"""

import asyncio
import contextlib

from realtime.redis.backoff import Backoff
from realtime.redis.outage import REDIS_ERRORS
from realtime.streams.group import ConsumerGroup

__all__ = ["Bell"]


class Bell:
    """
    Args:
        group: Whose stream is watched.
        block_seconds: The longest single wait on the stream.
    """

    def __init__(self, group: ConsumerGroup, *, block_seconds: float) -> None:
        self._group = group
        self._block_seconds = block_seconds
        # The last id that the group was handed; anything behind it rings.
        self._last_id = b""
        self._listening = asyncio.Event()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the worker."""
        self._rung.set()

    def clear(self) -> None:
        """The worker looks now: what rang before is heard."""
        self._rung.clear()

    def listen(self, last_id: bytes) -> None:
        """Ring when the stream has an entry behind `last_id`; once, and nothing if it listens already."""
        if not self._listening.is_set():
            self._last_id = last_id
            self._listening.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()

    async def watch(self) -> None:
        """For ever: listen when asked to."""
        backoff, failures = Backoff(), 0
        while True:
            await self._listening.wait()
            try:
                await self._group.wait_for_new(self._last_id, self._block_seconds)
                failures = 0
            except REDIS_ERRORS:
                # The worker finds out by itself whether Redis is away, or only this connection was lost.
                await asyncio.sleep(backoff.delay_seconds(failures) if failures else 0)
                failures += 1
            self._listening.clear()
            self.ring()
