"""Log records that programs publish on Redis channels are appended to the stream."""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from realtime.logs.record import LogRecord, decode_record
from realtime.redis.keys import Keys
from realtime.sinks import service as service_module
from realtime.sinks.service import SinkService
from realtime.statistics import collect
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


@pytest.fixture(autouse=True)
def _no_stream_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    redis_client.delete(keys.stream("logs"))


@contextlib.asynccontextmanager
async def listening(
    client: redis.Redis, keys: Keys, *channels: str, count: int = 1
) -> AsyncIterator[list[SinkService]]:
    """Services without sinks that append published records; one of them listens."""
    services = [SinkService([], channels=channels) for _ in range(count)]
    tasks = [asyncio.create_task(service.run()) for service in services]
    names = [keys.channel(channel) for channel in channels]
    await wait_until(lambda: all(number for _, number in client.pubsub_numsub(*names)))
    try:
        yield services
    finally:
        for service in services:
            service.stop()
        await asyncio.gather(*tasks)


def records(client: redis.Redis, keys: Keys) -> list[LogRecord]:
    found: Any = client.xrange(keys.stream("logs"))
    return [decode_record(fields[b"record"]) for _, fields in found]


async def test_published_records_are_appended_in_their_order(redis_client: redis.Redis, keys: Keys) -> None:
    """Each channel is the queue of records that have none."""
    async with listening(redis_client, keys, "lib.server.lobby", "lib.server.kitchen"):
        for number in range(50):
            body = {"message": f"{number}", "name": "game", "task": json.dumps({"game_token": f"g{number}"})}
            redis_client.publish(keys.channel("lib.server.lobby"), json.dumps(body))
        redis_client.publish(keys.channel("lib.server.kitchen"), '{"message": "soup", "queue": "meals"}')
        await wait_until(lambda: len(records(redis_client, keys)) == 51)
    found = records(redis_client, keys)
    lobby = [record for record in found if record.queue == "lib.server.lobby"]
    assert [record.message for record in lobby] == [str(number) for number in range(50)]
    assert lobby[7].task == {"game_token": "g7"}
    assert [record.message for record in found if record.queue == "meals"] == ["soup"]


async def test_one_of_all_processes_listens(redis_client: redis.Redis, keys: Keys) -> None:
    """So no record comes twice; another one takes over from a process that stops."""
    async with listening(redis_client, keys, "lobby", count=3) as services:
        assert redis_client.publish(keys.channel("lobby"), '{"message": "one"}') == 1
        await wait_until(lambda: len(records(redis_client, keys)) == 1)
        services[0].stop()
        services[1].stop()
        await wait_until(lambda: redis_client.publish(keys.channel("lobby"), '{"message": "two"}') == 1)
        await wait_until(lambda: records(redis_client, keys)[-1].message == "two")


async def test_each_channel_is_listened_to_by_one_process(redis_client: redis.Redis, keys: Keys) -> None:
    """Also if the processes were given different channels, or one channel twice."""
    async with listening(redis_client, keys, "lobby", "lobby"), listening(redis_client, keys, "lobby", "kitchen"):
        for channel in ("lobby", "kitchen"):
            assert redis_client.publish(keys.channel(channel), f'{{"message": "{channel}"}}') == 1
        await wait_until(lambda: len(records(redis_client, keys)) == 2)
    assert sorted(record.message for record in records(redis_client, keys)) == ["kitchen", "lobby"]


async def test_the_counters_of_an_intake_that_has_ended_stay(redis_client: redis.Redis, keys: Keys) -> None:
    """A total never falls, even if another process listens now."""

    def accepted_count() -> int:
        return collect().others.get("log intake", {}).get("accepted", 0)

    before = accepted_count()
    async with listening(redis_client, keys, "lobby"):
        redis_client.publish(keys.channel("lobby"), '{"message": "one"}')
        await wait_until(lambda: accepted_count() == before + 1)
    gc.collect()
    assert accepted_count() == before + 1


