"""What Redis says of the files that the workers of a sink have begun to write."""

import asyncio
import time
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import redis
import redis.asyncio

from realtime.redis.keys import Keys
from realtime.sinks.written import KEPT_SECONDS, WrittenFiles

pytestmark = pytest.mark.database_independent

PATH, OTHER_PATH = "2026-01-02/one.ndjson", "2026-01-02/another one.ndjson"
IDS = [b"1-0", b"1-1", b"2-0"]


@pytest.fixture
def key(keys: Keys) -> str:
    """A name that may stay: the hash is permanent."""
    return keys.written_files("notifications", "Archive")


@pytest.fixture
def one(async_redis_client: redis.asyncio.Redis, key: str) -> WrittenFiles:
    return WrittenFiles(async_redis_client, key=key, consumer="host-1-a")


@pytest.fixture
def other(async_redis_client: redis.asyncio.Redis, key: str) -> WrittenFiles:
    return WrittenFiles(async_redis_client, key=key, consumer="host-2-b")


def field(consumer: str, path: str, age_seconds: float = 0.0) -> bytes:
    return f"{consumer} {time.time() - age_seconds:.0f} {path}".encode()


def put(client: redis.Redis, key: str, name: bytes, ids: Sequence[bytes]) -> None:
    """What a worker has written that has died since."""
    client.hset(key, name, zlib.compress(b" ".join(ids)))  # type: ignore[arg-type]


async def test_another_worker_finds_what_is_in_a_file(one: WrittenFiles, other: WrittenFiles) -> None:
    """Of the entries that it asks for; the worker itself knows its files and does not ask for them."""
    await one.begin(one.new(PATH), IDS)
    await one.begin(one.new(OTHER_PATH), [b"3-0"])
    assert await other.find([b"1-1", b"2-0", b"9-9"]) == {PATH: {b"1-1", b"2-0"}}
    assert await other.find([b"3-0", b"1-0"]) == {OTHER_PATH: {b"3-0"}, PATH: {b"1-0"}}
    assert await other.find([b"9-9"]) == {}
    assert await other.find([]) == {}
    assert await one.find(IDS) == {}


async def test_a_file_of_two_workers_has_the_entries_of_both(
    one: WrittenFiles, other: WrittenFiles, async_redis_client: redis.asyncio.Redis, key: str
) -> None:
    """They are two fields."""
    await one.begin(one.new(PATH), IDS[:1])
    await other.begin(other.new(PATH), IDS[1:2])
    third = WrittenFiles(async_redis_client, key=key, consumer="host-3-c")
    assert await third.find(IDS) == {PATH: {b"1-0", b"1-1"}}


async def test_a_file_is_finished_when_all_of_its_entries_are_acked(one: WrittenFiles) -> None:
    """In whatever pieces; entries that are in no file change nothing."""
    first, second = one.new(PATH), one.new(OTHER_PATH)
    await one.begin(first, IDS)
    await one.begin(second, [b"3-0", b"3-1"])
    assert one.acked([b"9-9"]) == []
    assert one.acked([b"1-0", b"3-0"]) == []
    assert one.acked(iter([b"1-1", b"2-0"])) == [first]
    assert one.acked([b"1-0", b"3-1"]) == [second]
    assert one.acked([b"1-0", b"3-1"]) == []


async def test_an_entry_that_is_in_two_files_finishes_both(one: WrittenFiles) -> None:
    """It was lost and came again, so its worker has written it twice. Nothing of it is kept for ever."""
    first, second = one.new(PATH), one.new(OTHER_PATH)
    await one.begin(first, [b"1-0", b"1-1"])
    await one.begin(second, [b"1-1", b"1-2"])
    assert one.acked([b"1-0"]) == []
    assert one.acked([b"1-1"]) == [first]
    assert one.acked([b"1-2"]) == [second]


async def test_what_is_forgotten_is_found_by_nobody(
    one: WrittenFiles, other: WrittenFiles, redis_client: redis.Redis, key: str
) -> None:
    """Also by a worker that has found it before."""
    file = one.new(PATH)
    await one.begin(file, IDS)
    assert await other.find(IDS) == {PATH: set(IDS)}
    await one.forget(one.acked(IDS))
    assert await other.find(IDS) == {}
    assert not redis_client.exists(key)


