"""Periodic tasks: each tick is enqueued once, whatever happens to the processes that enqueue it, and to Redis."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured

from realtime.conf import get_settings, keys
from realtime.redis import clients
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.tasks import RedisStreamBackend
from realtime.tasks.django_api import task, task_backends, task_enqueued
from realtime.tasks.periodic_tasks import PeriodicTask
from realtime.tasks.schedule import CronSchedule, IntervalSchedule, Schedule
from realtime.tasks.scheduler import Scheduler
from realtime.tasks.service import TaskService
from realtime.tasks.store import TICK_KEPT_MS, Tick
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

NAME = "tidy at night"
# A Friday, long ago: a tick far in the future would mean that the clock of Redis is wrong.
NOON = datetime(2026, 3, 6, 12, tzinfo=UTC)
HOURLY = "0 * * * *"

# What `note_tick` was called with.
noted: list[tuple[Any, datetime]] = []


@task
def tidy(*args: Any, **kwargs: Any) -> None:
    """Runs in no test but is enqueued."""


@task(takes_context=True)
def note_tick(context: Any, value: Any) -> None:
    noted.append((value, context.task_result.task.run_after))


@pytest.fixture
def backend(signalbox: Any) -> RedisStreamBackend:
    signalbox.TASKS = {
        "default": {
            "BACKEND": "realtime.tasks.RedisStreamBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"length_limit": 100},
        }
    }
    found = task_backends["default"]
    assert isinstance(found, RedisStreamBackend)
    return found


@pytest.fixture
def ticks(backend: RedisStreamBackend, redis_client: redis.Redis) -> Iterator[Callable[[], list[datetime]]]:
    """The ticks of all enqueued tasks, in order. Removes the tasks, which nobody runs, at the end."""

    def read() -> list[datetime]:
        return sorted(
            datetime.fromtimestamp(ms_of(redis_client.hget(key, "run_after")) / 1000, UTC)
            for queue in ("default", "mail")
            for key in redis_client.scan_iter(match=f"{keys().task(queue, '')}*", count=1000)
        )

    yield read
    for key in redis_client.scan_iter(match=f"*{get_settings().key_prefix}tasks:*", count=1000):
        if b":periodic:" not in key:
            redis_client.delete(key)


@pytest.fixture
async def scheduler(
    backend: RedisStreamBackend, ticks: Any, async_redis_client: redis.asyncio.Redis
) -> Callable[..., Scheduler]:
    """Makes the scheduler of a process that has one periodic task, by default each hour."""

    def make(schedule: str | Schedule = HOURLY, *, task: Any = tidy, **call: Any) -> Scheduler:
        return Scheduler(backend, [declared(schedule, task, **call)], async_redis_client, outage=Outage("Redis"))

    return make


def declared(schedule: str | Schedule = HOURLY, task: Any = tidy, *, name: str = NAME, **call: Any) -> PeriodicTask:
    """A periodic task; a text is a cron expression in UTC."""
    found = CronSchedule(schedule, "UTC") if isinstance(schedule, str) else schedule
    return PeriodicTask(name=name, task=task, schedule=found, args=call.pop("args", ()), kwargs=call)


def at(hours: float) -> datetime:
    """A time after noon."""
    return NOON + timedelta(hours=hours)


# Which ticks are enqueued ---------------------------------------------------------------------------------------------


async def test_a_tick_is_enqueued_once_with_its_moment_and_arguments(
    scheduler: Any, ticks: Any, redis_client: redis.Redis
) -> None:
    """A new task does not run for ticks before it was first seen, nor for one that comes at that moment."""
    process = scheduler(args=["a"], b=1)
    for hours in (0, 0.5, 0.99, 1, 1.01, 1.5):
        await process.look(at(hours))
    assert ticks() == [at(1)]
    (key,) = redis_client.scan_iter(match=f"{keys().task('default', '')}*")
    assert json.loads(redis_client.hget(key, "call") or b"") == [["a"], {"b": 1}]
    assert redis_client.hget(key, "status") == b"READY"


async def test_after_downtime_the_latest_missed_tick_is_enqueued_alone(scheduler: Any, ticks: Any) -> None:
    """By a process that has enqueued the earlier ones, or by a new one."""
    await scheduler().look(at(0.5))
    first = scheduler()
    await first.look(at(1.5))
    await first.look(at(9.5))
    await scheduler().look(at(99.5))
    assert ticks() == [at(1), at(9), at(99)]


async def test_without_time_zones_in_the_project(scheduler: Any, ticks: Any, signalbox: Any) -> None:
    """With USE_TZ off, the ticks are the same moments."""
    signalbox.USE_TZ, signalbox.TIME_ZONE = False, "Asia/Tokyo"
    process = scheduler()
    for hours in (0.5, 1, 2):
        await process.look(at(hours))
    assert ticks() == [at(1), at(2)]


async def test_a_changed_schedule_begins_when_it_is_seen(scheduler: Any, ticks: Any) -> None:
    """It does not run for its past ticks, and the old one does not come back."""
    await scheduler("30 * * * *").look(at(0))
    await scheduler("30 * * * *").look(at(0.75))
    changed = scheduler("0 * * * *")
    for hours in (1.25, 1.75, 2.25):
        await changed.look(at(hours))
    assert ticks() == [at(0.5), at(2)]


async def test_clocks_that_are_turned(scheduler: Any, ticks: Any, redis_client: redis.Redis) -> None:
    """02:30 comes at 03:00 if it does not exist, and once if it exists twice. Nothing else happens in these hours."""
    for begin in (datetime(2025, 10, 25, 12, tzinfo=UTC), datetime(2026, 3, 28, 12, tzinfo=UTC)):
        # Not seen before.
        redis_client.delete(keys().periodic_task("default", NAME))
        zoned = CronSchedule("30 2 * * *", "Europe/Zurich")
        process = scheduler(zoned)
        for minutes in range(0, 24 * 60, 5):
            await process.look(begin + timedelta(minutes=minutes))
            # A process that has just started.
            await scheduler(zoned).look(begin + timedelta(minutes=minutes + 1))
    assert ticks() == [datetime(2025, 10, 26, 0, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)]


async def test_a_tick_is_skipped_while_the_run_of_an_earlier_one_is_unfinished(
    scheduler: Any, ticks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If the task has a unique key. Later it does not run for the skipped one, and no receiver is told of it."""
    told = []
    task_enqueued.connect(receive := lambda task_result, **kwargs: told.append(task_result.id))
    process = scheduler(task=tidy.using(unique_key=True))
    for hours in (0.5, 1, 2, 3):
        await process.look(at(hours))
    task_enqueued.disconnect(receive)
    assert ticks() == [at(1)]
    assert len(told) == 1
    assert caplog.text.count(f"the periodic task {NAME}: a tick was skipped") == 2


