"""
Batcher: gathers the items of many tasks, and passes them on in one call at a time.

Owns the gathering, and giving each caller its answer. Does not own what is called.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

__all__ = ["Batcher"]


class Batcher[Item, Answer]:
    """
    The first item starts a call. Items that arrive during a call go together in the next one.

    Args:
        call: Gets the items in the order of their arrival, and returns the answers in the same order. An answer that is
            an exception is raised to the caller of `ask`. For items that came by `add`, answers are ignored.
        name: The name of the task that makes the calls.
        limit: The most items of one call; None for no limit. How many items wait is bounded by the callers.
        gather: Awaited before the items of each call are collected, to wait for more of them.
        create_task: Starts the task that makes the calls, for example `create_task` of a TaskGroup.

    Guarantees:
        One call runs at a time. If a call raises, every `ask` for its items raises that error. If one of its items came
        by `add`, the error ends the task and propagates. A caller that is cancelled does not affect others.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception] | None]],
        *,
        name: str,
        limit: int | None = None,
        gather: Callable[[], Awaitable[None]] | None = None,
        create_task: Callable[..., asyncio.Task[None]] | None = None,
    ) -> None:
        self._call = call
        self._name = name
        self._limit = limit
        self._gather = gather
        self._create_task = create_task or asyncio.create_task
        # The items that wait for the next call, and of the present call, each with the future that its caller awaits.
        self._waiting: deque[tuple[Item, asyncio.Future[Answer] | None]] = deque()
        self._batch: list[tuple[Item, asyncio.Future[Answer] | None]] = []
        # Makes calls until no items wait; None while none do.
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_count(self) -> int:
        """How many items wait for the next call."""
        return len(self._waiting)

    def add(self, items: Iterable[Item]) -> None:
        """Pass items on without waiting for their answers."""
        self._waiting.extend([(item, None) for item in items])
        self._start()

    async def ask(self, item: Item) -> Answer:
        """Pass an item on and wait for its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return await future

    def stop(self) -> None:
        """Cancel the present call, drop the items that wait, and cancel their callers. It can be used again."""
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        if self._task is None and self._waiting:
            self._task = self._create_task(self._run(), name=self._name)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._gather is not None:
                    await self._gather()
                if self._limit is None or len(self._waiting) <= self._limit:
                    self._batch = [*self._waiting]
                    self._waiting.clear()
                else:
                    self._batch = [self._waiting.popleft() for _ in range(self._limit)]
                await self._pass_on()
        finally:
            self._task = None
            # If all went as it should, none is left.
            for _, future in (*self._batch, *self._waiting):
                if future is not None:
                    future.cancel()
            self._batch.clear()
            self._waiting.clear()

    async def _pass_on(self) -> None:
        answers: Sequence[Any] | None
        try:
            answers = await self._call([item for item, _ in self._batch])
        except Exception as error:
            if any(future is None for _, future in self._batch):
                raise
            answers = [error] * len(self._batch)
        if answers is None:
            return
        for (_, future), answer in zip(self._batch, answers, strict=True):
            # If the future is done, its caller was cancelled.
            if future is None or future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
