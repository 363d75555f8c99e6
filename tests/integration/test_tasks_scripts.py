"""The scripts of a task queue: called twice, with stale tickets and claims, and after what others did to Redis."""

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio

from realtime.conf import async_redis, get_settings, keys, sync_redis
from realtime.tasks import await_result
from realtime.tasks.django_api import AnyTaskResult
from realtime.tasks.store import Outcome, Request, TaskQueue
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import calls, fail_times, gates, hold, note
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

CLAIM, OTHER = b"worker 1-0 1", b"other 1-0 2"
ERROR = b'{"class": "builtins.ValueError", "traceback": "no good"}'


@pytest.fixture
def queue(tasks: Tasks) -> TaskQueue:
    return tasks.backend.queue("default")


async def begin(queue: TaskQueue, result: AnyTaskResult, claim: bytes = CLAIM, ticket: bytes = b"1") -> str:
    worker = claim.partition(b" ")[0].decode()
    (begun,) = await queue.begin(async_redis(), worker, [(result.id, ticket, claim)])
    return begun.state


async def finish(queue: TaskQueue, result: AnyTaskResult, kind: str, claim: bytes = CLAIM) -> bool:
    body = b"1" if kind == "SUCCESSFUL" else ERROR
    (is_ours,) = await queue.finish(async_redis(), [Outcome(result.id, claim, kind, body, 0)])
    return is_ours


def places(client: redis.Redis, result: AnyTaskResult) -> list[str]:
    """Where a task waits: entries of the stream, and items of the lists."""
    of_stream = [fields.get(b"item", b"") for _, fields in client.xrange(keys().task_queue("default"))]
    names = (keys().waiting_tasks("default"), keys().scheduled_tasks("default"))
    items = [*of_stream, *(item for name in names for item in client.zrange(name, 0, -1))]
    return [item.decode() for item in items if result.id in item.decode()]


async def test_enqueuing_twice_changes_nothing(tasks: Tasks, queue: TaskQueue, redis_client: redis.Redis) -> None:
    """As after a lost reply: also when the task runs already, or has finished."""
    request = Request("default.abc", 0, 5, "key", 10, {"func": "f", "call": "[[],{}]", "options": "{}"})
    first = queue.enqueue(sync_redis(), request)
    fields = tasks.fields("default.abc")
    assert queue.enqueue(sync_redis(), request) == first
    assert tasks.fields("default.abc") == fields
    await queue.begin(async_redis(), "worker", [("default.abc", b"1", CLAIM)])
    assert queue.enqueue(sync_redis(), request) == first
    await queue.finish(async_redis(), [Outcome("default.abc", CLAIM, "SUCCESSFUL", b"1", 0)])
    fields = tasks.fields("default.abc")
    assert await queue.aenqueue(async_redis(), request) == first
    assert tasks.fields("default.abc") == fields
    assert redis_client.zcard(queue.waiting_list.waiting) == 1


async def test_beginning_twice_is_one_attempt(tasks: Tasks, queue: TaskQueue) -> None:
    """With the same claim."""
    result = note.enqueue("a")
    assert await begin(queue, result) == "run"
    fields = tasks.fields(result.id)
    assert await begin(queue, result) == "run"
    assert tasks.fields(result.id) == fields
    assert fields["workers"] == "worker"


@pytest.mark.parametrize("kind", ["SUCCESSFUL", "FAILED", "RETRY"])
async def test_finishing_twice_is_one_end(tasks: Tasks, queue: TaskQueue, redis_client: redis.Redis, kind: str) -> None:
    """One error, one place to wait, and it counts as this worker's both times."""
    result = note.enqueue("a")
    await begin(queue, result)
    assert await finish(queue, result, kind)
    fields, where = tasks.fields(result.id), places(redis_client, result)
    assert await finish(queue, result, kind)
    assert tasks.fields(result.id) == fields
    assert places(redis_client, result) == where
    assert fields.get("error_count") == (None if kind == "SUCCESSFUL" else "1")


async def test_releasing_twice_is_one_place(tasks: Tasks, queue: TaskQueue, redis_client: redis.Redis) -> None:
    """And the attempt did not happen."""
    result = note.enqueue("a")
    await begin(queue, result)
    for _ in range(2):
        await queue.release(async_redis(), [(result.id, CLAIM)])
        fields = tasks.fields(result.id)
        assert fields["status"] == "READY"
        assert fields["ticket"] == "2"
        assert not {"workers", "started", "attempted"} & fields.keys()
        assert len(places(redis_client, result)) == 2
    result.refresh()
    assert result.attempts == 0
    assert result.started_at is None