async def test_beginning_again_changes_nothing(one: WrittenFiles, other: WrittenFiles) -> None:
    """As after a lost reply."""
    file = one.new(PATH)
    for _ in range(2):
        await one.begin(file, IDS)
    assert await other.find(IDS) == {PATH: set(IDS)}
    assert one.acked(IDS) == [file]


async def test_a_worker_that_started_again_finds_its_earlier_files(
    one: WrittenFiles, async_redis_client: redis.asyncio.Redis, key: str
) -> None:
    """Even under the same name."""
    await one.begin(one.new(PATH), IDS)
    again = WrittenFiles(async_redis_client, key=key, consumer="host-1-a")
    assert await again.find(IDS[:1]) == {PATH: {b"1-0"}}


async def test_files_that_nobody_finished_are_removed_after_a_week(
    one: WrittenFiles, redis_client: redis.Redis, key: str
) -> None:
    """Their worker has died, and their entries were acked long ago. Younger ones stay."""
    old = field("host-9-z", "old", KEPT_SECONDS + 60)
    young = field("host-9-z", "young", KEPT_SECONDS - 3600)
    put(redis_client, key, old, [b"1-0"])
    put(redis_client, key, young, [b"1-1"])
    await one.find([])
    assert redis_client.hkeys(key) == [young]
    assert await one.find(IDS) == {"young": {b"1-1"}}


async def test_what_is_no_file_is_left_out_and_stays(
    one: WrittenFiles, redis_client: redis.Redis, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else has written into the hash; this is logged once."""
    good = field("host-9-z", PATH)
    put(redis_client, key, good, IDS)
    garbage = {b"": b"", b"one": b"x", b"a b c": b"x", field("h", "not packed"): b"x", field("h", "\xff")[:-1]: b"x"}
    redis_client.hset(key, mapping=garbage)  # type: ignore[arg-type]
    for _ in range(3):
        assert await one.find(IDS) == {PATH: set(IDS)}
    assert redis_client.hlen(key) == 1 + len(garbage)
    assert len(caplog.records) == len(garbage)
    assert "is no file of a sink" in caplog.text


async def test_a_key_of_another_type_is_an_error(one: WrittenFiles, redis_client: redis.Redis, key: str) -> None:
    """The caller waits, as in an outage. When the key is right again, all works."""
    file = one.new(PATH)
    redis_client.set(key, "text")
    for call in (one.find(IDS), one.begin(file, IDS), one.forget([file])):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await call
    assert one.acked(IDS) == [], "a file that was not begun has no entries"
    redis_client.delete(key)
    await one.begin(file, IDS)
    assert one.acked(IDS) == [file]
    await one.forget([file])


async def test_searches_at_the_same_time_find_the_same(
    one: WrittenFiles, other: WrittenFiles, async_redis_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search whose list of files is older takes nothing from one with a newer list."""
    await one.begin(one.new(PATH), IDS)
    hkeys, hmget = async_redis_client.hkeys, async_redis_client.hmget
    is_listed, may_go_on = asyncio.Event(), asyncio.Event()

    async def list_slowly(name: str) -> Any:
        fields = await hkeys(name)
        is_listed.set()
        await may_go_on.wait()
        return fields

    monkeypatch.setattr(async_redis_client, "hkeys", list_slowly)
    older = asyncio.create_task(other.find(IDS))
    await is_listed.wait()
    monkeypatch.setattr(async_redis_client, "hkeys", hkeys)
    await one.begin(one.new(OTHER_PATH), [b"3-0"])
    assert await other.find([b"3-0"]) == {OTHER_PATH: {b"3-0"}}
    # One more file, so that the newer search asks for it while the older one ends.
    await one.begin(one.new("third"), [b"4-0"])

    async def get_after_the_older_one(name: str, fields: Sequence[bytes]) -> Any:
        may_go_on.set()
        assert await older == {PATH: set(IDS)}
        return await hmget(name, fields)

    monkeypatch.setattr(async_redis_client, "hmget", get_after_the_older_one)
    assert await other.find([b"3-0", b"4-0"]) == {OTHER_PATH: {b"3-0"}, "third": {b"4-0"}}
