"""Waiting for facts instead of time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["wait_until", "wait_until_sync"]

DEADLINE_SECONDS = 10.0


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
