"""Appending to streams: all or none, once per guard, from sync and from async code."""

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys

import pytest
import redis
import redis.asyncio

from realtime.exceptions import StreamFull, StreamUnavailable, Unavailable
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams.append import aappend_entries, append_entries
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.database_independent

ENTRIES = [{"n": b"1", "u": b"42", "e": b'{"id":1}'}, {"n": b"2", "u": b"43", "e": b"\x00\xff\n"}]
AS_STORED = [{field.encode(): value for field, value in entry.items()} for entry in ENTRIES]


def stored(client: redis.Redis, keys: Keys) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(keys.stream("notifications"))]


def test_entries_are_appended_in_order_with_their_bytes_unchanged(redis_client: redis.Redis, keys: Keys) -> None:
    """What is on the stream is what was given; the guard is there, and expires."""
    guard = keys.stream_guard("notifications", "7")
    assert append_entries(redis_client, keys.stream("notifications"), guard, ENTRIES, guard_seconds=60) is True
    assert stored(redis_client, keys) == AS_STORED
    assert 0 < redis_client.ttl(guard) <= 60


async def test_the_async_twin_does_the_same(
    async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis, keys: Keys
) -> None:
    """And it knows the guards of the sync one."""
    stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
    assert await aappend_entries(async_redis_client, stream, guard, ENTRIES, guard_seconds=60) is True
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60) is False
    assert stored(redis_client, keys) == AS_STORED


def test_appending_twice_with_one_guard_appends_once(redis_client: redis.Redis, keys: Keys) -> None:
    """The second call says that it did nothing; another guard is another batch."""
    stream = keys.stream("notifications")
    guard, other = keys.stream_guard("notifications", "7"), keys.stream_guard("notifications", "8")
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60) is True
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60) is False
    assert append_entries(redis_client, stream, other, ENTRIES[:1], guard_seconds=60) is True
    assert stored(redis_client, keys) == [*AS_STORED, AS_STORED[0]]


async def test_of_many_calls_at_once_with_one_guard_one_appends(
    async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis, keys: Keys
) -> None:
    """Threads and tasks together."""
    stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(append_entries, redis_client, stream, guard, ENTRIES, guard_seconds=60) for _ in range(20)
        ]
        answers = await asyncio.gather(
            *(aappend_entries(async_redis_client, stream, guard, ENTRIES, guard_seconds=60) for _ in range(20)),
            *(asyncio.wrap_future(call) for call in calls),
        )
    assert sorted(answers) == [False] * 39 + [True]
    assert stored(redis_client, keys) == AS_STORED


def test_ten_thousand_entries_go_in_one_call(redis_client: redis.Redis, keys: Keys) -> None:
    """A batch has no limit but memory; nothing of it depends on how many arguments a Lua call may have."""
    entries = [{"n": b"%d" % number} for number in range(10_000)]
    guard = keys.stream_guard("notifications", "7")
    append_entries(redis_client, keys.stream("notifications"), guard, entries, guard_seconds=60)
    assert [fields[b"n"] for fields in stored(redis_client, keys)] == [entry["n"] for entry in entries]


@pytest.mark.parametrize("field_count", [0, 1001])
def test_an_entry_that_redis_could_not_take_is_refused_before_anything_is_sent(
    redis_client: redis.Redis, keys: Keys, field_count: int
) -> None:
    """All or none."""
    entries = [ENTRIES[0], {f"f{number}": b"" for number in range(field_count)}]
    with pytest.raises(ValueError, match=f"{field_count} fields"):
        append_entries(
            redis_client,
            keys.stream("notifications"),
            keys.stream_guard("notifications", "7"),
            entries,
            guard_seconds=60,
        )
    assert stored(redis_client, keys) == []


def test_a_full_stream_takes_nothing_and_leaves_no_guard(redis_client: redis.Redis, keys: Keys) -> None:
    """When there is room, the same call appends all. A handler may let the error through to be called again."""
    stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
    first = redis_client.xadd(stream, {"n": b"0"})
    redis_client.xadd(stream, {"n": b"1"})
    for _ in range(2):
        with pytest.raises(StreamFull, match="has 2 entries, which is its limit") as caught:
            append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=2)
        assert isinstance(caught.value, Unavailable)
    assert (redis_client.xlen(stream), redis_client.exists(guard)) == (2, 0)
    redis_client.xdel(stream, first)
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=2) is True
    assert stored(redis_client, keys) == [{b"n": b"1"}, *AS_STORED]


async def test_the_async_twin_knows_the_limit(
    async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis, keys: Keys
) -> None:
    """A stream that is not full takes a whole batch, although that exceeds the limit."""
    stream = keys.stream("notifications")
    guard, other = keys.stream_guard("notifications", "7"), keys.stream_guard("notifications", "8")
    assert await aappend_entries(async_redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=1) is True
    with pytest.raises(StreamFull):
        await aappend_entries(async_redis_client, stream, other, ENTRIES, guard_seconds=60, length_limit=1)
    assert stored(redis_client, keys) == AS_STORED
    assert redis_client.exists(other) == 0


