"""For long work on the event loop: lets other tasks run each time a slice of time is used up."""

import asyncio
from typing import Final

__all__ = ["Pause"]

_SLICE_SECONDS: Final = 0.004


class Pause:
    """For one piece of work. Its first slice begins when this is created."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _SLICE_SECONDS

    async def make_way(self) -> None:
        """Let other tasks run, if the slice is used up."""
        if self._loop.time() >= self._until:
            await asyncio.sleep(0)
            self._until = self._loop.time() + _SLICE_SECONDS
