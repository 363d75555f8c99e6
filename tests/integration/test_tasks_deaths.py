"""Workers of tasks that die or stand still, at each place: the task ends once, and never stays in between."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from realtime.conf import get_settings
from realtime.exceptions import WorkerLost
from realtime.tasks import await_result
from realtime.tasks import worker as worker_module
from realtime.tasks.worker import TaskWorker
from tests.support.growth import Growth
from tests.support.streams import ROOT
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import add, calls, deadly, gates, hold_each, note, process_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


@contextlib.asynccontextmanager
async def dying(tasks: Tasks) -> AsyncIterator[TaskWorker]:
    """A worker that does nothing any more at the end of the block, neither in Redis nor for its tasks."""
    url = get_settings().redis_url
    worker = TaskWorker(tasks.backend, ["default"], concurrency=2, consumer="dying", url=url)
    running = asyncio.create_task(worker.run(), name="dying worker")

    async def leave(attempts: Any) -> None:
        """A dead worker gives nothing back."""

    worker._queues["default"]._leave = leave  # type: ignore[method-assign]
    try:
        await worker.wait_ready()
        yield worker
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@contextlib.contextmanager
def worker_process(concurrency: int) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which is ready; killed at the end."""
    settings = get_settings()
    command = [sys.executable, "-m", "tests.support.task_process"]
    process = subprocess.Popen(
        [*command, settings.redis_url, settings.key_prefix, str(concurrency)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("process-")
            yield process
        finally:
            process.kill()


async def test_a_worker_that_dies_before_the_attempt_begins(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry was read, and nothing recorded: another worker runs the task, and knows of no attempt before."""
    asked = asyncio.Event()

    async def never(*arguments: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(tasks.backend.queue("default"), "begin", never)
        async with dying(tasks):
            result = note.enqueue("a")
            await asyncio.wait_for(asked.wait(), 60)
    async with tasks.working() as other:
        await await_result(result, 60)
    assert result.worker_ids == [other.consumer]
    assert result.errors == []
    assert calls == ["a"]
    assert tasks.left_count() == 0


async def test_a_worker_that_dies_in_the_attempt(tasks: Tasks) -> None:
    """Another one runs the task; the error says whose death it was."""
    async with dying(tasks):
        result = hold_each.enqueue("a")
        await wait_until(lambda: calls == ["a"])
    gates["a 2"].set()
    async with tasks.working() as other:
        await await_result(result, 60)
        gates["a 1"].set()
    assert result.return_value == 2
    assert result.worker_ids == ["dying", other.consumer]
    (error,) = result.errors
    assert error.exception_class is WorkerLost
    assert "The worker dying was lost" in error.traceback
    assert tasks.left_count() == 0


async def test_a_lost_task_that_is_not_to_run_again_has_failed_and_is_counted(tasks: Tasks, growth: Growth) -> None:
    """By the worker that would otherwise run it."""
    async with dying(tasks):
        result = hold_each.using(run_again_if_lost=False).enqueue("a")
        await wait_until(lambda: calls == ["a"])
    async with tasks.working():
        await await_result(result, 60)
        gates["a 1"].set()
    assert result.status == "FAILED"
    assert [error.exception_class for error in result.errors] == [WorkerLost]
    assert calls == ["a"]
    assert growth.of("tasks.failed") == {("tasks.failed", "default"): 1}


async def test_if_the_answer_about_an_end_is_lost_nothing_else_is(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis has acked the entry, and the worker asks what it holds before it hears of that."""
    async with tasks.working() as worker:
        queue, stream = worker._queues["default"]._queue, worker._queues["default"].worker
        finish, lost = queue.finish, list[Any]()

        async def lose_the_first_answer(client: Any, outcomes: Any) -> list[int]:
            answers = await finish(client, outcomes)
            if not lost:
                lost.append(answers)
                before = stream._lease.recovery_count
                stream._attempts._ask_redis()
                await wait_until(lambda: stream._lease.recovery_count > before)
                raise redis.ConnectionError("the answer is lost")
            return answers

        monkeypatch.setattr(queue, "finish", lose_the_first_answer)
        assert (await await_result(add.enqueue(1, 2), 60)).worker_ids == [worker.consumer]
        await wait_until(lambda: lost and not stream.statistics().in_flight_count)
        assert stream.statistics().lost_count == 0
    assert "may be handled twice" not in caplog.text
    assert tasks.left_count() == 0


async def test_the_end_of_a_task_and_its_ack_are_one_step(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies after it leaves nothing to others."""
    async with dying(tasks) as worker:
        monkeypatch.setattr(worker._queues["default"], "_end", lambda *arguments: None)
        result = add.enqueue(1, 2)
        await await_result(result, 60)
        assert tasks.left_count() == 0
    async with tasks.working() as other:
        await await_result(add.enqueue(3, 4), 60)
        assert tasks.held_count(other) == 0
    result.refresh()
    assert result.return_value == 3
    assert result.worker_ids == ["dying"]


async def test_a_worker_that_gets_its_task_back_goes_on_with_it(tasks: Tasks) -> None:
    """Its lease was over, nobody else took the task, and Redis hands it the entry again: the attempt goes on."""
    async with tasks.working(concurrency=2) as worker:
        result = hold_each.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        tasks.take_from(worker)
        await wait_until(lambda: tasks.held_count(worker) == 1)
        gates["a 1"].set()
        await await_result(result, 60)
        await wait_until(lambda: tasks.left_count() == 0)
    assert calls == ["a"]
    assert result.errors == []


async def test_long_tasks_whose_workers_died_do_not_wait_for_each_other(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin one after another, in case that one of them is deadly; but none waits until another one has ended."""
    monkeypatch.setattr(worker_module, "SUSPECT_SECONDS", 0.1)
    results = [hold_each.enqueue(name) for name in "abcd"]
    for number in (1, 2):
        async with tasks.working(concurrency=4) as worker:
            await wait_until(lambda number=number: all(calls.count(name) == number for name in "abcd"))
            tasks.take_from(worker)
            await worker.stop(deadline_seconds=0)
    async with tasks.working(concurrency=5):
        await wait_until(lambda: all(calls.count(name) == 3 for name in "abcd"))
        assert (await await_result(add.enqueue(1, 2), 60)).return_value == 3
        for name in "abcd":
            gates[f"{name} 3"].set()
        for result in results:
            assert (await await_result(result, 60)).return_value == 3
        await wait_until(lambda: tasks.left_count() == 0)


async def test_processes_that_are_killed_lose_nothing(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Each task ends once; those that ran have the loss among their errors."""
    with worker_process(4) as first, worker_process(4) as second:
        # When the first worker dies, twenty are over, eight run, and the others wait. Those that run last longer than
        # this process stands still.
        seconds = [*[0.05] * 20, *[6.0] * 8, *[0.05] * 32]
        results = [process_of.enqueue(str(number), each) for number, each in enumerate(seconds)]
        # No more than four of them are the second worker's.
        await wait_until(lambda: sum(tasks.status(result) == "RUNNING" for result in results[20:28]) >= 5)
        first.kill()
        await wait_until(lambda: all(map(tasks.is_over, results)), seconds=90)
        for result in results:
            result.refresh()
            assert result.return_value in (first.pid, second.pid)
            assert set(result.worker_ids) <= {f"process-{first.pid}", f"process-{second.pid}"}
            # A worker that stands still for longer than its lease loses its tasks too.
            assert len(result.worker_ids) == len(result.errors) + 1
        assert any(result.errors for result in results)
        await wait_until(lambda: tasks.left_count() == 0)


async def test_a_task_that_kills_its_workers_fails_alone(tasks: Tasks, redis_client: redis.Redis) -> None:
    """After three of them; the tasks that were in them end well."""
    killer = deadly.enqueue("a")
    others = [process_of.enqueue(str(number), 0.1) for number in range(6)]
    for _ in range(3):
        with worker_process(3) as process:
            await asyncio.to_thread(process.wait, 120)
    with worker_process(3):
        await await_result(killer, 60)
        for result in others:
            await await_result(result, 60)
    assert killer.status == "FAILED"
    assert [error.exception_class for error in killer.errors] == [WorkerLost] * 3
    assert [result.status for result in others] == ["SUCCESSFUL"] * 6


async def test_the_late_end_of_a_task_that_another_worker_has_is_refused(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """And its entry stays: if that worker dies as well, a third one runs the task."""
    result = hold_each.enqueue("a")
    async with tasks.working(concurrency=1) as first:
        await wait_until(lambda: calls == ["a"])
        async with tasks.working(concurrency=1) as second:
            await wait_until(lambda: tasks.hand_over(result.id, first, second))
            # The function is called in a thread, a moment after the attempt has begun.
            await wait_until(lambda: len(calls) == 2)
            gates["a 1"].set()
            await wait_until(lambda: "is another worker's now" in caplog.text)
            assert tasks.status(result) == "RUNNING"
            assert tasks.left_count() == 1
            async with tasks.working(concurrency=1) as third:
                await wait_until(lambda: tasks.hand_over(result.id, second, first, third))
                await wait_until(lambda: len(calls) == 3)
                gates["a 3"].set()
                await await_result(result, 60)
                assert result.return_value == 3
                assert len(result.worker_ids) == 3
                assert [error.exception_class for error in result.errors] == [WorkerLost, WorkerLost]
                gates["a 2"].set()
                await wait_until(lambda: caplog.text.count("is another worker's now") == 2)
                await wait_until(lambda: tasks.left_count() == 0)
    assert result.return_value == 3
