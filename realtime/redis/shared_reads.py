"""
SharedReads: tasks that need the same answer at the same time share one round trip to Redis.

Owns which task waits for which answer. Does not own what is read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from realtime.exceptions import SubscriptionClosed

__all__ = ["SharedReads"]


class SharedReads[Question, Answer]:
    """
    The first request starts a round trip. Requests that arrive during a round trip share the next one.

    Args:
        read: Gets names and questions, each name once, and returns the answers in the same order. An answer that is an
            exception is raised to those who asked for its name.
        name: The name of the task.
        limit: The most names of one round trip.
        merge: Makes one question of two for the same name. By default, the first one is asked.

    Guarantees:
        One round trip at a time. An answer was read after its request. A caller that is cancelled does not affect
        others.
    """

    def __init__(
        self,
        read: Callable[[list[tuple[str, Question]]], Awaitable[Sequence[Answer | Exception]]],
        *,
        name: str,
        limit: int,
        merge: Callable[[Question, Question], Question] = lambda first, second: first,
    ) -> None:
        self._read, self._name, self._limit, self._merge = read, name, limit, merge
        # Requests for the next round trip: name → question, and the future of the answer.
        self._wanted: dict[str, tuple[Question, asyncio.Future[Answer]]] = {}
        # The futures of the round trip that is under way.
        self._begun: list[asyncio.Future[Answer]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, name: str, question: Question) -> Answer:
        """
        The answer, read after this call.

        Raises:
            SubscriptionClosed: `stop` was called meanwhile.
            Exception: Any that `read` raises, or returns for this name.
        """
        wanted = self._wanted.get(name)
        if wanted is None:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        else:
            question, future = self._merge(wanted[0], question), wanted[1]
        self._wanted[name] = question, future
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        # Others may be waiting for the same future.
        return await asyncio.shield(future)

    async def stop(self) -> None:
        """Cancel the current round trip; all callers get SubscriptionClosed. It can be used again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        for future in (*self._begun, *(future for _, future in self._wanted.values())):
            _fail(future, SubscriptionClosed())
        self._wanted.clear()

    async def _run(self) -> None:
        while self._wanted:
            # All requests of this moment go into the same round trip.
            await asyncio.sleep(0)
            batch = [(name, *self._wanted.pop(name)) for name in tuple(self._wanted)[: self._limit]]
            self._begun = [future for _, _, future in batch]
            try:
                answers = await self._read([(name, question) for name, question, _ in batch])
            except Exception as error:
                for future in self._begun:
                    _fail(future, error)
            else:
                for future, answer in zip(self._begun, answers, strict=True):
                    if isinstance(answer, Exception):
                        _fail(future, answer)
                    elif not future.done():
                        future.set_result(answer)
        self._task = None


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Marks the exception as retrieved, because no task may be waiting.
        future.exception()
