"""A stream worker in good weather: what it reads, how it calls the handler, when it acks, how it stops."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from realtime.redis import scripts
from realtime.redis.keys import Keys
from realtime.streams import Entry, WorkerStatistics
from realtime.streams.attempts import ENTRIES_IN_A_ROW
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, consumers, left_count, pending_count, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_entries_from_before_the_group_existed_are_handled(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A group begins at the first entry, not at "now": what came before the first worker is not lost."""
    append(redis_client, keys, *range(5))
    handler = Recorder()
    async with working(redis_server.url, keys, handler):
        await wait_until(lambda: handler.names == ["0", "1", "2", "3", "4"])
        append(redis_client, keys, "later")
        await wait_until(lambda: handler.names[5:] == ["later"])
        await wait_until(lambda: pending_count(redis_client, keys) == 0)


async def test_a_batch_is_one_call_and_no_larger_than_asked(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Entries come oldest first, with the number of their attempt, and are counted."""
    append(redis_client, keys, *range(25))
    handler = Recorder()
    async with working(redis_server.url, keys, handler, batch_size=10) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 25)
        assert [len(call) for call in handler.calls] == [10, 10, 5]
        assert handler.names == [str(number) for number in range(25)]
        assert handler.attempts["7"] == [1]
        assert worker.statistics() == WorkerStatistics(
            in_flight_count=0,
            handled_count=25,
            retried_count=0,
            dead_count=0,
            parked_count=0,
            claimed_count=0,
            lost_count=0,
            vanished_count=0,
            repaired_count=0,
            trimmed_count=worker.statistics().trimmed_count,
        )


async def test_an_entry_is_acked_after_its_handler_and_not_before(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """While the handler runs the entry is pending, so that its worker may die."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    append(redis_client, keys, "one")
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: handler.running_count == 1)
        assert pending_count(redis_client, keys) == 1
        assert worker.statistics().in_flight_count == 1
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert pending_count(redis_client, keys) == 0


