"""Tasks that take longer than their timeout: async ones, sync ones in Python code, and sync ones that hang in C."""

import asyncio
import threading
import time

import pytest

from realtime.exceptions import TaskTimedOut
from realtime.tasks import await_result, runner
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import ahold, calls, fail_times, gates, hold, note, spin, stubborn
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


@pytest.mark.parametrize("function", [spin, ahold], ids=["sync", "async"])
async def test_a_task_is_interrupted(tasks: Tasks, function: object) -> None:
    """It fails with TaskTimedOut, which names the limit; its slot runs others."""
    async with tasks.working(concurrency=1):
        result = await function.using(timeout=0.1).aenqueue("a")  # type: ignore[attr-defined]
        await await_result(result, 60)
        assert [error.exception_class for error in result.errors] == [TaskTimedOut]
        assert "its timeout of 0.1 s" in result.errors[0].traceback
        await await_result(note.enqueue("next"), 60)
    assert calls == ["a", "next"]


@pytest.mark.parametrize("function", [spin, ahold], ids=["sync", "async"])
async def test_a_timeout_counts_as_an_attempt(tasks: Tasks, function: object) -> None:
    """And the next attempt has all the time again."""
    async with tasks.working(concurrency=1):
        again = function.using(timeout=0.1, max_attempts=2, backoff=0)  # type: ignore[attr-defined]
        result = again.enqueue("a")
        await await_result(result, 60)
        assert calls == ["a", "a"]
        assert [error.exception_class for error in result.errors] == [TaskTimedOut, TaskTimedOut]


async def test_a_task_may_catch_its_timeout(tasks: Tasks) -> None:
    """Then it ends as it likes."""
    async with tasks.working(concurrency=1):
        result = await await_result(stubborn.using(timeout=0.1).enqueue("a"), 60)
        assert result.return_value == "TaskTimedOut"


async def test_a_task_that_hangs_in_c_loses_its_thread(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails, and is not tried again while it runs; another thread takes the place of its thread."""
    monkeypatch.setattr(runner, "STUCK_SECONDS", 0.2)
    async with tasks.working(concurrency=1) as worker:
        result = hold.using(timeout=0.1, max_attempts=3).enqueue("a")
        following = note.enqueue("next")
        await await_result(result, 60)
        assert result.status == "FAILED"
        assert [error.exception_class for error in result.errors] == [TaskTimedOut]
        await await_result(following, 60)
        assert "its thread is given up" in caplog.text
        assert worker._runner.stuck_count == 1
        gates["a"].set()
        await wait_until(lambda: worker._runner.stuck_count == 0)
        await await_result(note.enqueue("last"), 60)
    result.refresh()
    assert result.status == "FAILED"
    assert calls == ["a", "next", "last"]
    assert tasks.left_count() == 0


async def test_timeouts_at_the_very_end_of_tasks_do_no_harm(tasks: Tasks) -> None:
    """Each task ends once, as done or as too late, and the threads live on."""
    async with tasks.working(concurrency=4):
        results = [spin.using(timeout=0.02).enqueue(f"edge {number % 7}") for number in range(200)]
        loop = asyncio.get_running_loop()
        for number in range(7):
            loop.call_later(0.15 + 0.02 * number, gates[f"edge {number}"].set)
        for result in results:
            await await_result(result, 60)
        assert all(
            result.status == "SUCCESSFUL" or result.errors[0].exception_class is TaskTimedOut for result in results
        )
        after = [note.enqueue(number) for number in range(8)]
        for result in after:
            assert (await await_result(result, 60)).status == "SUCCESSFUL"
        assert sum(thread.name == "task" for thread in threading.enumerate()) >= 4


async def test_long_timeouts_of_short_tasks_cost_no_memory(tasks: Tasks) -> None:
    """There is one timer for each thread, whatever the number of tasks."""
    loop = asyncio.get_running_loop()
    async with tasks.working(concurrency=2):
        for number in range(100):
            note.using(timeout=3600).enqueue(number)
        await wait_until(lambda: len(calls) == 100)
        await wait_until(lambda: tasks.left_count() == 0)
        timers = [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
        far = [each for each in timers if each.when() - loop.time() > 1000]
        assert len(far) <= 2


async def test_an_attempt_in_time_has_no_timeout(tasks: Tasks) -> None:
    """Also if a later one in the same thread is longer than what was left of it."""
    async with tasks.working(concurrency=1):
        first = fail_times.using(timeout=0.3).enqueue("quick", 0)
        second = spin.using(timeout=60).enqueue("slow")
        await await_result(first, 60)
        until = time.monotonic() + 0.4
        await wait_until(lambda: time.monotonic() > until)
        gates["slow"].set()
        assert (await await_result(second, 60)).status == "SUCCESSFUL"
