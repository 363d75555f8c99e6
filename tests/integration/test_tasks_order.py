"""Which task runs next: order, priorities, and times."""

import datetime
import time

import pytest
import redis
from django.utils import timezone

from realtime.conf import keys
from realtime.tasks import await_result
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import calls, fail_times, gates, hold, note
from tests.support.waiting import Standstill, wait_until

pytestmark = pytest.mark.database_independent


def in_ms(milliseconds: float) -> datetime.datetime:
    return timezone.now() + datetime.timedelta(milliseconds=milliseconds)


async def test_tasks_wait_in_the_order_in_which_they_were_enqueued(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Also those of one millisecond."""
    results = [note.enqueue(number) for number in range(200)]
    items = redis_client.zrange(keys().waiting_tasks("default"), 0, -1)
    assert [item.decode() for item in items] == [f"0:{result.id}#1" for result in results]
    async with tasks.working(concurrency=1):
        await wait_until(lambda: len(calls) == 200)
    assert calls == [*range(200)]


async def test_tasks_of_a_higher_priority_come_first(tasks: Tasks) -> None:
    """Of those that wait when a slot becomes free; those of the same priority in their order."""
    async with tasks.working(concurrency=1):
        held = hold.enqueue("first")
        await wait_until(lambda: calls == ["first"])
        results = [
            note.using(priority=priority).enqueue([priority, number])
            for number in range(3)
            for priority in (0, -100, 100, 7)
        ]
        gates["first"].set()
        await await_result(held, 60)
        for result in results:
            await await_result(result, 60)
    wanted = sorted([[p, n] for n in range(3) for p in (0, -100, 100, 7)], key=lambda x: -x[0])
    assert calls[1:] == wanted


async def test_nothing_waits_for_ever(tasks: Tasks, redis_client: redis.Redis) -> None:
    """A point of priority is worth a minute: a task of priority -1 comes before what is enqueued a minute later."""
    waiting = keys().waiting_tasks("default")
    note.using(priority=-1).enqueue("old")
    (item,) = redis_client.zrange(waiting, 0, -1)
    redis_client.zincrby(waiting, -61_000_000, item)
    note.enqueue("new")
    async with tasks.working(concurrency=1):
        await wait_until(lambda: len(calls) == 2)
    assert calls == ["old", "new"]


async def test_a_task_runs_when_it_is_due(tasks: Tasks) -> None:
    """Not before, and at once then; also if the worker was idle, and if a later one was there already."""
    async with tasks.working(concurrency=1), Standstill() as stood:
        late, soon = in_ms(60_000), in_ms(300)
        later = note.using(run_after=late).enqueue("later")
        result = note.using(run_after=soon).enqueue("soon")
        await await_result(result, 60)
        assert 0 <= (result.started_at - soon).total_seconds() < 2 + stood.seconds
        assert tasks.status(later) == "READY"
        assert abs(later.task.get_result(later.id).task.run_after - late).total_seconds() < 0.01
    assert calls == ["soon"]


async def test_tasks_that_are_due_come_in_the_order_of_their_times(tasks: Tasks) -> None:
    """Whenever they were enqueued; and also if no worker ran when they were due."""
    for number in (3, 1, 2):
        note.using(run_after=in_ms(100 + 50 * number)).enqueue(number)
    until = time.monotonic() + 0.3
    await wait_until(lambda: time.monotonic() > until)
    async with tasks.working(concurrency=1):
        await wait_until(lambda: len(calls) == 3)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("due", ["past", "epoch", "min", "max"])
async def test_any_time_can_be_given(tasks: Tasks, due: str) -> None:
    """A time in the past is now; the last one of all is far away."""
    moment = {
        "past": in_ms(-1000),
        "epoch": datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
        "min": datetime.datetime.min.replace(tzinfo=datetime.UTC),
        "max": datetime.datetime.max.replace(tzinfo=datetime.UTC),
    }[due]
    result = note.using(run_after=moment).enqueue(due)
    async with tasks.working(concurrency=1):
        await await_result(note.enqueue("other"), 60)
        if due == "max":
            result.refresh()
            assert result.status == "READY"
        else:
            await await_result(result, 60)


async def test_an_idle_worker_takes_what_is_enqueued_at_once(tasks: Tasks) -> None:
    """Every time: a lost wake-up would cost up to five seconds."""
    async with tasks.working(concurrency=1), tasks.working(concurrency=1):
        for number in range(50):
            async with Standstill() as stood:
                began = time.monotonic()
                results = [note.enqueue([number, part]) for part in range(number % 4 + 1)]
                for result in results:
                    await await_result(result, 60)
                assert time.monotonic() - began - stood.seconds < 3
    assert len(calls) == sum(number % 4 + 1 for number in range(50))


async def test_a_retry_wakes_an_idle_worker(tasks: Tasks) -> None:
    """It does not wait for the worker's next look at Redis."""
    async with tasks.working(concurrency=1), Standstill() as stood:
        began = time.monotonic()
        result = fail_times.using(max_attempts=3, backoff=[0.1, 0.2]).enqueue("a", 2)
        await await_result(result, 60)
        assert time.monotonic() - began - stood.seconds < 4
    assert result.return_value == 3
    assert result.attempts == 3
    assert [error.traceback.splitlines()[-1] for error in result.errors] == [
        "ValueError: attempt 1",
        "ValueError: attempt 2",
    ]
    assert result.started_at < result.last_attempted_at < result.finished_at