async def test_no_more_is_read_than_there_are_slots(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A busy worker leaves the rest to others; handlers run at a time as many as allowed."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    append(redis_client, keys, *range(20))
    async with working(redis_server.url, keys, handler, batch_size=2, concurrency=3) as worker:
        await wait_until(lambda: handler.running_count == 3)
        other = Recorder()
        async with working(redis_server.url, keys, other, batch_size=2):
            await wait_until(lambda: len(other.names) == 14)
        assert pending_count(redis_client, keys) == worker.statistics().in_flight_count == 6
        gate.set()
        await wait_until(lambda: len(handler.names) == 6)
    assert handler.most_running_count == 3


async def test_handlers_that_never_wait_give_others_their_turn(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The event loop goes round before the last one of a long row is handled: Redis is not kept waiting."""
    count = 4 * ENTRIES_IN_A_ROW
    append(redis_client, keys, *range(count))
    turns_before: list[int] = []
    turns = 0

    async def handle(entries: Sequence[Entry]) -> None:
        turns_before.append(turns)

    async with working(redis_server.url, keys, handle, batch_size=1, concurrency=count) as worker:
        while worker.statistics().handled_count < count:
            turns += 1
            await asyncio.sleep(0)
    assert turns_before[0] < turns_before[-1]


async def test_a_worker_with_one_call_at_a_time_reads_on_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Batch after batch, also when a read comes back just as the last handler ends: nothing waits for the next look."""
    append(redis_client, keys, *range(3000))
    handler = Recorder()
    async with working(redis_server.url, keys, handler, block_seconds=30) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 3000)
    assert handler.names == [str(number) for number in range(3000)]
    assert handler.most_running_count == 1


async def test_every_entry_goes_to_one_of_several_workers_of_a_group(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """And to each group once: workers share, groups do not."""
    handlers = [Recorder(), Recorder(), Recorder()]
    groups = {"groups": ("workers", "others")}
    async with (
        working(redis_server.url, keys, handlers[0], batch_size=5, **groups),
        working(redis_server.url, keys, handlers[1], batch_size=5, **groups),
        working(redis_server.url, keys, handlers[2], batch_size=5, group="others", **groups),
    ):
        append(redis_client, keys, *range(200))
        await wait_until(lambda: len(handlers[0].names) + len(handlers[1].names) == len(handlers[2].names) == 200)
    assert sorted(handlers[0].names + handlers[1].names) == sorted(handlers[2].names)
    assert handlers[2].names == [str(number) for number in range(200)]


async def test_every_step_of_an_entry_is_one_call(keys: Keys) -> None:
    """Taken, handled, parked, given up: only scripts move entries, so no death between two commands loses one."""

    def fail(name: str) -> None:
        if name == "bad":
            raise ValueError(name)

    handler = Recorder(fail=fail)
    with RedisServer() as server, redis.Redis.from_url(server.url) as client, client.monitor() as monitor:
        append(client, keys, "good", "bad")
        async with working(server.url, keys, handler, max_attempts=2) as worker:
            await wait_until(lambda: worker.statistics().dead_count == 1 and worker.statistics().handled_count == 1)
        client.echo("done")
        commands: list[Any] = []
        while not commands or commands[-1]["command"] != "ECHO done":
            commands.append(monitor.next_command())
    sent = {each["command"].split()[0].upper() for each in commands if each["client_type"] != "lua"}
    moved = {each["command"].split()[0].upper() for each in commands if each["client_type"] == "lua"}
    moves = {"XREADGROUP", "XACK", "ZADD", "HSET", "HDEL"}
    assert moves <= moved
    assert not sent & (moves | {"XCLAIM", "XAUTOCLAIM", "XDEL", "XTRIM", "ZREM"})
    assert "EVALSHA" in sent


async def test_a_worker_is_named_after_its_host_and_process(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """And at random beside that: no two are ever one, and an operator knows where to look."""
    async with (
        working(redis_server.url, keys, Recorder()) as one,
        working(redis_server.url, keys, Recorder()) as other,
    ):
        await one.wait_ready()
        await other.wait_ready()
        await wait_until(lambda: sorted(consumers(redis_client, keys)) == sorted([one.consumer, other.consumer]))
    beginning = f"{socket.gethostname()}-{os.getpid()}-"
    assert one.consumer.startswith(beginning)
    assert other.consumer.startswith(beginning)
    assert one.consumer != other.consumer
    assert consumers(redis_client, keys) == []


async def test_stopping_finishes_what_is_in_a_handler_and_reads_no_more(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """What is in hand is acked, what is not stays on the stream, and nobody is left in the group."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    append(redis_client, keys, "held")
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: handler.running_count == 1)
        stops = [asyncio.create_task(worker.stop()), asyncio.create_task(worker.stop())]
        append(redis_client, keys, "not read")
        gate.set()
        await asyncio.gather(*stops)
        await worker.stop()
    assert handler.names == ["held"]
    assert pending_count(redis_client, keys) == 0
    assert consumers(redis_client, keys) == []


async def test_an_idle_worker_stops_at_once(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """A blocking read is not waited for."""
    async with working(redis_server.url, keys, Recorder(), block_seconds=60, claim_interval_seconds=60) as worker:
        await worker.wait_ready()
        await wait_until(lambda: blocked_clients(redis_client) > 0)
        async with asyncio.timeout(60):
            await worker.stop()


def blocked_clients(client: redis.Redis) -> int:
    return client.info("clients")["blocked_clients"]


async def test_a_worker_stopped_before_it_runs_does_nothing(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A signal may come before the first step."""
    handler = Recorder()
    append(redis_client, keys, "one")
    async with working(redis_server.url, keys, handler) as worker:
        await worker.stop()
    assert handler.calls == []


async def test_what_is_not_finished_by_the_deadline_is_left_to_others_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """The other worker need not wait for the lease, and the entry is not lost with its consumer."""
    append(redis_client, keys, "slow")
    stuck = Recorder(gate=asyncio.Event())
    async with working(redis_server.url, keys, stuck) as worker:
        await wait_until(lambda: stuck.running_count == 1)
        await worker.stop(deadline_seconds=0.1)
    assert "1 handlers of the group workers were cut off" in caplog.text
    assert left_count(redis_client, keys) == 1
    assert consumers(redis_client, keys) == []
    other = Recorder()
    async with working(redis_server.url, keys, other):
        await wait_until(lambda: other.names == ["slow"])
    assert other.attempts == {"slow": [2]}


async def test_trimming_removes_what_all_groups_have_finished_and_nothing_else(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A group that has read nothing keeps everything; one that holds an entry keeps it and all after it."""
    gate = asyncio.Event()
    groups = {"groups": ("relay", "bot"), "claim_interval_seconds": 0.02, "batch_size": 10}
    bot = Recorder(gate=gate)
    ids = append(redis_client, keys, *range(100))
    stream = keys.stream(STREAM)
    async with working(redis_server.url, keys, Recorder(), group="relay", **groups) as relay:
        await wait_until(lambda: relay.statistics().handled_count == 100)
        trims = trim_count(redis_client)
        await wait_until(lambda: trim_count(redis_client) > trims + 2)
        assert redis_client.xlen(stream) == 100
        async with working(redis_server.url, keys, bot, group="bot", **groups) as worker:
            await wait_until(lambda: bot.running_count == 1)
            trims = trim_count(redis_client)
            await wait_until(lambda: trim_count(redis_client) > trims + 2)
            assert redis_client.xlen(stream) == 100
            gate.set()
            await wait_until(lambda: worker.statistics().handled_count == 100)
            # The last one stays: it is where both groups are.
            await wait_until(lambda: [id for id, _ in redis_client.xrange(stream)] == ids[-1:])
            await wait_until(lambda: relay.statistics().trimmed_count + worker.statistics().trimmed_count == 99)
    assert bot.names == [str(number) for number in range(100)]


@pytest.mark.parametrize("before", ["9007199254740992-0", "300000000000000-9007199254740992"])
def test_trimming_tells_the_largest_ids_apart(redis_client: redis.Redis, keys: Keys, before: str) -> None:
    """Beyond 2^53, which any program may write: a group keeps what it has not finished, though another is further."""
    stream, (time, number) = keys.stream(STREAM), [int(part) for part in before.split("-")]
    ids = [f"{time}-{number + step}" if number else f"{time + step}-0" for step in range(3)]
    for group in ("behind", "further"):
        redis_client.xgroup_create(stream, group, id="0", mkstream=True)
    for id in ids:
        redis_client.xadd(stream, {"name": id}, id=id)
    for names in (["behind", "further"], ["further", "behind"]):
        for group, id in zip(names, ids[:2], strict=True):
            redis_client.xgroup_setid(stream, group, id)
        assert scripts.Script("trim_stream", answer=int).run(redis_client, [stream], ()) == 0
    assert redis_client.xlen(stream) == 3


def trim_count(client: redis.Redis) -> int:
    """How often any worker has looked at what to trim, as the server counts commands."""
    return client.info("commandstats").get("cmdstat_xinfo|groups", {}).get("calls", 0)


async def test_an_entry_that_somebody_deleted_is_said_and_stops_nobody(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Its consumer died, the entry is gone: it is acked."""
    stream = keys.stream(STREAM)
    ids = append(redis_client, keys, "gone", "there")
    redis_client.xgroup_create(stream, GROUP, id="0")
    redis_client.xreadgroup(GROUP, "dead", {stream: ">"})
    redis_client.xdel(stream, ids[0])
    handler = Recorder()
    async with working(redis_server.url, keys, handler, lease_seconds=0.05, claim_interval_seconds=0.05) as worker:
        await wait_until(lambda: handler.names == ["there"])
        await wait_until(lambda: pending_count(redis_client, keys) == 0)
        # Servers from 7.0 on drop it from the pending list themselves when it is claimed.
        assert worker.statistics().vanished_count == 1
    assert "1 entries of the group workers were deleted before they were handled" in caplog.text


async def test_a_clean_run_logs_nothing_worse_than_information(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are for what an operator should see."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler):
        append(redis_client, keys, "one")
        await wait_until(lambda: handler.names == ["one"])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
