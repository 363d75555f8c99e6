"""
Batcher: gathers the items of many tasks, and passes them on in one call at a time.

Owns the gathering, and giving each caller its answer. Does not own what is called.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
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
        while_busy: Entered before the first call, and left when no items wait.
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
        while_busy: Callable[[], contextlib.AbstractAsyncContextManager[Any]] = contextlib.nullcontext,
        create_task: Callable[..., asyncio.Task[None]] | None = None,
    ) -> None:
        self._call = call
        self._name = name
        self._limit = limit
        self._gather = gather
        self._while_busy = while_busy
        self._create_task = create_task or asyncio.create_task
        # The items that wait for the next call, and the future that the caller of each awaits; None if it was added.
        self._items: list[Item] = []
        self._futures: list[asyncio.Future[Answer] | None] = []
        # The futures of the present call.
        self._called: list[asyncio.Future[Answer] | None] = []
        # Makes calls until no items wait; None while none do.
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_count(self) -> int:
        """How many items wait for the next call."""
        return len(self._items)

    def add(self, items: Sequence[Item]) -> None:
        """Pass items on without waiting for their answers."""
        self._items += items
        self._futures += [None] * len(items)
        if self._task is None:
            self._start()

    async def ask(self, item: Item) -> Answer:
        """Pass an item on and wait for its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._items.append(item)
        self._futures.append(future)
        if self._task is None:
            self._start()
        return await future

    def stop(self) -> None:
        """Cancel the present call, drop the items that wait, and cancel their callers. It can be used again."""
        if self._task is not None:
            self._task.cancel()
        self._drop_all()

    def _start(self) -> None:
        if self._items:
            self._task = self._create_task(self._run(), name=self._name)

    async def _run(self) -> None:
        try:
            # Items may arrive while the surroundings are left.
            while self._items:
                async with self._while_busy():
                    while self._items:
                        await self._pass_on()
        finally:
            if self._task is asyncio.current_task():
                self._drop_all()

    def _drop_all(self) -> None:
        # When the task ends by itself, all futures are done.
        self._task = None
        for future in (*self._called, *self._futures):
            if future is not None:
                future.cancel()
        self._called, self._items, self._futures = [], [], []

    async def _pass_on(self) -> None:
        if self._gather is not None:
            await self._gather()
        if self._limit is None:
            items, self._items, self._called, self._futures = self._items, [], self._futures, []
        else:
            items, self._items = self._items[: self._limit], self._items[self._limit :]
            self._called, self._futures = self._futures[: self._limit], self._futures[self._limit :]
        answers: Sequence[Any] | None
        try:
            answers = await self._call(items)
        except Exception as error:
            if None in self._called:
                raise
            answers = [error] * len(items)
        if answers is None:
            return
        for future, answer in zip(self._called, answers, strict=True):
            # If the future is done, its caller was cancelled.
            if future is None or future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
