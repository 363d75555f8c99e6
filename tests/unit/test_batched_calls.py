"""Many calls of the database's thread go together, and each has its own answer."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import OperationalError

from notifications.delivery import batched_calls
from notifications.delivery.batched_calls import BATCH_LIMIT, ENOUGH, PAUSE_PER_CALL, DatabaseCalls
from tests.support.waiting import wait_until


class Doubling:
    """Doubles numbers in batches. The first batch waits for the gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.gate.wait(10)
        if -13 in numbers:
            raise ValueError("thirteen")
        if -7 in numbers:
            raise OperationalError("the database is away")
        return [KeyError(number) if number < 0 else 2 * number for number in numbers]


async def test_items_that_arrive_during_a_call_share_the_next_call() -> None:
    """In the order of arrival, up to the limit. An answer that is an exception is raised."""
    calls, double = DatabaseCalls(), Doubling()
    first = asyncio.create_task(calls.run(double, 1))
    await wait_until(lambda: double.batches)
    rest = [asyncio.create_task(calls.run(double, number)) for number in [-1, *range(2, BATCH_LIMIT + 2)]]
    await asyncio.sleep(0)
    rest[3].cancel()
    double.gate.set()
    answers = await asyncio.gather(first, *rest, return_exceptions=True)
    assert (answers[0], answers[2], answers[3]) == (2, 4, 6)
    assert isinstance(answers[1], KeyError)
    assert isinstance(answers[4], asyncio.CancelledError)
    assert answers[-1] == 2 * (BATCH_LIMIT + 1)
    assert [len(batch) for batch in double.batches] == [1, BATCH_LIMIT, 1]


async def test_an_item_that_follows_at_once_is_in_the_next_call() -> None:
    """Together with the items of the last call. Otherwise two groups of callers would alternate for ever."""
    calls, double = DatabaseCalls(), Doubling()

    async def ask_twice(number: int) -> None:
        for _ in range(2):
            await calls.run(double, number)

    first = asyncio.create_task(ask_twice(1))
    await wait_until(lambda: double.batches)
    second = asyncio.create_task(ask_twice(2))
    await asyncio.sleep(0)
    double.gate.set()
    await asyncio.gather(first, second)
    assert double.batches == [[1], [2, 1], [2]]


async def test_one_by_one_they_wait_for_nothing_but_the_work() -> None:
    """
    Who asks while nothing is under way is answered at once.

    A hundred that follow each other would take five seconds if each waited a twentieth of one for others.
    """
    calls = DatabaseCalls()
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        for number in range(100):
            assert await calls.run(lambda numbers: [2 * number for number in numbers], number) == 2 * number
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 2.5


async def test_calls_pause_if_other_writers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a multiple of the last call's duration. Items that arrive meanwhile share the next call."""
    monkeypatch.setattr(batched_calls, "PAUSE_LIMIT_SECONDS", 60.0)
    calls, begun = DatabaseCalls(is_contended=lambda: True), list[tuple[float, list[int]]]()

    def slow(numbers: Sequence[int]) -> list[int]:
        begun.append((time.monotonic(), list(numbers)))
        time.sleep(0.2)
        return list(numbers)

    await calls.run(slow, 1)
    ended = time.monotonic()
    await asyncio.gather(calls.run(slow, 2), calls.run(slow, 3))
    assert [numbers for _, numbers in begun] == [[1], [2, 3]]
    assert begun[1][0] - begun[0][0] >= 0.2 * PAUSE_PER_CALL
    # Enough to be worth a visit is not kept waiting for room.
    await asyncio.gather(*(calls.run(slow, number) for number in range(ENOUGH)))
    assert len(begun) == 3
    assert ended <= begun[1][0]


async def test_after_a_large_call_the_next_one_waits_for_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks are active then: what one of them asks goes together with what the others ask a little later."""
    monkeypatch.setattr(batched_calls, "PAUSE_LIMIT_SECONDS", 60.0)
    monkeypatch.setattr(batched_calls, "PAUSE_PER_CALL", 1e9)
    calls, double = DatabaseCalls(), Doubling()
    double.gate.set()
    await asyncio.gather(*(calls.run(double, number) for number in range(ENOUGH)))
    first = asyncio.create_task(calls.run(double, 100))
    for _ in range(10 * batched_calls.GATHER_TURNS):
        await asyncio.sleep(0)
    await asyncio.gather(first, *(calls.run(double, 100 + number) for number in range(1, ENOUGH)))
    assert double.batches == [list(range(ENOUGH)), list(range(100, 100 + ENOUGH))]


async def test_one_that_fails_fails_alone() -> None:
    """The others are called again without it."""
    calls, double = DatabaseCalls(), Doubling()
    double.gate.set()
    answers = await asyncio.gather(*(calls.run(double, number) for number in (12, -13, 14)), return_exceptions=True)
    assert (answers[0], answers[2]) == (24, 28)
    assert isinstance(answers[1], ValueError)


async def test_an_unavailable_database_is_called_once() -> None:
    """All callers get the error, after one timeout."""
    calls, double = DatabaseCalls(), Doubling()
    double.gate.set()
    asked = [asyncio.create_task(calls.run(double, number)) for number in (6, -7, 8)]
    for task in asked:
        with pytest.raises(OperationalError):
            await task
    assert double.batches == [[6, -7, 8]]


async def test_all_callers_get_an_error_if_a_call_fails() -> None:
    """For example, if a function does not answer every item. The next call works."""
    calls = DatabaseCalls()
    mute: Any = lambda items: []  # noqa: E731 - a function that breaks its contract
    answers = await asyncio.gather(calls.run(mute, 1), calls.run(mute, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError, ValueError]
    assert await calls.run(lambda numbers: [2 * number for number in numbers], 3) == 6
