"""Somebody deletes the group, the stream or the bookkeeping keys of running stream workers."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, fill_backlog, left_count, pending_count, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

# Nothing is done by the clock: what a worker does, it does at once or when it is woken.
PATIENT = {"order_field": "of", "lease_seconds": 300, "claim_interval_seconds": 300, "block_seconds": 300}
QUICK = {"order_field": "of", "lease_seconds": 0.6, "claim_interval_seconds": 0.1, "block_seconds": 0.2}


async def test_a_backlog_that_is_due_when_the_group_is_gone_is_handled(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The call that finds the group gone hands nothing out, because its answer would be lost."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await worker.wait_ready()
        fill_backlog(redis_client, keys, "k", ("one", 0, 0), ("two", 0, 0))
        redis_client.xgroup_destroy(keys.stream(STREAM), GROUP)
        worker._wakeup.wake()
        await wait_until(lambda: handler.names == ["one", "two"])
        await wait_until(lambda: left_count(redis_client, keys) == 0)
    assert handler.attempts == {"one": [1], "two": [1]}


async def test_a_worker_goes_on_at_once_when_redis_was_wiped(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Its lease is gone too, so it first asks what it holds: that call creates the stream and the group again."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        # The first round of maintenance, which would create them too, is over; the next one is far.
        await wait_until(lambda: redis_client.exists(keys.group_check(STREAM, GROUP)) == 1)
        redis_client.delete(keys.stream(STREAM), keys.worker_lease(STREAM, GROUP, worker.consumer))
        worker._wakeup.wake()
        await wait_until(lambda: redis_client.exists(keys.stream(STREAM)) == 1)
        append(redis_client, keys, 1)
        await wait_until(lambda: worker.statistics().handled_count == 1)


async def test_an_entry_that_is_handed_out_again_while_its_end_is_on_its_way_ends(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has heard of its end, and hands it out again as the group was made anew before its answer came."""
    is_told, may_hear = asyncio.Event(), asyncio.Event()
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await worker.wait_ready()
        finish = worker._group.finish

        async def finish_slowly(entries: Sequence[Entry]) -> Any:
            answer = await finish(entries)
            is_told.set()
            await may_hear.wait()
            return answer

        monkeypatch.setattr(worker._group, "finish", finish_slowly)
        redis_client.xadd(keys.stream(STREAM), {"of": "k", "name": "one"})
        await is_told.wait()
        redis_client.xgroup_destroy(keys.stream(STREAM), GROUP)
        worker._wakeup.wake()
        await wait_until(lambda: worker._in_flight.has_redelivered)
        assert pending_count(redis_client, keys) == 1
        may_hear.set()
        await wait_until(lambda: pending_count(redis_client, keys) == 0)
        await wait_until(lambda: worker.statistics().in_flight_count == 0)
        assert not redis_client.exists(keys.key_owners(STREAM, GROUP))
    assert handler.names == ["one"]


