"""
Batches of database calls: the single items of many async tasks share a thread and a transaction.

Owns gathering the items and giving back the answers. Does not own the functions that are called or their transactions.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.database.threads import DatabaseThread
from realtime.redis.batcher import Batcher

__all__ = ["BATCH_LIMIT", "DatabaseCalls"]

# The most items of one call. Other users of the database wait meanwhile.
BATCH_LIMIT = 100
# The next call may wait for this many times the duration of the last call, up to a limit, until ENOUGH items wait. It
# does so in two cases. First, if other writers wait for the database: SQLite has one writer at a time, and waiting
# writers sleep longer and longer, so calls without a pause would delay notify(), and with it the browsers. Second, if
# the last call had ENOUGH items: many tasks are active then, and fewer, larger calls use less CPU.
PAUSE_PER_CALL = 5
PAUSE_LIMIT_SECONDS = 0.05
ENOUGH = 10
# Turns of the event loop before a call, so that requests that follow from the answers of the last call are included.
# Otherwise two groups of callers would alternate instead of sharing one call.
GATHER_TURNS = 5

# Takes a list of items and returns the answer to each, in order. An answer that is an exception is raised.
type Batched[Item, Answer] = Callable[[Sequence[Item]], Sequence[Answer | Exception]]


class DatabaseCalls:
    """
    Gathers the single items of many tasks into lists, and calls sync functions with these lists.

    A statement for a hundred rows costs little more than one for a single row, and so does a transaction. An item is
    handled at once if no call is running and the last one was small. Items that arrive during a call are handled
    together in the next one; the callers limit their number. Calls run in a separate thread, so that other users of the
    database do not wait.

    Args:
        is_contended: Whether other writers wait for the database, so that there must be pauses between the calls.
    """

    def __init__(self, *, is_contended: Callable[[], bool] = lambda: False) -> None:
        self._is_contended = is_contended
        # If the next call has to wait, it waits until this time of the monotonic clock, or until ENOUGH items wait.
        self._pause_until = -math.inf
        # How many items the last call had.
        self._last_count = 0
        # Each item with the function to call.
        self._batcher = Batcher[tuple[Batched[Any, Any], Any], Any](
            self._call, name="database calls", gather=self._gather
        )
        # Set when ENOUGH items wait.
        self._is_enough = asyncio.Event()
        self._thread = DatabaseThread(name="database calls")

    async def run[Item, Answer](self, function: Batched[Item, Answer], item: Item) -> Answer:
        """
        The function's answer to one item.

        Raises:
            Exception: The function returned or raised it for this item. It does not affect other items, unless the
                database is unavailable.
        """
        if self._batcher.waiting_count + 1 >= ENOUGH:
            self._is_enough.set()
        answer: Answer = await self._batcher.ask((function, item))
        return answer

    def close(self) -> None:
        """End the thread and its database connection after the current call. Idempotent."""
        self._thread.close()

    async def _call(self, asked: Sequence[tuple[Batched[Any, Any], Any]]) -> list[Any]:
        """Call each function with all its items. Returns the answers in the order of `asked`."""
        self._is_enough.clear()
        self._last_count = len(asked)
        # For each function, the places of its items in `asked`.
        places: dict[Batched[Any, Any], list[int]] = {}
        for place, (function, _) in enumerate(asked):
            places.setdefault(function, []).append(place)
        calls = [(function, [asked[place][1] for place in found]) for function, found in places.items()]
        began_at = time.monotonic()
        try:
            results = await self._thread.call(_call_all, calls)
        finally:
            now = time.monotonic()
            self._pause_until = now + min(PAUSE_LIMIT_SECONDS, PAUSE_PER_CALL * (now - began_at))
        answers: list[Any] = [None] * len(asked)
        for found, result in zip(places.values(), results, strict=True):
            for place, answer in zip(found, result, strict=True):
                answers[place] = answer
        return answers

    async def _gather(self) -> None:
        pause_seconds = self._pause_until - time.monotonic()
        if pause_seconds > 0 and (self._last_count >= ENOUGH or self._is_contended()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._is_enough.wait()
        for _ in range(GATHER_TURNS):
            await asyncio.sleep(0)


def _call_all(calls: Sequence[tuple[Batched[Any, Any], list[Any]]]) -> list[list[Any]]:
    return [
        [
            answer
            for start in range(0, len(items), BATCH_LIMIT)
            for answer in _call(function, items[start : start + BATCH_LIMIT])
        ]
        for function, items in calls
    ]


def _call(function: Batched[Any, Any], items: list[Any]) -> Sequence[Any]:
    try:
        return function(items)
    except DATABASE_UNAVAILABLE as error:
        return [error] * len(items)
    except Exception as error:
        # One item is at fault: call the function for each, so that the others succeed.
        return [error] if len(items) == 1 else [answer for item in items for answer in _call(function, [item])]
