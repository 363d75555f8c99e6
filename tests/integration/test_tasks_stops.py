"""Task workers that stop, and outages of Redis: what runs may finish, and what has not begun is given back."""

import asyncio
import threading
from typing import Any

import pytest
import redis

from realtime.conf import get_settings
from realtime.exceptions import WorkerStopped
from realtime.redis import clients
from realtime.tasks import await_result, runner
from realtime.tasks.store import TaskQueue
from tests.support.growth import Growth
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.tasks import Tasks, tasks_of
from tests.support.tasks_of_tests import (
    add,
    aheld_with_end,
    ahold,
    aunstoppable,
    calls,
    fail_times,
    gates,
    hold,
    hold_each,
    note,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


@pytest.fixture(autouse=True)
def threads_before() -> set[threading.Thread]:
    """Those of earlier tests: a thread that hangs in a task ends later."""
    return {*threading.enumerate()}


@pytest.fixture(autouse=True)
def _long_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving tasks back is not broken off, however slow the machine is."""
    monkeypatch.setattr("realtime.tasks.worker.RELEASE_SECONDS", 60.0)


def thread_count(before: set[threading.Thread]) -> int:
    """How many threads for tasks there are, without those of earlier tests."""
    return sum(thread.name == "task" and thread not in before for thread in threading.enumerate())


@pytest.mark.parametrize("function", [hold, ahold], ids=["sync", "async"])
async def test_what_runs_may_finish(tasks: Tasks, function: Any, threads_before: set[threading.Thread]) -> None:
    """Within the deadline; its end is recorded before the worker is gone. Nothing new begins meanwhile."""
    async with tasks.working(concurrency=1, deadline_seconds=10) as worker:
        result = function.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        stopping = [asyncio.create_task(worker.stop(deadline_seconds=10)) for _ in range(2)]
        await wait_until(lambda: worker._runner._is_stopping)
        other = note.enqueue("b")
        gates["a"].set()
        await asyncio.gather(*stopping)
        assert tasks.status(result) == "SUCCESSFUL"
        assert tasks.status(other) == "READY"
    assert tasks.left_count() <= 1
    assert calls == ["a"]
    await wait_until(lambda: thread_count(threads_before) == 0)


async def test_what_has_not_begun_is_given_back(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and without an attempt: another worker has it before the first one is gone."""
    # As when tasks are so short that many are fetched ahead.
    monkeypatch.setattr(runner.Runner, "_ahead", lambda self: 10)
    monkeypatch.setattr(runner, "GIVE_BACK_SECONDS", 60.0)
    async with tasks.working(concurrency=1, deadline_seconds=10) as first:
        held = hold.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        late = [note.enqueue(number) for number in range(4)]
        await wait_until(lambda: len(first._queues["default"]._held) == 5)
        stopping = asyncio.create_task(first.stop(deadline_seconds=10))
        async with tasks.working(concurrency=2) as other:
            for result in late:
                await await_result(result, 60)
                assert result.worker_ids == [other.consumer]
                assert result.errors == []
            assert not stopping.done()
            gates["a"].set()
            await stopping
    assert (await await_result(held, 60)).worker_ids == [first.consumer]
    assert tasks.left_count() == 0


async def test_what_was_about_to_begin_at_the_deadline_is_given_back(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an attempt, as nothing of it has run: the answer of Redis had not come, or waited for an earlier one."""
    monkeypatch.setattr(runner.Runner, "_ahead", lambda self: 10)
    begin, begun = TaskQueue.begin, []

    async def begin_slowly(self: TaskQueue, *arguments: Any) -> Any:
        answers = await begin(self, *arguments)
        begun.append(answers)
        if len(begun) == 1:
            await asyncio.Event().wait()
        return answers

    with monkeypatch.context() as patched:
        patched.setattr(TaskQueue, "begin", begin_slowly)
        async with tasks.working(concurrency=1, deadline_seconds=0.1):
            results = []
            for number in (1, 2):
                results.append(note.enqueue(number))
                await wait_until(lambda: len(begun) == number)  # noqa: B023
    assert [tasks.status(result) for result in results] == ["READY", "READY"]
    async with tasks.working(concurrency=1):
        for result in results:
            await await_result(result, 60)
            assert (result.attempts, result.errors) == (1, [])


async def test_what_was_given_back_when_the_deadline_passed_counts_no_attempt(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was unavailable until then. Its function has not begun, also if it is not to run again."""
    monkeypatch.setattr(runner.Runner, "_ahead", lambda self: 10)
    release, asked = TaskQueue.release, []

    async def release_late(self: TaskQueue, client: Any, claims: Any, *, is_begun: bool = False) -> int:
        if claims:
            asked.append(claims)
            if len(asked) == 1:
                await asyncio.Event().wait()
        return await release(self, client, claims, is_begun=is_begun)

    with monkeypatch.context() as patched:
        patched.setattr(TaskQueue, "release", release_late)
        async with tasks.working(concurrency=1, deadline_seconds=0.1) as first:
            held = hold.enqueue("a")
            await wait_until(lambda: calls == ["a"])
            results = [note.enqueue("b"), note.using(run_again_if_lost=False).enqueue("c")]
            await wait_until(lambda: len(first._queues["default"]._held) == 3)
            # It is given back at once, but that is not answered.
    assert [tasks.status(result) for result in [held, *results]] == ["READY"] * 3
    gates["a"].set()
    async with tasks.working(concurrency=1):
        for result in results:
            await await_result(result, 60)
            assert (result.attempts, result.errors) == (1, [])
        assert (await await_result(held, 60)).attempts == 2


@pytest.mark.parametrize("function", [hold_each, ahold], ids=["sync", "async"])
async def test_what_still_runs_at_the_deadline_is_left_to_others(
    tasks: Tasks, function: Any, caplog: pytest.LogCaptureFixture, threads_before: set[threading.Thread]
) -> None:
    """Another worker runs it at once; the thread of the first one changes nothing when it ends."""
    async with tasks.working(concurrency=1) as first:
        result = function.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        await first.stop(deadline_seconds=0.1)
        assert tasks.status(result) == "READY"
    async with tasks.working(concurrency=1) as second:
        await wait_until(lambda: calls == ["a", "a"])
        gates["a 1"].set()
        gates["a 2"].set()
        gates["a"].set()
        await await_result(result, 60)
        assert result.worker_ids == [first.consumer, second.consumer]
        assert [error.exception_class for error in result.errors] == [WorkerStopped]
        assert result.return_value == (2 if function is hold_each else "a")
    await wait_until(lambda: thread_count(threads_before) == 0)
    assert tasks.left_count() == 0


async def test_an_async_task_has_ended_when_others_may_have_it(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, growth: Growth
) -> None:
    """
    Its `finally` could otherwise undo what its next attempt does. If it ends by itself, that end counts, once; but an
    error because it was cancelled is no end.
    """
    monkeypatch.setattr("realtime.tasks.runner.CANCEL_SECONDS", 60.0)
    release, calls_at_release = TaskQueue.release, list[Any]()

    async def look_and_release(self: TaskQueue, client: Any, claims: Any, *, is_begun: bool = False) -> int:
        if is_begun:
            calls_at_release.extend(calls)
        return await release(self, client, claims, is_begun=is_begun)

    monkeypatch.setattr(TaskQueue, "release", look_and_release)
    ends = ("cancelled", "value", "permanent", "")
    async with tasks.working(concurrency=4, deadline_seconds=0.1):
        results = [aheld_with_end.enqueue(end) for end in ends]
        await wait_until(lambda: len(calls) == 4)
    assert {f"end {end}" for end in ends} < {*calls_at_release}
    assert [tasks.status(result) for result in results] == ["READY", "READY", "FAILED", "SUCCESSFUL"]
    for result in results[:2]:
        result.refresh()
        assert [error.exception_class for error in result.errors] == [WorkerStopped]
    expected = {("tasks.successful", "default"): 1, ("tasks.failed", "default"): 1}
    assert growth.of("tasks.successful", "tasks.failed") == expected


async def test_a_task_that_cannot_be_cancelled_does_not_hold_up_the_end(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which it is. What becomes of it later is not reported: another worker has it."""
    try:
        async with tasks.working(concurrency=1, deadline_seconds=0.1) as worker:
            result = aunstoppable.enqueue("a")
            await wait_until(lambda: calls == ["a"])
            found = [*worker._runner._tasks]
        assert f"the task {result.id} was cancelled because the worker ends, and goes on all the same" in caplog.text
        assert tasks.status(result) == "READY"
    finally:
        gates["a"].set()
    await asyncio.wait(found)
    assert [task.exception() for task in found] == [None]
    assert worker._queues["default"]._ends._task is None
    assert tasks.status(result) == "READY"


async def test_an_end_is_counted_once_though_redis_is_asked_twice(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, growth: Growth
) -> None:
    """By the writer of ends, which had no answer at the deadline, and by the worker that leaves."""
    finish, asked, is_asked_again = TaskQueue.finish, list[Any](), asyncio.Event()

    async def finish_slowly(self: TaskQueue, client: Any, outcomes: Any) -> list[int]:
        answers = await finish(self, client, outcomes)
        if outcomes:
            asked.append(outcomes)
            if len(asked) == 1:
                await is_asked_again.wait()
            else:
                is_asked_again.set()
                await asyncio.sleep(0.05)
        return answers

    monkeypatch.setattr(TaskQueue, "finish", finish_slowly)
    async with tasks.working(concurrency=1, deadline_seconds=0.1):
        result = note.enqueue("a")
        await wait_until(lambda: asked)
    assert len(asked) == 2
    assert tasks.status(result) == "SUCCESSFUL"
    assert growth.of("tasks.successful") == {("tasks.successful", "default"): 1}


async def test_a_worker_stops_without_redis(signalbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its deadline, and leaves no task of the event loop behind."""
    monkeypatch.setattr("realtime.tasks.worker.RELEASE_SECONDS", 1.0)
    with RedisServer(append_only=True) as server, clients.publisher(server.url) as client:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        with tasks_of(signalbox, client, get_settings().key_prefix) as tasks:
            before = asyncio.all_tasks()
            async with tasks.working(concurrency=2) as worker:
                first, second = hold.enqueue("a"), hold.enqueue("b")
                await wait_until(lambda: sorted(calls) == ["a", "b"])
                await asyncio.to_thread(server.kill)
                gates["a"].set()
                await wait_until(lambda: worker._queues["default"]._ends._task is not None)
                async with asyncio.timeout(60):
                    await worker.stop(deadline_seconds=0.5)
            assert asyncio.all_tasks() == before
            gates["b"].set()
            await asyncio.to_thread(server.start)
            async with tasks.working(concurrency=2):
                await await_result(first, 60)
                await await_result(second, 60)
            assert [result.return_value for result in (first, second)] == ["a", "b"]


async def test_tasks_outlast_an_outage_of_redis(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    """Ends wait for it, and then each task has one; the outage is logged once."""
    async with Proxy(get_settings().redis_url) as proxy, tasks.working(concurrency=2, url=proxy.url):
        held = [hold.enqueue(name) for name in "ab"]
        tried = fail_times.using(max_attempts=3, backoff=0).enqueue("t", 2)
        await wait_until(lambda: len(calls) == 2)
        proxy.go_away()
        for name in "ab":
            gates[name].set()
        await wait_until(lambda: "Redis is unavailable" in caplog.text)
        assert [tasks.status(result) for result in held] == ["RUNNING"] * 2
        proxy.come_back()
        for result in (*held, tried, add.enqueue(1, 1)):
            await await_result(result, 60)
            assert result.status == "SUCCESSFUL"
        await wait_until(lambda: tasks.left_count() == 0, seconds=90)
    assert sorted(calls) == ["a", "b", "t", "t", "t"]


async def test_connections_that_go_deaf_are_replaced(tasks: Tasks) -> None:
    """No task runs twice, unless its worker was silent for longer than its lease."""
    async with Proxy(get_settings().redis_url) as proxy, tasks.working(concurrency=2, url=proxy.url):
        await await_result(note.enqueue("before"), 60)
        proxy.go_deaf()
        results = [note.enqueue(number) for number in range(5)]
        for result in results:
            await await_result(result, 60)
        await wait_until(lambda: tasks.left_count() == 0, seconds=90)


async def test_a_redis_that_refuses_writes_is_waited_for(tasks: Tasks, redis_client: redis.Redis) -> None:
    """As one that is full: what was fetched runs when it accepts them again."""
    async with tasks.working(concurrency=1) as worker:
        result = hold.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        redis_client.config_set("maxmemory", "1")
        try:
            gates["a"].set()
            await wait_until(lambda: worker._outage.is_on)
            assert tasks.status(result) == "RUNNING"
        finally:
            redis_client.config_set("maxmemory", "0")
        assert (await await_result(result, 60)).return_value == "a"


async def test_what_is_not_to_run_again_has_failed_at_the_deadline(tasks: Tasks, growth: Growth) -> None:
    """Nobody knows how far it came."""
    async with tasks.working(concurrency=1) as worker:
        result = hold.using(run_again_if_lost=False).enqueue("a")
        await wait_until(lambda: calls == ["a"])
        await worker.stop(deadline_seconds=0.1)
        await await_result(result, 60)
    gates["a"].set()
    assert result.status == "FAILED"
    assert [error.exception_class for error in result.errors] == [WorkerStopped]
    assert growth.of("tasks.failed") == {("tasks.failed", "default"): 1}
