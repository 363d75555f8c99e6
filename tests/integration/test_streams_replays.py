"""A replay while its key is being worked on: what an operator put before other entries is handed to nobody yet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis
from msgspec import msgpack

from realtime.redis.keys import Keys
from realtime.streams import PermanentError, StreamWorker
from realtime.streams.dead_letters import find, replay
from realtime.streams.group import stream_script
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, dead_letters, end_lease, fill_backlog, left_count, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent
RECLAIM = stream_script("reclaim", answer=list)

# What is late does not come by a next look.
PATIENT = {
    "order_field": "of",
    "batch_size": 1,
    "concurrency": 4,
    "lease_seconds": 300,
    "claim_interval_seconds": 300,
    "block_seconds": 300,
}


def parked_numbers(client: redis.Redis, keys: Keys) -> list[list[int]]:
    """Attempts and deaths of all parked entries, oldest first."""
    records = sorted(client.hgetall(keys.parked_entries(STREAM, GROUP)).items())
    return [[int(number) for number in record.split(b" ", 4)[:2]] for _, record in records]


class Story:
    """A handler: `a0` is rejected once, `a1` fails twice, and waits in its second attempt until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.recorder = Recorder(gate=self.gate, fail=self._fail)

    def _fail(self, name: str) -> None:
        attempts = self.recorder.attempts[name]
        if attempts == [1]:
            if name == "a0":
                raise PermanentError("not as it is")
            self.gate.clear()
            raise ValueError("once")
        if name == "a1" and attempts == [1, 2]:
            raise ValueError("twice")


@contextlib.asynccontextmanager
async def replayed_beside_a_retry(
    url: str, client: redis.Redis, keys: Keys, story: Story
) -> AsyncIterator[StreamWorker]:
    """A worker in the second attempt with `a1`, when `a0` is replayed and the worker asks what it holds."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    async with working(url, keys, story.recorder, **PATIENT) as worker:
        client.xadd(group.stream, {"of": "a", "name": "a0"})
        await wait_until(lambda: worker.statistics().dead_count == 1)
        client.xadd(group.stream, {"of": "a", "name": "a1"})
        await wait_until(lambda: story.recorder.attempts.get("a1") == [1, 2])
        (letters,) = find(client, group)
        assert replay(client, group, letters) == 1
        recoveries = worker._lease.recovery_count
        end_lease(client, keys, worker)
        await wait_until(lambda: worker._lease.recovery_count > recoveries)
        assert worker.statistics().in_flight_count == 1
        yield worker


async def test_a_retry_that_fails_again_lets_what_was_replayed_go_first(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The worker that was cut off in between goes back with what it has, and with nothing else."""
    story = Story()
    async with replayed_beside_a_retry(redis_server.url, redis_client, keys, story) as worker:
        story.gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert left_count(redis_client, keys) == 0
    assert story.recorder.names == ["a0", "a1"]
    assert story.recorder.attempts == {"a0": [1, 1], "a1": [1, 2, 3]}


async def test_a_worker_that_stops_leaves_what_was_replayed_as_it_is(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Nobody has tried it since, and others go on with this key and with all else."""
    story = Story()
    async with replayed_beside_a_retry(redis_server.url, redis_client, keys, story) as worker:
        await worker.stop(deadline_seconds=0)
    assert parked_numbers(redis_client, keys) == [[0, 0], [2, 0]]
    redis_client.xadd(keys.stream(STREAM), {"of": "b", "name": "b0"})
    other = Recorder()
    async with working(redis_server.url, keys, other, **PATIENT):
        await wait_until(lambda: sorted(other.names) == ["a0", "a1", "b0"])
    assert other.attempts == {"a0": [1], "a1": [3], "b0": [1]}


def test_a_death_counts_once_and_only_for_what_the_dead_had(redis_client: redis.Redis, keys: Keys) -> None:
    """Also where one call does not move everything, and where an operator put something before it."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    fill_backlog(redis_client, keys, "a", ("replayed", 0, 0))
    for number in range(5):
        redis_client.xadd(group.stream, {"of": "a", "name": number})
    redis_client.xreadgroup(GROUP, "dead", {group.stream: ">"})
    newest = redis_client.xrevrange(group.stream, count=1)[0][0]
    redis_client.hset(group.owners, "a", b"dead " + newest + b"+")
    moved = []
    while not moved or not moved[-1][1]:
        moved.append(RECLAIM.run(redis_client, group.for_scripts, [GROUP, "other", "of", "dead", 0, 1, 2]))
    assert moved == [[2, 0, 0], [2, 0, 0], [1, 1, 0]]
    assert parked_numbers(redis_client, keys) == [[0, 0]] + 5 * [[1, 1]]
    redis_client.delete(*redis_client.keys(f"{{{keys.prefix}{STREAM}}}:*"))


@pytest.mark.parametrize(
    "record",
    [b"-1 0 1 0 " + msgpack.encode(["name", "a0"]), b"1 0 1 0 \xc1", b"1 0 1 0 " + msgpack.encode(7), b"", b"\xff"],
)
async def test_what_cannot_be_read_in_a_line_is_a_dead_letter_and_stops_nobody(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture, record: bytes
) -> None:
    """Somebody wrote where only workers write: it is said, shown to operators, and what waits behind it goes on."""
    fill_backlog(redis_client, keys, "a", ("a0", 1, 0), ("a1", 1, 0))
    redis_client.hset(keys.parked_entries(STREAM, GROUP), "1-1", record)
    redis_client.xadd(keys.stream(STREAM), {"of": "b", "name": "b0"})
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert worker.statistics().dead_count == 1
    assert sorted(handler.names) == ["a1", "b0"]
    assert left_count(redis_client, keys) == 0
    (letter,) = dead_letters(redis_client, keys)
    assert (letter[b"_id"], letter[b"_key"], letter[b"_reason"]) == (b"1-1", b"a", b"unreadable")
    assert letter[b"kept"] == record
    assert "1 parked entries of the group workers could not be read" in caplog.text


async def test_an_unreadable_entry_that_the_stream_still_has_can_be_replayed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Its letter has the entry's own fields then."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    redis_client.xadd(group.stream, {"of": "a", "name": "a0"}, id="1-1")
    fill_backlog(redis_client, keys, "a", ("a0", 1, 0))
    redis_client.hset(group.parked, "1-1", "nonsense")
    handler = Recorder()
    async with working(redis_server.url, keys, handler, groups=("slow",), **PATIENT) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1)
        for letters in find(redis_client, group):
            replay(redis_client, group, letters)
        worker._wakeup.wake()
        await wait_until(lambda: handler.attempts == {"a0": [1]})
