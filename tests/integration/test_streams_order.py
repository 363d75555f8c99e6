"""Entries of one key are handled in order, one at a time, by however many workers, whoever of them is killed."""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest
import redis

from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys
from realtime.streams import Entry, PermanentError
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.stream_model import Model
from tests.support.stream_order import append_numbers, check, log_key
from tests.support.streams import GROUP, ROOT, STREAM, Recorder, left_count, working
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

ORDERED = {"order_field": "of"}


def append_of(client: redis.Redis, keys: Keys, *pairs: tuple[str, str]) -> None:
    """An entry of a key each."""
    for key, name in pairs:
        client.xadd(keys.stream(STREAM), {"of": key, "name": name})


@pytest.mark.parametrize("seed", [1, 2])
def test_order_holds_over_several_processes_and_random_kills(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, seed: int
) -> None:
    """Handlers fail, processes die by SIGKILL at any moment and new ones come: nothing is lost or out of order."""
    chance = random.Random(seed)  # noqa: S311 - makes schedules, keeps no secret
    append_numbers(redis_client, keys, keys_count=20, each=40, seed=seed)
    workers = [start(redis_server, keys, f"{seed}-{number}") for number in range(3)]
    try:
        for turn in range(5):
            length = redis_client.llen(log_key(keys))
            wait_until_sync(lambda: redis_client.llen(log_key(keys)) > length + 100)  # noqa: B023
            victim = workers.pop(chance.randrange(3))
            victim.kill()
            victim.wait()
            redis_client.rpush(log_key(keys), f"killed {victim.pid} - 0")
            redis_client.delete(GroupKeys(keys.stream(STREAM), GROUP).worker_lease(f"{victim.pid}"))
            workers.append(start(redis_server, keys, f"{seed}-again-{turn}"))
        wait_until_sync(lambda: is_done(redis_client, keys), seconds=90)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    done, again_count = check(redis_client.lrange(log_key(keys), 0, -1))
    assert done == {b"k%d" % number: list(range(40)) for number in range(20)}
    # Only what was in a handler, or handled and not acked, when its process died.
    assert again_count <= 5 * 32
    for name in (keys.key_owners(STREAM, GROUP), keys.due_backlogs(STREAM, GROUP), keys.parked_entries(STREAM, GROUP)):
        assert not redis_client.exists(name)


def start(server: RedisServer, keys: Keys, seed: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.stream_order", server.url, keys.prefix, seed], cwd=ROOT
    )


def is_done(client: redis.Redis, keys: Keys) -> bool:
    """Whether the group has read and finished everything, and no worker owns a key."""
    (group,) = client.xinfo_groups(keys.stream(STREAM))
    newest = client.xrevrange(keys.stream(STREAM), count=1)[0][0]
    return (
        group["last-delivered-id"] == newest
        and left_count(client, keys) == 0
        and not client.exists(keys.key_owners(STREAM, GROUP))
    )


