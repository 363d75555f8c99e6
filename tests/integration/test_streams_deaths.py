"""Stream workers that die or go silent: their entries are handled by others, and a deadly entry ends."""

import asyncio

import pytest
import redis

from realtime.exceptions import PermanentError
from realtime.redis.keys import Keys
from realtime.streams.group import stream_script
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.streams import (
    GROUP,
    STREAM,
    Recorder,
    append,
    consumers,
    dead_letters,
    left_count,
    pending_count,
    worker_process,
    working,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent
RECLAIM = stream_script("reclaim", answer=list)

QUICK = {"lease_seconds": 0.4, "claim_interval_seconds": 0.05, "block_seconds": 0.1}


async def test_what_a_killed_process_held_is_handled_by_another(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """At least once, though the first owner died by SIGKILL in the midst of the work; its name is forgotten then."""
    append(redis_client, keys, *range(10))
    with worker_process(redis_server.url, keys, "hang") as process:
        await wait_until(lambda: redis_client.exists(keys.stream(STREAM)) and has_pending(redis_client, keys, 10))
        process.kill()
        process.wait()
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **QUICK) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 10)
        assert worker.statistics().claimed_count == 10
        assert handler.names == [str(number) for number in range(10)]
        assert handler.attempts["0"] == [2]
        await wait_until(lambda: consumers(redis_client, keys) == [worker.consumer])
    assert pending_count(redis_client, keys) == 0
    assert "10 entries of the group workers claimed from silent workers" in caplog.text


def has_pending(client: redis.Redis, keys: Keys, count: int) -> bool:
    try:
        return pending_count(client, keys) == count
    except redis.ResponseError:
        return False


async def test_a_handler_may_take_longer_than_its_lease(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The lease is renewed while the worker lives, so nobody claims the entry."""
    gate = asyncio.Event()
    slow, other = Recorder(gate=gate), Recorder()
    append(redis_client, keys, "slow")
    # Longer than both workers, which are in one process, may stand still together.
    options = {**QUICK, "lease_seconds": 4.0}
    async with working(redis_server.url, keys, slow, **options) as owner:
        await wait_until(lambda: slow.running_count == 1)
        async with working(redis_server.url, keys, other, **options) as idle:
            began = asyncio.get_running_loop().time()
            await wait_until(lambda: asyncio.get_running_loop().time() > began + 1.2 * options["lease_seconds"])
            assert other.calls == []
            gate.set()
            await wait_until(lambda: owner.statistics().handled_count == 1)
            assert idle.statistics().claimed_count == owner.statistics().lost_count == 0
    assert slow.attempts == {"slow": [1]}


async def test_a_worker_learns_that_others_think_it_dead(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, begins nothing that it has lost, and its own ack still ends what it was in the midst of."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    append(redis_client, keys, "one", "two")
    options = {**QUICK, "batch_size": 1, "concurrency": 2}
    async with working(redis_server.url, keys, handler, order_field="of", **options) as worker:
        await wait_until(lambda: handler.running_count == 2)
        taken_from(redis_client, keys, worker.consumer)
        await wait_until(lambda: worker.statistics().lost_count == 2)
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert left_count(redis_client, keys) == 0
    assert handler.calls == [["one"], ["two"]]
    assert "2 entries in flight are no longer this worker's" in caplog.text


def taken_from(client: redis.Redis, keys: Keys, consumer: str) -> None:
    """Do what other workers do when a lease is over."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    client.delete(keys.worker_lease(STREAM, GROUP, consumer))
    RECLAIM.run(client, group.for_scripts, [GROUP, "other", "", consumer, 0, 1, 1000])


async def test_an_entry_whose_handler_kills_the_process_ends_as_a_dead_letter(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It has as many attempts as any other, takes nobody with it, and the entries around it are handled."""
    append(redis_client, keys, *range(5), "killer", *range(5, 10))
    for _ in range(5):
        with worker_process(redis_server.url, keys, "deadly") as process:
            await wait_until(lambda: process.poll() is not None, seconds=90)
    assert dead_letters(redis_client, keys) == []
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **QUICK) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1)
        await wait_until(lambda: left_count(redis_client, keys) == 0)
    (letter,) = dead_letters(redis_client, keys)
    assert letter[b"name"] == b"killer"
    assert letter[b"_reason"] == b"unfinished"
    assert letter[b"_attempts"] == b"5"
    assert "killer" not in handler.attempts
    handled = {int(name) for name in redis_client.hgetall(keys.counters("handled"))} | {int(n) for n in handler.names}
    assert handled == set(range(10))


async def append_suspects(server: RedisServer, client: redis.Redis, keys: Keys, *, count: int) -> None:
    """Append entries, and let two workers die with all of them."""
    append(client, keys, *range(count))
    stuck = Recorder(gate=asyncio.Event())
    for _ in range(2):
        async with working(server.url, keys, stuck, **QUICK) as worker:
            await wait_until(lambda: stuck.running_count == 1)
            taken_from(client, keys, worker.consumer)
            await worker.stop(deadline_seconds=0)


@pytest.mark.parametrize(
    ("max_attempts", "calls"), [(5, [["0"], ["1", "2"], ["3"]]), (3, [["0"], ["1"], ["2"], ["3"]])]
)
async def test_entries_with_which_several_workers_died_are_tried_one_group_at_a_time(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, max_attempts: int, calls: list[list[str]]
) -> None:
    """
    One of them may kill its worker: only those that are tried count an attempt. The groups grow while none fails, and
    the last attempt of an entry is alone.
    """
    await append_suspects(redis_server, redis_client, keys, count=4)
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    options = {**QUICK, "concurrency": 4, "max_attempts": max_attempts}
    async with working(redis_server.url, keys, handler, **options) as worker:
        await wait_until(lambda: handler.running_count == 1)
        # In what is known to Redis, so that it outlives this process.
        records = redis_client.hgetall(keys.parked_entries(STREAM, GROUP))
        assert sorted(int(record.split()[0]) for record in records.values()) == [2, 2, 2, 3]
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 4)
    assert handler.most_running_count == 1
    assert handler.calls == calls
    assert handler.attempts["0"] == [3]


async def test_an_entry_that_fails_among_suspects_makes_the_next_groups_small_again(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The others of its group are done, and each has counted one attempt."""

    def fail(name: str) -> None:
        if name == "1":
            raise PermanentError("it cannot be done")

    handler = Recorder(fail=fail)
    await append_suspects(redis_server, redis_client, keys, count=8)
    async with working(redis_server.url, keys, handler, **QUICK) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 7 and worker.statistics().dead_count == 1)
    assert handler.calls == [["0"], ["1", "2"], ["1"], ["2"], ["3"], ["4", "5"], ["6", "7"]]
    assert dead_letters(redis_client, keys)[0][b"_attempts"] == b"3"


async def test_a_worker_with_a_fixed_name_takes_up_what_it_left(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The own pending list is read at the start, without waiting for any lease, however long it is."""
    stream = keys.stream(STREAM)
    append(redis_client, keys, *range(25))
    redis_client.xgroup_create(stream, GROUP, id="0")
    redis_client.xreadgroup(GROUP, "fixed", {stream: ">"})
    append(redis_client, keys, "new")
    handler = Recorder()
    async with working(redis_server.url, keys, handler, consumer="fixed", batch_size=4, lease_seconds=300) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 26)
        assert worker.statistics().claimed_count == 0
    assert handler.names == [*map(str, range(25)), "new"]
