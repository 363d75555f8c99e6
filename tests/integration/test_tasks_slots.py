"""How many tasks run at a time in a worker, and what becomes of those that it fetched ahead."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.tasks import await_result, runner
from realtime.tasks.worker import TaskWorker
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import add, ahold, anote, calls, gates, hold, note, spin
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


@pytest.mark.parametrize("function", [spin, ahold], ids=["sync", "async"])
async def test_no_more_tasks_run_than_the_concurrency(tasks: Tasks, function: Any) -> None:
    """Threads and the loop alike; the next one begins when one ends."""
    results = [function.enqueue(str(number)) for number in range(8)]
    async with tasks.working(concurrency=3):
        await wait_until(lambda: len(calls) == 3)
        # Whatever would begin as well has begun when another task has been enqueued, and fetched by another worker.
        async with tasks.working(concurrency=1):
            await wait_until(lambda: len(calls) == 4)
            assert {*calls[:3]} == {*"012"}
            assert calls[3] == "3"
            for number in range(8):
                gates[str(number)].set()
            for result in results:
                assert (await await_result(result, 60)).return_value in list("01234567")
    assert sorted(calls) == list("01234567")


async def test_queues_share_the_slots_of_a_worker(tasks: Tasks) -> None:
    """While one queue uses them all, nothing of the other is fetched; when a task ends, it begins at once."""
    async with tasks.working("default", "mail", concurrency=2):
        held = [hold.enqueue(name) for name in "ab"]
        await wait_until(lambda: len(calls) == 2)
        mail = [note.using(queue_name="mail").enqueue(name) for name in "cd"]
        assert sorted(calls) == ["a", "b"]
        gates["a"].set()
        # Sooner than any poll: blocking reads take 5 seconds.
        for result in mail:
            await await_result(result, 3)
        gates["b"].set()
        for result in held:
            await await_result(result, 60)


@pytest.mark.parametrize(("function", "short"), [(hold, note), (ahold, anote)], ids=["sync", "async"])
async def test_long_tasks_do_not_hold_up_those_that_were_fetched_ahead(tasks: Tasks, function: Any, short: Any) -> None:
    """After a second, they are given back, and another worker runs them."""
    async with tasks.working(concurrency=2) as busy:
        await _fetch_ahead(busy, short)
        held = [function.enqueue(name) for name in "ab"]
        late = [short.enqueue(name) for name in ("late", "later")]
        await wait_until(lambda: "a" in calls and "b" in calls)
        async with tasks.working(concurrency=1) as other:
            for result in late:
                await await_result(result, 60)
                assert result.worker_ids == [other.consumer]
                assert result.attempts == 1
        for name in "ab":
            gates[name].set()
        for result in held:
            assert (await await_result(result, 60)).worker_ids == [busy.consumer]
    assert tasks.left_count() == 0


async def _fetch_ahead(worker: TaskWorker, short: Any) -> None:
    """Let a worker run short tasks until it fetches ahead, also on a slow machine."""
    enqueued_count = 0

    def is_ahead() -> bool:
        nonlocal enqueued_count
        if len(calls) < enqueued_count:
            return False
        if worker._runner._ahead() > 0:
            return True
        for _ in range(60):
            short.enqueue(enqueued_count)
            enqueued_count += 1
        return False

    await wait_until(is_ahead)


@pytest.mark.parametrize("then_seconds", [61, 80], ids=["punctual", "late again"])
async def test_a_process_that_was_held_up_looks_again_before_it_gives_back(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, then_seconds: float
) -> None:
    """It cannot know yet whether its tasks are long. But a process that is always late gives them back, too."""
    now = time.monotonic()
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(runner, "GIVE_BACK_SECONDS", 60)
    # As when tasks are so short that many are fetched ahead.
    ahead = 10
    monkeypatch.setattr(runner.Runner, "_ahead", lambda self: ahead)
    async with tasks.working(concurrency=1) as busy:
        held = hold.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        late = [note.enqueue(number) for number in range(4)]
        await wait_until(lambda: busy._runner._waiting.qsize() == 4)
        # The timer is far away: this test calls what it calls.
        now += 80
        busy._runner._give_back_late()
        assert busy._runner._waiting.qsize() == 4
        async with tasks.working(concurrency=1) as other:
            ahead = 0
            now += then_seconds
            busy._runner._give_back_late()
            assert busy._runner._waiting.qsize() == 0
            for result in late:
                assert (await await_result(result, 60)).worker_ids == [other.consumer]
        gates["a"].set()
        await await_result(held, 60)


async def test_sync_and_async_tasks_run_side_by_side(tasks: Tasks) -> None:
    """An async task does not wait for a thread, nor a sync task for the loop."""
    async with tasks.working(concurrency=2):
        first, second = hold.enqueue("a"), ahold.enqueue("b")
        await wait_until(lambda: sorted(calls) == ["a", "b"])
        gates["a"].set()
        gates["b"].set()
        await await_result(first, 60)
        await await_result(second, 60)
        assert (await await_result(add.enqueue(1, 1), 60)).return_value == 2
