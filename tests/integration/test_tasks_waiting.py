"""Waiting for results, from sync and from async code, and through what may happen to Redis meanwhile."""

import asyncio
import threading
import time
from typing import Any

import pytest
import redis

from realtime.conf import get_settings, keys
from realtime.redis import clients
from realtime.tasks import await_result, wait
from realtime.tasks.django_api import TaskResultDoesNotExist, default_task_backend
from tests.support.redis_server import RedisServer
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import add, ahold, calls, fail, gates, hold, note
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


def channel_count(client: redis.Redis, *results: Any) -> int:
    """On how many channels of these results somebody waits."""
    names = [keys().task_channel(result.id) for result in results]
    return sum(count > 0 for _, count in client.pubsub_numsub(*names))


async def test_sync_code_waits(tasks: Tasks, redis_client: redis.Redis) -> None:
    """For a task that runs, and for one that has finished."""
    async with tasks.working():
        result = hold.enqueue("a")
        waiting = asyncio.create_task(asyncio.to_thread(wait, result, 10))
        await wait_until(lambda: channel_count(redis_client, result) == 1)
        assert not waiting.done()
        gates["a"].set()
        assert await waiting is result
        assert result.return_value == "a"
        again = default_task_backend.get_result(result.id)
        assert (await asyncio.to_thread(wait, again, 10)).return_value == "a"
        await wait_until(lambda: channel_count(redis_client, result) == 0)


async def test_a_failed_task_ends_the_wait(tasks: Tasks) -> None:
    """It raises nothing: the result says what happened."""
    async with tasks.working():
        assert (await await_result(fail.enqueue("value"), 60)).status == "FAILED"
        assert (await asyncio.to_thread(wait, fail.enqueue("value"), 10)).status == "FAILED"


async def test_a_wait_has_an_end(tasks: Tasks, redis_client: redis.Redis) -> None:
    """The result stays as it was, and nobody listens any more."""
    result = note.enqueue("a")
    for seconds in (0, 0.05):
        with pytest.raises(TimeoutError, match=f"has not finished within {seconds:g} s"):
            await await_result(result, seconds)
        with pytest.raises(TimeoutError, match=f"has not finished within {seconds:g} s"):
            await asyncio.to_thread(wait, result, seconds)
    assert result.status == "READY"
    await wait_until(lambda: channel_count(redis_client, result) == 0)


async def test_a_wait_can_be_cancelled(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Others that wait for the same task are not affected."""
    async with tasks.working():
        result = ahold.enqueue("a")
        first, second = (asyncio.create_task(await_result(result, 60)) for _ in range(2))
        await wait_until(lambda: channel_count(redis_client, result) == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gates["a"].set()
        assert (await second).return_value == "a"
    await wait_until(lambda: channel_count(redis_client, result) == 0)


async def test_a_task_that_is_not_there_ends_the_wait(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Not enqueued yet, expired, or deleted."""
    result = note.enqueue("a")
    redis_client.delete(tasks.backend.queue("default").task_key(result.id))
    with pytest.raises(TaskResultDoesNotExist):
        await await_result(result, 60)
    with pytest.raises(TaskResultDoesNotExist):
        await asyncio.to_thread(wait, result, 10)


async def test_many_wait_at_the_same_time(tasks: Tasks, redis_client: redis.Redis) -> None:
    """On one connection; each gets its own end."""
    async with tasks.working(concurrency=20):
        results = [add.enqueue(number, 1) for number in range(100)]
        found = await asyncio.gather(*(await_result(result, 60) for result in results))
        assert [result.return_value for result in found] == [number + 1 for number in range(100)]
        assert sum(client["sub"] != "0" for client in redis_client.client_list()) <= 1


async def test_a_lost_connection_loses_no_end(tasks: Tasks, redis_client: redis.Redis) -> None:
    """The task finishes while nobody listens: after the connection is back, its status is read again."""
    async with tasks.working(concurrency=4):
        results = [hold.enqueue(name) for name in "abcd"]
        waits = [asyncio.create_task(await_result(result, 60)) for result in results]
        await wait_until(lambda: channel_count(redis_client, *results) == 4)
        for name in "abcd":
            redis_client.client_kill_filter(_type="pubsub")
            gates[name].set()
        assert [result.return_value for result in await asyncio.gather(*waits)] == [*"abcd"]


async def test_a_wait_outlasts_a_restart_of_redis(signalbox: Any) -> None:
    """And so do the task and its worker: what Redis kept goes on."""
    from tests.support.tasks import tasks_of

    with RedisServer(append_only=True) as server, clients.publisher(server.url) as client:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        with tasks_of(signalbox, client, get_settings().key_prefix) as tasks:
            async with tasks.working(concurrency=2):
                result, later = hold.enqueue("a"), hold.enqueue("b")
                waits = [asyncio.create_task(await_result(each, 60)) for each in (result, later)]
                threaded = asyncio.create_task(asyncio.to_thread(wait, default_task_backend.get_result(result.id), 30))
                await wait_until(lambda: sorted(calls) == ["a", "b"])
                await asyncio.to_thread(server.kill)
                gates["a"].set()
                await asyncio.to_thread(server.start)
                assert (await waits[0]).return_value == "a"
                assert (await threaded).return_value == "a"
                gates["b"].set()
                assert (await waits[1]).return_value == "b"
                assert result.errors == later.errors == []


async def test_a_wait_without_redis_has_an_end(signalbox: Any, tasks: Tasks) -> None:
    """It waits for Redis no longer than it may."""
    result = note.enqueue("a")
    signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": "unix:///nobody.sock"}
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await await_result(result, 0.2)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(wait, result, 0.2)
    assert time.monotonic() - began < 30


def test_threads_share_one_connection(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Also those that begin to wait at the same time."""
    results = [note.enqueue(number) for number in range(10)]
    ends: list[str] = []

    def wait_for(result: Any) -> None:
        try:
            wait(result, 0.5)
        except TimeoutError:
            ends.append(result.id)

    threads = [threading.Thread(target=wait_for, args=[result]) for result in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == sorted(result.id for result in results)
    assert sum(thread.name == "signalbox task results" for thread in threading.enumerate()) == 1
