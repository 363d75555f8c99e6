"""
Wakes a waiting worker: for a new entry, for a backlog that is due, or when there is room for more entries.

Owns waiting for new entries without reading them. Does not own reading (worker).
"""

import asyncio
import contextlib

from realtime.redis.backoff import Backoff
from realtime.redis.outage import REDIS_ERRORS
from realtime.streams.group import ConsumerGroup

__all__ = ["Wakeup"]


class Wakeup:
    """
    Args:
        group: The group whose stream is watched.
        block_seconds: The longest single wait on the stream.
    """

    def __init__(self, group: ConsumerGroup, *, block_seconds: float) -> None:
        self._group = group
        self._block_seconds = block_seconds
        # The last id that was delivered to the group; any later entry wakes the worker.
        self._last_id = b""
        self._watching = asyncio.Event()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Wake the worker, now or in its next wait."""
        self._woken.set()

    def clear(self) -> None:
        """Forget earlier wakeups: the worker looks for entries now."""
        self._woken.clear()

    def watch(self, last_id: bytes) -> None:
        """Wake the worker once when the stream has an entry after `last_id`. Does nothing if it watches already."""
        if not self._watching.is_set():
            self._last_id = last_id
            self._watching.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a wakeup, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def run(self) -> None:
        """Watch the stream whenever `watch` was called, until cancelled."""
        backoff, failures = Backoff(), 0
        while True:
            await self._watching.wait()
            try:
                await self._group.wait_for_new(self._last_id, self._block_seconds)
                failures = 0
            except REDIS_ERRORS:
                # The worker's own calls show whether Redis is unavailable or only this connection was lost.
                await asyncio.sleep(backoff.delay_seconds(failures) if failures else 0)
                failures += 1
            self._watching.clear()
            self.wake()