async def test_later_entries_of_a_key_wait_behind_one_that_failed_and_other_keys_do_not(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Also those that another worker reads meanwhile; when it is done they come in their order."""
    is_bad = True

    def fail(name: str) -> None:
        if name == "a0" and is_bad:
            raise ValueError(name)

    one, two = Recorder(fail=fail), Recorder(fail=fail)
    options = {**ORDERED, "batch_size": 2, "max_attempts": 1000, "block_seconds": 0.1}
    append_of(redis_client, keys, ("a", "a0"), ("a", "a1"), ("b", "b0"))
    async with working(redis_server.url, keys, one, **options), working(redis_server.url, keys, two, **options):
        append_of(redis_client, keys, ("a", "a2"), ("b", "b1"), ("a", "a3"))
        await wait_until(lambda: {"b0", "b1"} <= {*one.names, *two.names})
        assert not any(name.startswith("a") for name in (*one.names, *two.names))
        await wait_until(lambda: left_count(redis_client, keys) == 4)
        is_bad = False
        await wait_until(lambda: left_count(redis_client, keys) == 0)
    assert {*one.names, *two.names} == {"a0", "a1", "a2", "a3", "b0", "b1"}
    assert_in_order(one)
    assert_in_order(two)


def assert_in_order(handler: Recorder) -> None:
    for key in "ab":
        names = [name for name in handler.names if name.startswith(key)]
        assert names == sorted(names)


async def test_a_dead_letter_lets_those_behind_it_go_on(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Poison does not stop its key."""

    def fail(name: str) -> None:
        if name == "poison":
            raise PermanentError(name)

    handler = Recorder(fail=fail)
    append_of(redis_client, keys, ("a", "poison"), ("a", "a1"), ("a", "a2"))
    async with working(redis_server.url, keys, handler, **ORDERED) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert worker.statistics().dead_count == 1
    assert handler.names == ["a1", "a2"]


async def test_one_key_is_handled_by_one_worker_at_a_time_and_the_other_lines_up(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """What a second worker reads of the key waits in Redis, and holds none of its slots."""
    gate = asyncio.Event()
    first, second = Recorder(gate=gate), Recorder()
    options = {**ORDERED, "batch_size": 1, "concurrency": 2, "block_seconds": 0.1}
    append_of(redis_client, keys, ("a", "a0"), ("a", "a1"))
    async with working(redis_server.url, keys, first, **options) as one:
        await wait_until(lambda: one.statistics().in_flight_count == 2)
        async with working(redis_server.url, keys, second, **options) as two:
            append_of(redis_client, keys, *(("a", f"a{number}") for number in range(2, 6)), ("b", "b0"))
            await wait_until(lambda: two.statistics().parked_count == 4)
            await wait_until(lambda: second.names == ["b0"])
            assert first.most_running_count == 1
            gate.set()
            await wait_until(lambda: left_count(redis_client, keys) == 0)
    assert [*first.names, *(name for name in second.names if name != "b0")] == [f"a{number}" for number in range(6)]


def test_an_entry_whose_end_is_on_its_way_is_not_handed_out_again_when_the_next_one_fails(
    redis_server: RedisServer, key_prefix: str
) -> None:
    """Both come from a line; the newer one goes back there before Redis has heard that the older one is done."""
    with contextlib.closing(Model(redis_server.url, key_prefix)) as model:
        (worker,) = model.workers
        model.append("k")
        model.append("k")
        assert worker.take(2) == 2
        worker.begin(b"k")
        worker.fail(b"k", 0)
        assert worker.take(2) == 2
        worker.begin(b"k")
        worker.succeed(b"k")
        worker.begin(b"k")
        worker.fail(b"k", 0)
        assert worker.take(2) == 0
        worker.tell()
        worker.hear()
        assert worker.take(2) == 1
        model.settle()


async def test_keys_of_any_bytes_and_entries_without_one(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Long, empty, binary, twice in one entry, missing: each is handled, also after it has been in a line."""
    stream = keys.stream(STREAM)
    for number, key in enumerate((b"", b"\x00\xff \n+", b"x" * 5000, b"a 1-1+", b"+", b"worker 1-1")):
        for _ in range(2):
            redis_client.xadd(stream, {"of": key, "name": f"k{number}"})
    redis_client.execute_command("XADD", stream, "*", "of", "one", "of", "two", "name", "twice")
    redis_client.xadd(stream, {"name": "no key"})
    failed: set[bytes] = set()

    async def handle(entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.id not in failed:
                failed.add(entry.id)
                raise ValueError(entry.id)

    backoff = Backoff(base_seconds=0.01, cap_seconds=0.01)
    async with working(redis_server.url, keys, handle, **ORDERED, backoff=backoff, max_attempts=50) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 14)
        await wait_until(lambda: left_count(redis_client, keys) == 0)
    assert not redis_client.exists(keys.key_owners(STREAM, GROUP))
