"""Waiting for facts instead of time, and judging times by what the code itself takes."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Self

__all__ = ["Standstill", "is_done_within", "wait_until", "wait_until_sync"]

DEADLINE_SECONDS = 60.0
TICK_SECONDS = 0.01


class Standstill:
    """
    `async with Standstill() as stood:` tells in `stood.seconds` how long this process could not go on in the block.

    A machine that stands still makes everything late; what is left when that is taken off is the code's own.
    """

    def __init__(self) -> None:
        # Up to the present tick, and when that began.
        self._seconds = self._began_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """In the block so far; also what the event loop has not noticed yet."""
        if self._task is not None:
            self._count()
        return self._seconds

    async def __aenter__(self) -> Self:
        self._began_at = time.monotonic()
        self._task = asyncio.create_task(self._watch(), name="standstill")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._count()
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        while True:
            self._began_at = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self._count()

    def _count(self) -> None:
        late_seconds = max(0.0, time.monotonic() - self._began_at - TICK_SECONDS)
        self._seconds += late_seconds
        # Counted once.
        self._began_at += late_seconds


def is_done_within(seconds: float, call: Callable[[], object]) -> bool:
    """Whether a call takes no longer, in one of three tries: a machine that stands still in one proves nothing."""
    for _ in range(3):
        began = time.monotonic()
        call()
        if time.monotonic() - began < seconds:
            return True
    return False


async def wait_until[T](fact: Callable[[], T | Awaitable[T]], *, seconds: float = DEADLINE_SECONDS) -> T:
    """Wait until `fact()` (sync or async) is true, and return it; else fail with its source."""
    deadline = time.monotonic() + seconds
    while True:
        value = fact()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds} s: {_source(fact)}")
        await asyncio.sleep(0.005)


def wait_until_sync[T](fact: Callable[[], T], *, seconds: float = DEADLINE_SECONDS) -> T:
    """The sync twin of `wait_until`."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds} s: {_source(fact)}")
        time.sleep(0.005)
    return value


def _source(fact: Callable[[], object]) -> str:
    try:
        return inspect.getsource(fact).strip()
    except (OSError, TypeError):
        return repr(fact)