@pytest.mark.parametrize(
    "body", [b"hello", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"message": "' + b"x" * (1 << 20) + b'"}', b""], ids=len
)
async def test_other_publications_are_refused(
    redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """They are logged, at a limited rate; later records are appended."""
    async with listening(redis_client, keys, "lobby"):
        for _ in range(30):
            redis_client.publish(keys.channel("lobby"), body)
        redis_client.publish(keys.channel("lobby"), '{"message": "after"}')
        await wait_until(lambda: len(records(redis_client, keys)) == 1)
    assert [record.message for record in records(redis_client, keys)] == ["after"]
    refused = [record.getMessage() for record in caplog.records if "refused a log record" in record.getMessage()]
    assert 1 <= len(refused) <= 6
    assert all(len(text) < 600 for text in refused)


async def test_no_published_value_ends_the_service(redis_client: redis.Redis, keys: Keys) -> None:
    """Otherwise, anybody who may publish could stop all sinks."""
    async with listening(redis_client, keys, "lobby"):
        redis_client.publish(keys.channel("lobby"), '{"message": "one", "timestamp": "0001-01-01T00:00:00+01:00"}')
        redis_client.publish(keys.channel("lobby"), f'{{"message": "two", "task": {2**70}}}')
        redis_client.publish(keys.channel("lobby"), '{"message": "three"}')
        await wait_until(lambda: [each.message for each in records(redis_client, keys)] == ["one", "two", "three"])


async def test_records_wait_while_redis_takes_none(settings: Any, keys: Keys) -> None:
    """Here, because the key of the stream is of another type."""
    with RedisServer() as server:
        settings.REALTIME = {**settings.REALTIME, "REDIS_URL": server.url}
        with redis.Redis.from_url(server.url) as client:
            async with listening(client, keys, "lobby"):
                client.set(keys.stream("logs"), "in the way")
                client.publish(keys.channel("lobby"), '{"message": "one"}')
                await asyncio.sleep(0)
                client.publish(keys.channel("lobby"), '{"message": "two"}')
                client.delete(keys.stream("logs"))
                await wait_until(lambda: [record.message for record in records(client, keys)] == ["one", "two"])


async def test_a_service_that_stops_appends_what_it_has_received(
    settings: Any, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """PUBLISH returned 1, so the program that published them relies on it."""
    with RedisServer() as server:
        settings.REALTIME = {**settings.REALTIME, "REDIS_URL": server.url}
        with redis.Redis.from_url(server.url) as client:
            client.set(keys.stream("logs"), "in the way")
            async with listening(client, keys, "lobby") as services:
                client.publish(keys.channel("lobby"), '{"message": "one"}')
                await wait_until(lambda: "WRONGTYPE" in caplog.text)
                before = collect().multiplexer.received_count
                client.publish(keys.channel("lobby"), '{"message": "two"}')
                await wait_until(lambda: collect().multiplexer.received_count > before)
                client.delete(keys.stream("logs"))
                services[0].stop()
            assert [record.message for record in records(client, keys)] == ["one", "two"]


async def test_a_full_stream_is_no_outage_of_redis(
    redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is wrong and what to do, once. Records wait."""
    monkeypatch.setattr(service_module, "STREAM_LIMIT", 1)
    async with listening(redis_client, keys, "lobby"):
        redis_client.publish(keys.channel("lobby"), '{"message": "one"}')
        await wait_until(lambda: len(records(redis_client, keys)) == 1)
        redis_client.publish(keys.channel("lobby"), '{"message": "two"}')
        await wait_until(lambda: "StreamFull" in caplog.text or "is full" in caplog.text)
        redis_client.xtrim(keys.stream("logs"), maxlen=0)
        await wait_until(lambda: [record.message for record in records(redis_client, keys)] == ["two"])
    assert "Redis is unavailable" not in caplog.text
    assert (
        caplog.text.count("the stream logs is full, it has 1 entries: published records wait. Start run_log_sink") == 1
    )
    assert "the stream logs takes records again" in caplog.text
