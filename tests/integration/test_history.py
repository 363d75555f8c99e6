"""Reading where a topic stands and what was missed, against a real Redis."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio
from cryptography.fernet import Fernet, MultiFernet
from redis.exceptions import RedisError

from realtime.broker.history import TOPICS_PER_READING, HistoryPolicy, HistoryReader
from realtime.broker.publication import Crypter, Position
from realtime.broker.publish import PUBLICATIONS_PER_CALL, PublishCall, PublishRequest, publish_all
from realtime.exceptions import SubscriptionClosed
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


def publish(
    client: redis.Redis, keys: Keys, topic: str, *data: bytes, size: int = 100, crypter: Crypter | None = None
) -> Position:
    requests = [PublishRequest(topic, each, HistoryPolicy(size=size)) for each in data]
    calls = [
        PublishCall(part, keys=keys, channel_of=lambda topic: keys.prefix + topic, crypter=crypter)
        for part in itertools.batched(requests, PUBLICATIONS_PER_CALL)
    ]
    return publish_all(client, calls)[-1].position


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def frames(topic: str, first: int, last: int) -> list[bytes]:
    """Of publications whose data are their offsets."""
    return [
        b'{"type":"message","topic":"%b","offset":%d,"data":%d}' % (topic.encode(), number, number)
        for number in range(first, last + 1)
    ]


@pytest.fixture
async def reader(async_redis_client: redis.asyncio.Redis, keys: Keys) -> AsyncIterator[HistoryReader]:
    reader = HistoryReader(async_redis_client, keys=keys, crypter=None)
    yield reader
    await reader.stop()


async def test_what_came_after_an_offset_is_read(reader: HistoryReader, redis_client: redis.Redis, keys: Keys) -> None:
    """No more than that goes over the network, and nothing where only the position is wanted."""
    position = publish(redis_client, keys, "a", *numbered(1, 20))
    for after, expected in ((None, []), (20, []), (19, frames("a", 20, 20)), (0, frames("a", 1, 20)), (99, [])):
        history = await reader.read("a", after=after)
        assert history.position == position
        assert history.frames == expected


async def test_a_history_that_does_not_reach_back_is_what_there_is(
    reader: HistoryReader, redis_client: redis.Redis, keys: Keys
) -> None:
    """Trimmed, expired, or never kept: what is there joins on to the position, and `since` says that it is not all."""
    position = publish(redis_client, keys, "a", *numbered(1, 20), size=5)
    history = await reader.read("a", after=3)
    assert history.frames == frames("a", 16, 20)
    assert history.since(Position(3, position.epoch)) is None
    redis_client.delete(keys.topic_history("a"))
    history = await reader.read("a", after=3)
    assert (history.position, history.frames) == (position, [])
    publish(redis_client, keys, "a", b"21", b"22", size=0)
    publish(redis_client, keys, "a", b"23")
    assert (await reader.read("a", after=20)).frames == frames("a", 23, 23)
    publish(redis_client, keys, "a", b"24", size=0)
    assert (await reader.read("a", after=20)).frames == [], "the newest is missing, so that nothing joins on"


async def test_a_topic_without_publications_has_an_epoch(
    reader: HistoryReader, redis_client: redis.Redis, keys: Keys
) -> None:
    """It is the same for all who ask, and the one in which the first publication comes; it expires."""
    first, second = await reader.read("a", after=None), await reader.read("a", after=0)
    assert first.position == second.position
    assert first.position.offset == 0
    assert 590 < redis_client.ttl(keys.topic_position("a")) <= 600, "made-up names must not fill Redis"
    assert publish(redis_client, keys, "a", b"1") == (1, first.position.epoch)
    assert 86_000 < redis_client.ttl(keys.topic_position("a")) <= 86_400
    assert (await reader.read("a", after=0)).since(first.position) == frames("a", 1, 1)


async def test_a_counter_that_was_lost_has_another_epoch(
    reader: HistoryReader, redis_client: redis.Redis, keys: Keys
) -> None:
    """Nobody who was there before believes to have missed nothing; what the old one left behind is not read."""
    before = publish(redis_client, keys, "a", *numbered(1, 3))
    redis_client.delete(keys.topic_position("a"))
    history = await reader.read("a", after=0)
    assert history.position.offset == 0
    assert history.position.epoch != before.epoch
    publish(redis_client, keys, "a", *numbered(1, 4))
    history = await reader.read("a", after=0)
    assert history.frames == frames("a", 1, 4)
    assert history.since(before) is None


async def test_an_encrypted_history_can_be_read_with_the_key_only(
    async_redis_client: redis.asyncio.Redis, redis_client: redis.Redis, keys: Keys
) -> None:
    """With another key it is as if nothing had been kept: whoever missed something is told."""
    right, wrong = (MultiFernet([Fernet(Fernet.generate_key())]) for _ in range(2))
    position = publish(redis_client, keys, "a", *numbered(1, 3), crypter=right)
    assert b"message" not in b"".join(redis_client.lrange(keys.topic_history("a"), 0, -1))
    for crypter, expected in ((right, frames("a", 2, 3)), (wrong, [])):
        history = await HistoryReader(async_redis_client, keys=keys, crypter=crypter).read("a", after=1)
        assert (history.position, history.frames) == (position, expected)


async def test_a_full_redis_lets_nobody_believe_to_have_missed_nothing(keys: Keys) -> None:
    """It cannot keep an epoch for a fresh topic: each reader sees another one, and old topics are read as ever."""
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        known = publish(client, keys, "known", b"1")
        client.config_set("maxmemory", "1")
        async with redis.asyncio.Redis.from_url(server.url) as async_client:
            reader = HistoryReader(async_client, keys=keys, crypter=None)
            epochs = {(await reader.read("fresh", after=0)).position.epoch for _ in range(3)}
            assert len(epochs) == 3
            history = await reader.read("known", after=0)
            assert (history.position, history.frames) == (known, frames("known", 1, 1))


async def test_a_storm_of_readers_costs_a_few_round_trips(keys: Keys) -> None:
    """Those who ask while one is under way share the next; a topic is read once for all, as far back as any wants."""
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        for number in range(200):
            publish(client, keys, f"t{number}", *numbered(1, 5))
        async with redis.asyncio.Redis.from_url(server.url) as async_client:
            reader = HistoryReader(async_client, keys=keys, crypter=None)
            await reader.read("t0", after=None)
            client.config_resetstat()
            histories = await asyncio.gather(
                *(reader.read(f"t{number % 200}", after=number // 200) for number in range(1_000))
            )
            calls = client.info("commandstats")
            assert calls["cmdstat_evalsha"]["calls"] == -(-200 // TOPICS_PER_READING)
            # The script was brought by the first reading of all.
            assert "cmdstat_eval" not in calls
        for number, history in enumerate(histories):
            assert history.since(Position(number // 200, history.position.epoch)) == frames(
                f"t{number % 200}", number // 200 + 1, 5
            )


async def test_readers_that_give_up_disturb_nobody(
    reader: HistoryReader, redis_client: redis.Redis, keys: Keys
) -> None:
    """Cancelled at any moment; whoever shares the reading has it all the same."""
    publish(redis_client, keys, "a", *numbered(1, 3))
    for ticks in range(12):
        gives_up = asyncio.create_task(reader.read("a", after=0))
        stays = asyncio.create_task(reader.read("a", after=1))
        for _ in range(ticks):
            await asyncio.sleep(0)
        gives_up.cancel()
        async with asyncio.timeout(60):
            assert (await stays).since(Position(1, (await stays).position.epoch)) == frames("a", 2, 3)
    await wait_until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_redis_that_is_away_is_told_to_all_who_wait_and_its_return_needs_nothing(keys: Keys) -> None:
    """Each of them gets the error; the next reading works."""
    with RedisServer() as server:
        async with redis.asyncio.Redis.from_url(server.url, retry=None) as async_client:
            reader = HistoryReader(async_client, keys=keys, crypter=None)
            await reader.read("a", after=0)
            server.kill()
            results = await asyncio.gather(
                *(reader.read(f"t{number}", after=0) for number in range(100)), return_exceptions=True
            )
            assert all(isinstance(result, RedisError | OSError) for result in results)
            server.start()
            assert (await reader.read("a", after=0)).position.offset == 0


async def test_a_stopped_reader_tells_those_who_wait(
    reader: HistoryReader, redis_client: redis.Redis, keys: Keys
) -> None:
    """Whether their reading has begun or not; it can be used again."""
    for ticks in range(1, 7):
        waiting = [asyncio.create_task(reader.read(f"t{number}", after=0)) for number in range(100)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        await reader.stop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert any(isinstance(result, SubscriptionClosed) for result in results)
        assert (await reader.read("a", after=0)).position.offset == 0