async def test_nothing_is_trimmed_while_one_of_the_groups_is_gone(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It has not finished what it has not read: it is made again, and gets it."""
    stream = keys.stream(STREAM)
    async with working(redis_server.url, keys, Recorder(), groups=("slow",), **QUICK) as worker:
        await worker.wait_ready()
        redis_client.xgroup_destroy(stream, "slow")
        append(redis_client, keys, *range(5))
        await wait_until(lambda: worker.statistics().handled_count == 5)
        await wait_until(lambda: {group["name"] for group in redis_client.xinfo_groups(stream)} >= {b"slow"})
        assert redis_client.xlen(stream) == 5
        ((_, entries),) = redis_client.xreadgroup("slow", "somebody", {stream: ">"})
        redis_client.xack(stream, "slow", *(id for id, _ in entries))
        await wait_until(lambda: redis_client.xlen(stream) == 1)
    assert [fields[b"name"] for _, fields in entries] == [b"0", b"1", b"2", b"3", b"4"]


async def test_two_workers_whose_group_is_destroyed_again_and_again_handle_everything(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Under load, with two keys that both groups have: nothing is lost and nothing is stuck."""
    chance = random.Random(2)  # noqa: S311 - makes schedules, keeps no secret
    done: set[bytes] = set()

    async def handle(entries: Sequence[Entry]) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        done.update(entry.fields[b"name"] for entry in entries)

    options = {**QUICK, "lease_seconds": 30, "batch_size": 5, "concurrency": 4}
    async with (
        working(redis_server.url, keys, handler=handle, **options) as one,
        working(redis_server.url, keys, handler=handle, **options) as other,
    ):
        await one.wait_ready()
        await other.wait_ready()
        for turn in range(20):
            for number in range(12):
                redis_client.xadd(keys.stream(STREAM), {"of": f"k{number % 2}", "name": f"{turn}-{number}"})
            await asyncio.sleep(chance.random() * 0.06)
            redis_client.xgroup_destroy(keys.stream(STREAM), GROUP)
            await asyncio.sleep(0.05)
        # The workers make it again; it stays from now on.
        await wait_until(lambda: {each["name"] for each in redis_client.xinfo_groups(keys.stream(STREAM))})
        await wait_until(lambda: len(done) == 240 and left_count(redis_client, keys) == 0)


@pytest.mark.parametrize("deleted", ["owners", "due", "parked", "backlog", "owners and backlog", "due and owners"])
async def test_parked_entries_are_handled_whatever_key_beside_them_is_deleted(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, deleted: str
) -> None:
    """Within a lease, by workers that run all the time. The parked entries are still on the stream here."""
    names = {
        "owners": keys.key_owners(STREAM, GROUP),
        "due": keys.due_backlogs(STREAM, GROUP),
        "parked": keys.parked_entries(STREAM, GROUP),
        "backlog": keys.backlog(STREAM, GROUP, "k"),
    }
    gate = asyncio.Event()
    holder, other = Recorder(gate=gate), Recorder()
    options = {**QUICK, "lease_seconds": 3, "groups": ("slow",), "batch_size": 1}
    async with working(redis_server.url, keys, holder, **options) as first:
        redis_client.xadd(keys.stream(STREAM), {"of": "k", "name": "0"})
        await wait_until(lambda: holder.running_count == 1)
        async with working(redis_server.url, keys, other, **options) as second:
            for number in range(1, 4):
                redis_client.xadd(keys.stream(STREAM), {"of": "k", "name": str(number)})
            await wait_until(lambda: second.statistics().parked_count == 3)
            redis_client.delete(*(names[name] for name in deleted.split(" and ")))
            gate.set()
            await wait_until(lambda: {*holder.names, *other.names} == {"0", "1", "2", "3"})
            await wait_until(lambda: left_count(redis_client, keys) == 0)
            await wait_until(lambda: not any(redis_client.exists(name) for name in names.values()))
            assert first.statistics().dead_count == second.statistics().dead_count == 0


async def test_what_redis_holds_for_a_worker_that_does_not_know_of_it_is_handled(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is written down as its own, of an entry that is pending with nobody: the line behind it moves on."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **QUICK) as worker:
        await worker.wait_ready()
        redis_client.hset(keys.key_owners(STREAM, GROUP), "k", f"{worker.consumer} 1-0+")
        redis_client.xadd(keys.stream(STREAM), {"of": "k", "name": "one"})
        await wait_until(lambda: handler.names == ["one"])
        await wait_until(lambda: worker.statistics().repaired_count > 0)
    assert "for this worker that it does not have" in caplog.text


async def test_a_clock_that_went_back_holds_nothing_up(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """An entry that was first seen in the future, to be tried again later still, is tried now."""
    handler = Recorder()
    fill_backlog(redis_client, keys, "k", ("one", 1, 0))
    tomorrow_ms = (redis_client.time()[0] + 86_400) * 1000
    ((id, record),) = redis_client.hgetall(keys.parked_entries(STREAM, GROUP)).items()
    attempts, deaths, _, _, fields = record.split(b" ", 4)
    times = b"%d %d" % (tomorrow_ms, tomorrow_ms + 60_000)
    redis_client.hset(keys.parked_entries(STREAM, GROUP), id, b" ".join((attempts, deaths, times, fields)))
    redis_client.zadd(keys.due_backlogs(STREAM, GROUP), {"k": tomorrow_ms + 60_000})
    async with working(redis_server.url, keys, handler, **QUICK):
        await wait_until(lambda: handler.names == ["one"])
