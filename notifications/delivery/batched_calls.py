"""
Many small uses of the database from async code, in few visits of a thread and few transactions.

Owns the gathering. Does not own what is called nor transactions.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from channels.db import DatabaseSyncToAsync
from django.db import connections

from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.database.threads import Threads

__all__ = ["BATCH_LIMIT", "DatabaseCalls"]

# Items of one call: others wait for the database meanwhile.
BATCH_LIMIT = 100
# If other writers wait for the database, the next call waits for this many times the duration of the last call, up to
# a limit, unless ENOUGH items wait. SQLite has one writer at a time, and those that wait sleep longer and longer: calls
# without a pause would delay notify(), and with it the browsers.
PAUSE_PER_VISIT = 5
PAUSE_LIMIT_SECONDS = 0.05
ENOUGH = 10
# Turns of the event loop before a call, so that requests that follow from the answers of the last call are included.
# Otherwise two groups of callers would alternate instead of sharing one call.
GATHER_TURNS = 5

# Given a list of items, gives the answer to each, in their order; an answer that is an exception is raised.
type Batched[Item, Answer] = Callable[[Sequence[Item]], Sequence[Answer | Exception]]


class DatabaseCalls:
    """
    Gathers the single items of many tasks into lists, and calls sync functions with these.

    A statement for a hundred rows costs little more than a statement for one row, and so does a transaction. An item is
    handled at once if no call is under way. Items that arrive during a call go together in the next one; the callers
    limit how many these are. The calls run in a thread of their own, so that other users of the database do not wait.

    Args:
        is_contended: Whether other writers wait for the database, so that there must be pauses between the calls.
    """

    def __init__(self, *, is_contended: Callable[[], bool] = lambda: False) -> None:
        self._is_contended = is_contended
        # Until when the database is left to other writers, if they wait, by the monotonic clock.
        self._pause_until = -math.inf
        # What goes in the next visit, by the function to call: where the answer is awaited, and the item.
        self._waiting: dict[Batched[Any, Any], list[tuple[asyncio.Future[Any], Any]]] = {}
        self._waiting_count = 0
        # Set when enough is waiting.
        self._is_enough = asyncio.Event()
        # Visits until nothing waits; None while nothing does.
        self._visits: asyncio.Task[None] | None = None
        self._thread = Threads(1, name="database calls")

    async def run[Item, Answer](self, function: Batched[Item, Answer], item: Item) -> Answer:
        """
        The answer to one item.

        Raises:
            Exception: What the function gave or raised for it. An item that fails fails alone, unless the database is
                away.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(function, []).append((answer, item))
        self._waiting_count += 1
        if self._waiting_count >= ENOUGH:
            self._is_enough.set()
        if self._visits is None:
            self._visits = asyncio.create_task(self._visit(), name="database calls")
        return await answer

    def close(self) -> None:
        """End the thread and its database connection after the present call. Idempotent."""
        self._thread.executor.submit(connections.close_all)
        self._thread.close()

    async def _visit(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                asked, self._waiting, self._waiting_count = self._waiting, {}, 0
                self._is_enough.clear()
                visit = DatabaseSyncToAsync(_call_all, thread_sensitive=False, executor=self._thread.executor)
                calls = [(function, [item for _, item in items]) for function, items in asked.items()]
                began_at = time.monotonic()
                try:
                    results = await visit(calls)
                    settled = [
                        (future, answer)
                        for items, answers in zip(asked.values(), results, strict=True)
                        for (future, _), answer in zip(items, answers, strict=True)
                    ]
                except Exception as error:
                    # The visit itself failed: whoever waits is told, or would wait for ever.
                    settled = [(future, error) for items in asked.values() for future, _ in items]
                now = time.monotonic()
                self._pause_until = now + min(PAUSE_LIMIT_SECONDS, PAUSE_PER_VISIT * (now - began_at))
                for future, answer in settled:
                    _settle(future, answer)
        finally:
            self._visits = None

    async def _gather(self) -> None:
        pause_seconds = self._pause_until - time.monotonic()
        if pause_seconds > 0 and self._is_contended():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._is_enough.wait()
        for _ in range(GATHER_TURNS):
            await asyncio.sleep(0)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    # Who asked may have been cancelled.
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


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
        # One of them is bad, and the others are not to suffer for it.
        return [error] if len(items) == 1 else [answer for item in items for answer in _call(function, [item])]