def test_a_batch_that_was_appended_is_not_refused_by_a_full_stream(redis_client: redis.Redis, keys: Keys) -> None:
    """A call that is repeated after a lost reply learns that it has done its work, even if that filled the stream."""
    stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=2) is True
    assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=2) is False
    assert stored(redis_client, keys) == AS_STORED


@pytest.mark.parametrize("length_limit", [0, -1])
def test_without_a_limit_no_stream_is_full(redis_client: redis.Redis, keys: Keys, length_limit: int) -> None:
    """Also for a stream that has entries."""
    stream = keys.stream("notifications")
    for number in range(3):
        guard = keys.stream_guard("notifications", str(number))
        assert append_entries(redis_client, stream, guard, ENTRIES, guard_seconds=60, length_limit=length_limit)
    assert redis_client.xlen(stream) == 6


async def test_many_callers_at_once_exceed_the_limit_by_less_than_a_batch(
    async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis, keys: Keys
) -> None:
    """Each batch is on the stream as a whole, or not at all."""
    stream = keys.stream("notifications")
    batches = [[{"n": b"%d" % number}, {"n": b"%d" % number}] for number in range(40)]
    calls = [
        aappend_entries(
            async_redis_client,
            stream,
            keys.stream_guard("notifications", str(number)),
            batch,
            guard_seconds=60,
            length_limit=9,
        )
        for number, batch in enumerate(batches)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    appended = [batches[number] for number, answer in enumerate(answers) if answer is True]
    assert [answer for answer in answers if answer is not True and not isinstance(answer, StreamFull)] == []
    assert len(appended) == 5
    numbers = [fields[b"n"] for fields in stored(redis_client, keys)]
    assert sorted(numbers) == sorted(entry["n"] for batch in appended for entry in batch)
    assert numbers[::2] == numbers[1::2]


async def test_redis_being_away_is_an_unavailable_stream(keys: Keys) -> None:
    """Both twins say so soon, with the cause chained; a stream handler may let it through to be called again."""
    with RedisServer() as server:
        server.kill()
        stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
        with clients.publisher(server.url) as client:
            with pytest.raises(StreamUnavailable, match="try again later") as caught:
                append_entries(client, stream, guard, ENTRIES, guard_seconds=60)
            assert isinstance(caught.value.__cause__, redis.ConnectionError)
            assert isinstance(caught.value, Unavailable)
        async_client = clients.async_publisher(server.url)
        with pytest.raises(StreamUnavailable):
            await aappend_entries(async_client, stream, guard, ENTRIES, guard_seconds=60)
        await async_client.aclose()


def test_redis_without_memory_takes_nothing_and_leaves_no_guard(keys: Keys) -> None:
    """Appending again when there is memory appends all."""
    stream, guard = keys.stream("notifications"), keys.stream_guard("notifications", "7")
    with RedisServer() as server, clients.publisher(server.url) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StreamUnavailable, match="OutOfMemory"):
            append_entries(client, stream, guard, ENTRIES, guard_seconds=60)
        client.config_set("maxmemory", "0")
        assert append_entries(client, stream, guard, ENTRIES, guard_seconds=60) is True
        assert stored(client, keys) == AS_STORED


def test_a_server_that_forgot_the_script_learns_it_again(redis_client: redis.Redis, keys: Keys) -> None:
    """A restart or SCRIPT FLUSH is noticed by nobody."""
    stream = keys.stream("notifications")
    append_entries(redis_client, stream, keys.stream_guard("notifications", "1"), ENTRIES, guard_seconds=60)
    redis_client.script_flush()
    assert append_entries(redis_client, stream, keys.stream_guard("notifications", "2"), ENTRIES, guard_seconds=60)


def test_a_forked_process_uses_a_connection_of_its_own(redis_server: RedisServer, keys: Keys) -> None:
    """The client of a parent that preloads the application, as gunicorn's does, is safe in its children."""
    program = """
import os, sys
from realtime.redis import clients
from realtime.streams.append import append_entries

client = clients.publisher(sys.argv[1])
def append(guard):
    append_entries(client, sys.argv[2], sys.argv[2] + guard, [{"n": guard.encode()}], guard_seconds=9)
append("parent")
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        for turn in range(50):
            append(f"{number}-{turn}")
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""
    stream = keys.stream("notifications")
    process = subprocess.Popen([sys.executable, "-c", program, redis_server.url, stream], start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with clients.publisher(redis_server.url) as client:
        assert client.xlen(stream) == 151
        client.delete(stream)
