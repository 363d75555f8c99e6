"""Batcher: which items go together in a call, and what each caller gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from realtime.redis.batcher import Batcher


class Calls:
    """A call that doubles numbers; its second and later calls wait for `gate`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.begun.set()
        await self.gate.wait()
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


async def test_items_that_arrive_during_a_call_go_together_in_the_next() -> None:
    """One call at a time, in the order of arrival; each caller gets its own answer."""
    calls = Calls()
    batcher = Batcher(calls, name="test")
    first = asyncio.create_task(batcher.ask(1))
    await calls.begun.wait()
    others = [asyncio.create_task(batcher.ask(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    assert calls.batches == [[1]]
    assert batcher.waiting_count == 3
    calls.gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert calls.batches == [[1], [2, 3, 4]]


async def test_no_call_gets_more_than_the_limit() -> None:
    """The rest goes in further calls."""
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls, name="test", limit=2)
    assert await asyncio.gather(*(batcher.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert calls.batches == [[0, 1], [2, 3], [4]]


async def test_an_answer_that_is_an_exception_is_raised_to_its_caller_alone() -> None:
    """The others of the batch get their answers."""
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls, name="test")
    good, bad = await asyncio.gather(batcher.ask(1), batcher.ask(-1), return_exceptions=True)
    assert good == 2
    assert isinstance(bad, ValueError)


async def test_an_error_of_the_call_is_raised_to_all_its_callers_and_later_calls_go_on() -> None:
    """Nobody waits for ever."""
    outcomes: list[Callable[[], list[int]]] = [lambda: 1 // 0, lambda: [7]]  # type: ignore[list-item,return-value]

    async def call(items: list[int]) -> list[int]:
        return outcomes.pop(0)()

    batcher = Batcher(call, name="test")
    assert [type(error) for error in await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)] == [
        ZeroDivisionError
    ] * 2
    assert await batcher.ask(3) == 7


async def test_a_caller_that_is_cancelled_does_not_affect_the_others() -> None:
    """Its item is passed on, its answer is dropped."""
    calls = Calls()
    batcher = Batcher(calls, name="test")
    gone, other = asyncio.create_task(batcher.ask(1)), asyncio.create_task(batcher.ask(2))
    await calls.begun.wait()
    gone.cancel()
    calls.gate.set()
    assert await other == 4
    assert gone.cancelled() or gone.cancelling()
    with contextlib.suppress(asyncio.CancelledError):
        await gone


async def test_added_items_are_passed_on_without_being_awaited() -> None:
    """An error with one of them ends the task of the owner's group."""
    calls = Calls()

    async def fail(items: list[int]) -> None:
        raise LookupError(items)

    calls.gate.set()
    async with asyncio.TaskGroup() as tasks:
        batcher = Batcher(calls, name="test", create_task=tasks.create_task)
        batcher.add([1, 2])
        batcher.add([3])
    assert calls.batches == [[1, 2, 3]]
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            Batcher(fail, name="test", create_task=tasks.create_task).add([1])
    assert caught.group_contains(LookupError)


async def test_stopping_cancels_the_call_and_all_who_wait() -> None:
    """It can be used again, also if it is stopped before its task has begun."""
    calls = Calls()
    batcher = Batcher(calls, name="test", limit=1)
    early = asyncio.create_task(batcher.ask(0))
    await asyncio.sleep(0)
    batcher.stop()
    await asyncio.wait([early])
    assert early.cancelled()
    assert calls.batches == []
    waiting = [asyncio.create_task(batcher.ask(number)) for number in (1, 2)]
    await calls.begun.wait()
    batcher.stop()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    calls.gate.set()
    assert await batcher.ask(5) == 10
    assert calls.batches == [[1], [5]]


async def test_the_surroundings_are_entered_while_there_are_calls() -> None:
    """Once for calls that follow each other. An item that arrives while they are left enters them again."""
    events: list[str] = []
    leaving, may_leave = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def surroundings() -> AsyncIterator[None]:
        events.append("enter")
        yield
        leaving.set()
        await may_leave.wait()
        events.append("leave")

    async def call(items: list[int]) -> list[int]:
        events.append(f"call {items}")
        return items

    batcher = Batcher(call, name="test", limit=1, while_busy=surroundings)
    assert await asyncio.gather(batcher.ask(1), batcher.ask(2)) == [1, 2]
    await leaving.wait()
    late = asyncio.create_task(batcher.ask(3))
    await asyncio.sleep(0)
    may_leave.set()
    assert await late == 3
    assert events[:6] == ["enter", "call [1]", "call [2]", "leave", "enter", "call [3]"]
