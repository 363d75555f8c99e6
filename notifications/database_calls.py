"""
Many small uses of the database from async code, in few visits of the database's thread.

Owns the gathering. Does not own what is called nor transactions: each call has its own.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

from channels.db import database_sync_to_async

__all__ = ["DatabaseCalls"]


class DatabaseCalls:
    """
    Runs sync functions in the thread of the database, one after another.

    A visit of the thread opens a connection and closes it, which takes longer than most queries. What is asked for
    while one visit is under way goes together in the next; its callers bound how much that is.
    """

    def __init__(self) -> None:
        # What goes in the next visit: where the answer is awaited, and the call.
        self._waiting: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = []
        # Visits until nothing waits; None while nothing does.
        self._visits: asyncio.Task[None] | None = None

    async def run[T](self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call `function` in the thread and return its answer, or raise its error."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, functools.partial(function, *arguments, **options)))
        if self._visits is None:
            self._visits = asyncio.create_task(self._visit(), name="database calls")
        return await answer

    async def _visit(self) -> None:
        visit = database_sync_to_async(_call_all)
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    results = await visit([call for _, call in batch])
                except Exception as error:
                    results = [(None, error)] * len(batch)
                for (answer, _), (value, failure) in zip(batch, results, strict=True):
                    # Who asked may have been cancelled.
                    if answer.done():
                        continue
                    if failure is None:
                        answer.set_result(value)
                    else:
                        answer.set_exception(failure)
        finally:
            self._visits = None


def _call_all(calls: Sequence[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    results: list[tuple[Any, Exception | None]] = []
    for call in calls:
        try:
            results.append((call(), None))
        except Exception as error:
            results.append((None, error))
    return results