async def test_a_tick_waits_while_the_queue_is_full(
    scheduler: Any, ticks: Any, backend: RedisStreamBackend, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken as enqueued, and the log says why, once."""
    process = scheduler()
    await process.look(at(0.5))
    full = {f"0:full{number}#1": 9e12 for number in range(backend.defaults.length_limit)}
    redis_client.zadd(keys().scheduled_tasks("default"), full)
    for minutes in (1, 2, 3):
        await process.look(at(1 + minutes / 60))
    assert ticks() == []
    assert caplog.text.count(f"the periodic task {NAME} waits") == 1
    redis_client.delete(keys().scheduled_tasks("default"))
    await process.look(at(1.5))
    assert ticks() == [at(1)]


async def test_a_task_that_cannot_be_enqueued_holds_up_no_other(
    backend: RedisStreamBackend, ticks: Any, async_redis_client: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """For example because its unique key cannot be made. A worker does not start with it."""
    broken = declared(task=tidy.using(unique_key="{missing}"), name="broken")
    process = Scheduler(backend, [broken, declared()], async_redis_client, outage=Outage("Redis"))
    for hours in (0.5, 1):
        await process.look(at(hours))
    assert ticks() == [at(1)]
    assert "the periodic task broken cannot be enqueued" in caplog.text
    service = TaskService(backend, ["default"], concurrency=1, periodic_tasks=[broken])
    with pytest.raises(ImproperlyConfigured, match="the periodic task broken: the unique_key of"):
        await service.run()


async def test_receivers_are_told_of_a_tick_and_may_fail(
    scheduler: Any, ticks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As of each enqueued task, with its id and its moment."""
    told = []

    def receive(sender: Any, task_result: Any, **kwargs: Any) -> None:
        told.append((task_result.task.run_after, task_result.enqueued_at is not None))
        raise ValueError("of the receiver")

    task_enqueued.connect(receive)
    try:
        process = scheduler()
        for hours in (0.5, 1, 2):
            await process.look(at(hours))
    finally:
        task_enqueued.disconnect(receive)
    assert told == [(at(1), True), (at(2), True)]
    assert caplog.text.count("a receiver of task_enqueued failed") == 2
    assert ticks() == [at(1), at(2)]


# Exactly once ---------------------------------------------------------------------------------------------------------


async def test_many_holders_at_once_enqueue_each_tick_once(scheduler: Any, ticks: Any) -> None:
    """Each believes that it holds the lease, and looks at the same moments."""
    processes = [scheduler() for _ in range(8)]
    for hours in (0.5, 1, 2, 2.5, 3):
        await asyncio.gather(*(process.look(at(hours)) for process in processes))
    assert ticks() == [at(1), at(2), at(3)]


async def test_a_holder_that_was_suspended_enqueues_nothing_again(
    scheduler: Any, backend: RedisStreamBackend, ticks: Any, async_redis_client: redis.asyncio.Redis
) -> None:
    """It continues behind its question to Redis, and sends a tick that another holder has enqueued, or passed."""
    await scheduler().look(at(0.5))
    schedule = CronSchedule(HOURLY, "UTC")
    await scheduler().look(at(1))
    await scheduler().look(at(3))
    for hours in (1, 2, 3):
        _, request = backend.prepare_tick(tidy, [], {}, at(hours))
        tick = Tick(NAME, schedule.text, ms(at(hours)), ms(at(hours)))
        assert await backend.queue("default").atick(async_redis_client, request, tick) is None
    assert ticks() == [at(1), at(3)]


async def test_a_lost_reply_is_asked_for_again(
    scheduler: Any, backend: RedisStreamBackend, ticks: Any, async_redis_client: redis.asyncio.Redis
) -> None:
    """The same call gives the same task, also when it has a unique key."""
    await scheduler().look(at(0.5))
    _, request = backend.prepare_tick(tidy.using(unique_key=True), [], {}, at(1))
    tick = Tick(NAME, CronSchedule(HOURLY, "UTC").text, ms(at(1)), ms(at(1)))
    queue = backend.queue("default")
    replies = [await queue.atick(async_redis_client, request, tick) for _ in range(3)]
    assert replies[0] is not None
    assert replies == [replies[0]] * 3
    assert ticks() == [at(1)]


async def test_a_connection_that_dies_behind_the_call_enqueues_nothing_twice(
    backend: RedisStreamBackend, scheduler: Any, ticks: Any, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """Redis closes all connections of the scheduler, again and again, at whatever moment."""
    client = clients.async_publisher(redis_server.url)
    await client.client_setname(name := f"scheduler-{get_settings().key_prefix.strip(':')}")
    process = Scheduler(backend, [declared()], client, outage=Outage("Redis"))
    await process.look(at(0.5))

    async def kill() -> int:
        count = 0
        for _ in range(200):
            for each in redis_client.client_list():
                if each["name"] == name or each["cmd"] in ("evalsha", "mget"):
                    with contextlib.suppress(redis.ResponseError):
                        count += redis_client.client_kill_filter(_id=each["id"], skipme=True)
            await asyncio.sleep(0)
        return count

    killing = asyncio.create_task(kill())
    for hours in range(1, 40):
        await process.look(at(hours))
    assert await killing > 0
    await client.aclose()
    assert ticks() == [at(hours) for hours in range(1, 40)]


@pytest.mark.parametrize("append_only", [True, False], ids=["with its data", "empty"])
async def test_redis_that_comes_back(
    backend: RedisStreamBackend, signalbox: Any, append_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With its data, no tick is enqueued twice; the latest missed one is enqueued. Empty, all tasks are new."""
    with RedisServer(append_only=append_only) as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        client = clients.async_publisher(server.url)
        process = Scheduler(backend, [declared()], client, outage=Outage("Redis"))
        for hours in (0.5, 1):
            await process.look(at(hours))
        server.kill()
        look = asyncio.create_task(process.look(at(4.5)))
        await wait_until(lambda: "Redis is unavailable" in caplog.text)
        server.start()
        await look
        await process.look(at(4.6))
        found = [
            ms_of(await client.hget(key, "run_after"))
            async for key in client.scan_iter(f"{keys().task('default', '')}*")
        ]
        assert sorted(found) == ([ms(at(1)), ms(at(4))] if append_only else [])
        await process.look(at(5))
        assert len(await client.keys(f"{keys().task('default', '')}*")) == len(found) + 1
        await client.aclose()


async def test_a_write_that_redis_lost_is_made_again(scheduler: Any, ticks: Any, redis_client: redis.Redis) -> None:
    """Task and record are lost together, for example by a failover. The next look of the same process sees it."""
    process = scheduler()
    await process.look(at(0.5))
    key = keys().periodic_task("default", NAME)
    before: Any = redis_client.dump(key)
    await process.look(at(1))
    redis_client.restore(key, 60_000, before, replace=True)
    for task_key in redis_client.scan_iter(match=f"{keys().task('default', '')}*"):
        redis_client.delete(task_key)
    await process.look(at(1.01))
    assert ticks() == [at(1)]


async def test_a_clock_that_was_wrong_stops_no_task_for_ever(
    scheduler: Any, ticks: Any, redis_client: redis.Redis
) -> None:
    """A tick more than an hour in the future was recorded by mistake: the task begins anew."""
    future = datetime.now(UTC) + timedelta(days=400)
    process = scheduler()
    await process.look(future)
    # The clock is right again.
    await process.look(at(0.5))
    await process.look(at(1))
    assert ticks() == [at(1)]


async def test_the_record_of_a_removed_task_expires(scheduler: Any, ticks: Any, redis_client: redis.Redis) -> None:
    """A worker that knows the task renews it, when it begins to look."""
    key = keys().periodic_task("default", NAME)
    for seconds in (0, 60):
        redis_client.pexpire(key, 1_000_000)
        await scheduler().look(at(1) + timedelta(seconds=seconds))
        assert TICK_KEPT_MS - 60_000 < redis_client.pttl(key) <= TICK_KEPT_MS
    assert ticks() == []


# By the clock ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def holding(scheduler: Scheduler, client: redis.asyncio.Redis, holder: str) -> AsyncIterator[asyncio.Task[None]]:
    """A process that enqueues while it holds the lease."""
    lease = Lease(client, keys().lease("tasks:default:periodic"), ttl_seconds=0.4, holder=holder)
    task = asyncio.create_task(lease.run_while_held(scheduler.run))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_lease_flips_between_two_processes(
    scheduler: Any, ticks: Any, async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis
) -> None:
    """Somebody takes it from its holder again and again. Each tick is there once."""
    each_second = IntervalSchedule(1)
    async with (
        holding(scheduler(each_second), async_redis_client, "one"),
        holding(scheduler(each_second), async_redis_client, "two"),
    ):
        for count, holder in enumerate(("one", "two", "one", "two"), 1):
            redis_client.set(keys().lease("tasks:default:periodic"), holder, px=400)
            await wait_until(lambda count=count: len(ticks()) >= count)
    assert len(set(ticks())) == len(ticks()) >= 4


async def test_a_worker_runs_it_with_its_tick(
    backend: RedisStreamBackend, ticks: Any, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """`run_after` of the task in its context is the tick. The lease is given back when the worker stops."""
    noted.clear()
    periodic_tasks = [declared(IntervalSchedule(1), note_tick, args=["a"])]
    with caplog.at_level(logging.INFO, "realtime.tasks"):
        services = [
            TaskService(backend, ["default", "mail"], concurrency=1, periodic_tasks=periodic_tasks) for _ in range(2)
        ]
        running = [asyncio.create_task(service.run()) for service in services]
        await wait_until(lambda: len(noted) >= 3)
        for service in services:
            service.stop(deadline_seconds=5)
        await asyncio.gather(*running)
    assert all(value == "a" and moment.microsecond == 0 for value, moment in noted)
    moments = [moment for _, moment in noted]
    assert len(set(moments)) == len(moments)
    assert redis_client.get(keys().lease("tasks:default:periodic")) is None
    assert caplog.text.count(f"the periodic task {NAME}: enqueued as default.") >= 3


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def ms_of(run_after: Any) -> int:
    """The moment of a task in milliseconds."""
    return int(run_after) // 1000
