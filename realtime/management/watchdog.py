"""
A watchdog that detects a blocked event loop.

Owns the detection, from a thread, and the log lines with the stack of the blocked loop. Does not own what is done about
it (the caller's `on_standstill`).
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["LIMIT_SECONDS", "LoopWatchdog"]

logger = logging.getLogger(__name__)

# A loop that has run nothing for this long counts as blocked. A healthy callback takes less than a tenth of it.
LIMIT_SECONDS = 5.0
# How many times within the limit the loop reports that it runs, and the thread checks.
TICKS = 10


class LoopWatchdog:
    """
    Watches the running event loop from a daemon thread: `async with LoopWatchdog(): …`.

    Args:
        limit_seconds: How long the loop may run nothing before it counts as blocked.
        on_standstill: Called in the watchdog's thread at every tick while the loop is blocked, with the place
            ("bot.py:120 in send") and the duration in seconds.

    Guarantees:
        A standstill is logged once when it is detected, with the loop's stack, and once when it is over. Time in which
        the whole process was stopped (SIGSTOP, a suspended machine) does not count, because the thread was stopped too.
        Code that never releases the GIL cannot be detected from a thread.
    """

    def __init__(
        self, *, limit_seconds: float = LIMIT_SECONDS, on_standstill: Callable[[str, float], None] | None = None
    ) -> None:
        self._tick_seconds = limit_seconds / TICKS
        self._on_standstill = on_standstill
        # How many ticks the loop has run.
        self._beat_count = 0
        # The next tick.
        self._beat: asyncio.TimerHandle | None = None
        # The thread in which the loop runs.
        self._loop_thread = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    async def __aenter__(self) -> Self:
        self._loop_thread = threading.get_ident()
        self._tick()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._beat is not None:
            self._beat.cancel()

    def _tick(self) -> None:
        self._beat_count += 1
        self._beat = asyncio.get_running_loop().call_later(self._tick_seconds, self._tick)

    def _watch(self) -> None:
        """Runs in the thread. Counts its own ticks and reads no clock, so that a stopped process is never reported."""
        seen, idle_count = 0, 0
        while not self._ended.wait(self._tick_seconds):
            if self._beat_count != seen:
                if idle_count >= TICKS:
                    logger.warning("the event loop runs again after %.0f s", idle_count * self._tick_seconds)
                seen, idle_count = self._beat_count, 0
                continue
            idle_count += 1
            if idle_count >= TICKS:
                self._report(idle_count * self._tick_seconds, is_first=idle_count == TICKS)

    def _report(self, seconds: float, *, is_first: bool) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame)
        where = f"{stack[-1].filename}:{stack[-1].lineno} in {stack[-1].name}" if frame and stack else "nowhere"
        if is_first:
            logger.error(
                "the event loop is blocked, for %.0f s so far, and this process does nothing else: it is at %s\n%s",
                *(seconds, where, "".join(traceback.format_list(stack)).rstrip()),
            )
        if self._on_standstill is not None:
            self._on_standstill(where, seconds)