@pytest.mark.parametrize("is_begun", [False, True])
async def test_an_end_after_a_release_is_not_recorded(tasks: Tasks, queue: TaskQueue, is_begun: bool) -> None:
    """The task will run again, so the worker that was cut off must not count this end."""
    result = note.enqueue("a")
    await begin(queue, result)
    await queue.release(async_redis(), [(result.id, CLAIM)], is_begun=is_begun)
    assert not await finish(queue, result, "SUCCESSFUL")
    assert tasks.status(result) == "READY"


async def test_running_again_and_discarding_twice(tasks: Tasks, queue: TaskQueue, redis_client: redis.Redis) -> None:
    """The second call finds nothing to do."""
    result = note.enqueue("a")
    await begin(queue, result)
    assert queue.run_again(sync_redis(), [result.id]) == queue.discard(sync_redis(), [result.id]) == 0
    await finish(queue, result, "FAILED")
    assert [queue.run_again(sync_redis(), [result.id, "default.none"]) for _ in range(2)] == [1, 0]
    assert tasks.status(result) == "READY"
    assert redis_client.ttl(queue.task_key(result.id)) == -1
    assert queue.discard(sync_redis(), [result.id]) == 1
    result.refresh()
    assert result.status == "FAILED"
    assert [error.exception_class_path.rpartition(".")[2] for error in result.errors] == ["ValueError", "TaskDiscarded"]
    assert queue.discard(sync_redis(), [result.id]) == 1
    assert queue.discard(sync_redis(), [result.id]) == 0
    assert tasks.fields(result.id) == {}
    assert redis_client.zcard(queue.failed) == 0


async def test_a_task_that_is_discarded_never_runs(tasks: Tasks, queue: TaskQueue, redis_client: redis.Redis) -> None:
    """Whether it waits on the stream, in the list, or for its time; those who wait for it are told."""
    results = [note.enqueue("stream"), note.enqueue("list"), note.using(run_after=far()).enqueue("later")]
    waits = [asyncio.create_task(await_result(result, 60)) for result in results]
    names = [keys().task_channel(result.id) for result in results]
    await wait_until(lambda: all(count for _, count in redis_client.pubsub_numsub(*names)))
    assert queue.discard(sync_redis(), [result.id for result in results]) == 3
    assert [result.status for result in await asyncio.gather(*waits)] == ["FAILED"] * 3
    assert redis_client.zcard(queue.waiting_list.waiting) == redis_client.zcard(queue.waiting_list.scheduled) == 0
    async with tasks.working():
        await await_result(note.enqueue("last"), 60)
        await wait_until(lambda: tasks.left_count() == 0)
    assert calls == ["last"]


def far() -> Any:
    from datetime import timedelta

    from django.utils import timezone

    return timezone.now() + timedelta(days=1)


async def test_a_stale_ticket_or_claim_changes_nothing(tasks: Tasks, queue: TaskQueue) -> None:
    """Of an earlier place, of a worker that lost the task, of a task that has finished or does not exist."""
    result = note.enqueue("a")
    assert await begin(queue, result, ticket=b"0") == "over"
    assert await begin(queue, result, ticket=b"") == "over"
    assert await begin(queue, result) == "run"
    assert await begin(queue, result, claim=OTHER) == "run"
    fields = tasks.fields(result.id)
    assert not await finish(queue, result, "SUCCESSFUL")
    await queue.release(async_redis(), [(result.id, CLAIM)])
    assert tasks.fields(result.id) == fields
    assert await finish(queue, result, "RETRY", claim=OTHER)
    assert await begin(queue, result, claim=OTHER) == "over"
    assert await begin(queue, result, ticket=b"2") == "run"
    assert await finish(queue, result, "SUCCESSFUL")
    assert await begin(queue, result, ticket=b"2", claim=OTHER) == "over"
    (begun,) = await queue.begin(async_redis(), "worker", [("default.none", b"1", CLAIM)])
    assert begun.state == "over"
    assert tasks.fields("default.none") == {}


async def test_three_deaths_fail_a_task(tasks: Tasks, queue: TaskQueue) -> None:
    """Two may happen to any; and with run_again_if_lost off, none."""
    result, once = note.enqueue("a"), note.using(run_again_if_lost=False).enqueue("b")
    for number in range(1, 4):
        assert await begin(queue, result, claim=b"w%d 1-0 %d" % (number, number)) == "run"
    assert await begin(queue, result, claim=b"w4 1-0 4") == "lost"
    result.refresh()
    assert result.status == "FAILED"
    assert result.worker_ids == ["w1", "w2", "w3"]
    assert [error.traceback.split()[2] for error in result.errors] == ["w1", "w2", "w3"]
    assert await begin(queue, once) == "run"
    assert await begin(queue, once, claim=OTHER) == "lost"
    assert queue.run_again(sync_redis(), [result.id]) == 1
    assert await begin(queue, result, ticket=b"2", claim=b"w5 1-0 5") == "run"
    assert await begin(queue, result, ticket=b"2", claim=b"w6 1-0 6") == "run"


