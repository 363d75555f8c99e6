"""Long work on the event loop: it makes way for other tasks when its slice of time is used up."""

import asyncio
from typing import Final

__all__ = ["Pause"]

_SLICE_SECONDS: Final = 0.004


class Pause:
    """One piece of work; begins with its creation."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _SLICE_SECONDS

    async def make_way(self) -> None:
        """Let other tasks run, if the slice is used up."""
        if self._loop.time() >= self._until:
            await asyncio.sleep(0)
            self._until = self._loop.time() + _SLICE_SECONDS