async def test_many_at_once(tasks: Tasks, queue: TaskQueue) -> None:
    """More than one call of a script takes."""
    results = [note.enqueue(number) for number in range(1100)]
    claims = [(result.id, b"1", b"w %d-0 1" % number) for number, result in enumerate(results)]
    begun = await queue.begin(async_redis(), "w", claims)
    assert [each.state for each in begun] == ["run"] * 1100
    outcomes = [Outcome(id, claim, "SUCCESSFUL", b"1", 0) for id, _, claim in claims]
    assert await queue.finish(async_redis(), outcomes) == [True] * 1100


# Through a worker -----------------------------------------------------------------------------------------------------


async def test_replies_that_are_lost_change_nothing(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Every connection is cut again and again: each task ends once, and each error counts once."""
    async with tasks.working(concurrency=4), tasks.working(concurrency=4):
        good = [note.enqueue(number) for number in range(100)]
        tried = [fail_times.using(max_attempts=3, backoff=0.01).enqueue(f"t{number}", 2) for number in range(20)]
        for _ in range(15):
            redis_client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)
        await wait_until(lambda: tasks.is_over(*good, *tried), seconds=90)
        await wait_until(lambda: tasks.left_count() == 0)
    for result in good:
        result.refresh()
        assert result.status == "SUCCESSFUL"
    for result in tried:
        result.refresh()
        assert result.status == "SUCCESSFUL"
        assert len([error for error in result.errors if error.exception_class is ValueError]) == 2
    assert {*calls} == {*range(100), *(f"t{number}" for number in range(20))}


MALFORMED: list[dict[Any, Any]] = [
    {"item": ""},
    {"item": "nonsense"},
    {"item": "0:default.x"},
    {"item": "0:default.x#"},
    {"item": "x:#1"},
    {"item": "#:#"},
    {"item": b"0:\xff\xfe#1"},
    {"item": "0:a b c#1 2"},
    {"item": "0:" + "x" * 100_000 + "#1"},
    {"wake": "1"},
    {"other": "field"},
    {b"\xff": b"\xff"},
    {"item": "0:{}#1", "more": "x"},
]


async def test_entries_of_other_programs_are_passed_over(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Whatever they are; the tasks between them run."""
    stream = keys().task_queue("default")
    results = []
    for number, fields in enumerate(MALFORMED):
        redis_client.xadd(stream, fields)
        results.append(note.enqueue(number))
    waiting = {each["item"]: number for number, each in enumerate(MALFORMED) if each.get("item")}
    redis_client.zadd(keys().waiting_tasks("default"), waiting)
    redis_client.zadd(keys().scheduled_tasks("default"), waiting)
    async with tasks.working(concurrency=2):
        for result in results:
            await await_result(result, 60)
        await wait_until(lambda: tasks.left_count() == 0)
        await wait_until(lambda: redis_client.zcard(keys().waiting_tasks("default")) == 0)
        assert redis_client.zcard(keys().scheduled_tasks("default")) == 0
    assert sorted(calls) == [*range(len(MALFORMED))]


async def test_a_task_whose_hash_is_deleted_while_it_runs_is_gone(
    tasks: Tasks, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end is not recorded, nothing is left of it, and the worker goes on."""
    async with tasks.working(concurrency=1):
        result = hold.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        redis_client.delete(tasks.backend.queue("default").task_key(result.id))
        gates["a"].set()
        await wait_until(lambda: "or was deleted" in caplog.text)
        await await_result(note.enqueue("next"), 60)
        await wait_until(lambda: tasks.left_count() == 0)
    assert tasks.fields(result.id) == {}


async def test_a_worker_outlasts_a_redis_that_was_wiped(tasks: Tasks, redis_client: redis.Redis) -> None:
    """What was there is gone; what is enqueued afterwards runs, and the task that ran meanwhile does no harm."""
    async with tasks.working(concurrency=2):
        hold.enqueue("a")
        await wait_until(lambda: calls == ["a"])
        for key in redis_client.scan_iter(match=f"*{get_settings().key_prefix}tasks:*"):
            redis_client.delete(key)
        results = [note.enqueue(number) for number in range(5)]
        for result in results:
            await await_result(result, 60)
        gates["a"].set()
        await await_result(note.enqueue("last"), 60)
        await wait_until(lambda: tasks.left_count() == 0)
