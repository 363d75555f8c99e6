"""The channel layer and its Redis hosts: encrypted, several, silent for long, and lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from tests.support.redis_server import RedisServer
from tests.support.topic_clients import Client, ClientSink
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

POLICY = HistoryPolicy()
# channels_redis#422: with its defaults, redis-py 8 gives up an idle connection after five.
IDLE_SECONDS = 6


class Hears(Client):
    """Keeps the data of what comes."""

    def __init__(self, since: Position | None = None) -> None:
        super().__init__(since)
        self.data: list[Any] = []

    def check(self, data: Any, position: Position) -> None:
        self.data.append(data)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as closing:
        yield closing


def made(closing: AsyncExitStack, *urls: str, **options: Any) -> RedisChannelLayer:
    layer = RedisChannelLayer(urls, **options)
    closing.push_async_callback(layer.flush)
    return layer


async def hearing(layer: RedisChannelLayer, topic: str, since: Position | None = None) -> Hears:
    hears = Hears(since)
    await layer.hub.join(topic, ClientSink(hears), since=since)
    return hears


async def received(layer: RedisChannelLayer, channel: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        return await layer.receive(channel)


# Encryption -----------------------------------------------------------------------------------------------------------


@contextmanager
def wire(client: redis.Redis) -> Iterator[list[bytes]]:
    """Collects what is published meanwhile; complete when it ends."""
    published: list[bytes] = []
    with client.pubsub() as pubsub:
        pubsub.psubscribe("*")
        yield published
        client.publish("end", b"")
        for message in pubsub.listen():
            if message["channel"] == b"end":
                break
            if message["type"] == "pmessage":
                published.append(message["data"])


async def test_nothing_can_be_read_in_redis_without_the_key(
    closing: AsyncExitStack, server: RedisServer, client: redis.Redis
) -> None:
    """Neither messages nor publications can be read without the key, in transit or in history."""
    layer = made(closing, server.url, symmetric_encryption_keys=["a key"])
    channel, hears = await layer.new_channel(), await hearing(layer, "news.today")
    await layer.group_add("news.today", channel)
    message = {"type": "a.message", "text": "SECRET"}
    with wire(client) as published:
        await layer.send(channel, message)
        await layer.group_send("news.today", message)
        await layer.publish(PublishRequest("news.today", b'"SECRET"', POLICY))
        position = layer.publish_now(PublishRequest("news.today", b'"SECRET too"', POLICY)).position
    kept = client.lrange(layer.keys.topic_history("news.today"), 0, -1)
    assert (len(published), len(kept)) == (4, 2)
    for data in (*published, *kept):
        assert b"SECRET" not in data
        assert b"a.message" not in data
        assert b"news.today" not in data
        # What Fernet tokens begin with: encrypted, and not only encoded.
        assert b"gAAAA" in data
    assert [await received(layer, channel) for _ in range(2)] == [message] * 2
    assert (await received(layer, channel))["data"] == '"SECRET"'
    await wait_until(lambda: hears.data == ["SECRET", "SECRET too"])
    other = made(closing, server.url, symmetric_encryption_keys=["a key"])
    assert (await hearing(other, "news.today", position._replace(offset=0))).data == hears.data


async def test_keys_are_changed_without_losing_anything(closing: AsyncExitStack, server: RedisServer) -> None:
    """All processes get the new key as their second; then, one by one, as their first; messages go both ways."""
    old = made(closing, server.url, symmetric_encryption_keys=["old", "new"])
    new = made(closing, server.url, symmetric_encryption_keys=["new", "old"])
    position = (await old.publish(PublishRequest("news.today", b'"before"', POLICY))).position
    for layer, other in ((old, new), (new, old)):
        channel = await layer.new_channel()
        await layer.group_add("a-group", channel)
        hears = await hearing(layer, "news.today", position._replace(offset=position.offset - 1))
        await other.group_send("a-group", {"type": "a.message"})
        assert await received(layer, channel) == {"type": "a.message"}
        position = (await other.publish(PublishRequest("news.today", b'"after"', POLICY))).position
        # What the history has, and what came now.
        await wait_until(lambda hears=hears: len(hears.data) == 2)
        assert hears.data[-1] == "after"


@pytest.mark.parametrize("keys", [None, ["another key"]])
async def test_who_has_not_the_key_gets_nothing_and_lives(
    closing: AsyncExitStack, server: RedisServer, keys: list[str] | None
) -> None:
    """Unreadable messages are counted; readable ones arrive."""
    layer = made(closing, server.url, symmetric_encryption_keys=keys)
    foreign = made(closing, server.url, symmetric_encryption_keys=["a key"])
    channel = await layer.new_channel()
    await layer.group_add("news.today", channel)
    await foreign.group_send("news.today", {"type": "a.message"})
    await foreign.publish(PublishRequest("news.today", b"1", POLICY))
    await layer.group_send("news.today", {"type": "readable"})
    assert await received(layer, channel) == {"type": "readable"}
    assert layer.unreadable_count == 2


# Several hosts --------------------------------------------------------------------------------------------------------


async def test_names_are_shared_out_among_hosts(
    closing: AsyncExitStack, server: RedisServer, client: redis.Redis
) -> None:
    """All that belongs to a topic is on the host of its channel; every process agrees; consumers notice nothing."""
    with RedisServer() as second, redis.Redis.from_url(second.url) as second_client:
        clients = (client, second_client)
        layer, other = made(closing, server.url, second.url), made(closing, server.url, second.url)
        channel = await layer.new_channel()
        topics = [f"news.topic-{number}" for number in range(40)]
        ears = {topic: await hearing(layer, topic) for topic in topics}
        for topic in topics:
            await layer.group_add(topic, channel)
        for topic in topics:
            await other.group_send(topic, {"type": "a.message", "topic": topic})
        assert {(await received(layer, channel))["topic"] for _ in topics} == set(topics)
        items = [PublishRequest(topic, b'"one"', POLICY) for topic in topics]
        firsts = await other.publish_many(items)
        other.publish_many_now([request._replace(data=b'"two"') for request in items])
        await wait_until(lambda: all(hears.data == ["one", "two"] for hears in ears.values()))
        counts = [0, 0]
        for topic, first in zip(topics, firsts, strict=True):
            home = layer.shard_of(topic)
            counts[home] += 1
            for number, each in enumerate(clients):
                is_home = number == home
                assert each.pubsub_numsub(layer.redis_channel(topic))[0][1] == is_home
                assert each.exists(layer.keys.topic_position(topic)) == is_home
                assert each.llen(layer.keys.topic_history(topic)) == 2 * is_home
            assert (await hearing(other, topic, first.position)).data == ["two"]
        assert min(counts) > 5


async def test_a_host_that_is_lost_takes_nothing_from_the_others(closing: AsyncExitStack, server: RedisServer) -> None:
    """Groups and channels on the other host continue; those on this one work again when it is back."""
    with RedisServer() as second:
        layer = made(closing, server.url, second.url)
        topics = {layer.shard_of(topic): topic for topic in (f"news.{number}" for number in range(40))}
        ears = {home: await hearing(layer, topic) for home, topic in topics.items()}
        second.kill()
        await layer.publish(PublishRequest(topics[0], b'"here"', POLICY))
        await wait_until(lambda: ears[0].data == ["here"])
        with pytest.raises((redis.ConnectionError, OSError)):
            await layer.publish(PublishRequest(topics[1], b'"lost"', POLICY))
        second.start()
        await wait_until(lambda: len(ears[1].recovered) == 2)
        await layer.publish(PublishRequest(topics[1], b'"back"', POLICY))
        await wait_until(lambda: ears[1].data == ["back"])
        assert ears[0].recovered == [False]


# Silence and loss -----------------------------------------------------------------------------------------------------


async def test_an_idle_layer_lives(closing: AsyncExitStack, server: RedisServer, client: redis.Redis) -> None:
    """
    After a silence longer than redis-py 8 allows by default, the same connections bring the next message.

    This test waits on purpose: the silence is what it is about.
    """
    layer = made(closing, server.url)
    channel, hears = await layer.new_channel(), await hearing(layer, "news.today")
    await layer.group_add("news.today", channel)
    waiting = asyncio.create_task(received(layer, channel))
    before = {each["id"] for each in client.client_list()}
    await asyncio.sleep(IDLE_SECONDS)
    await layer.publish(PublishRequest("news.today", b'"after"', POLICY))
    assert (await waiting)["data"] == '"after"'
    await wait_until(lambda: hears.data == ["after"])
    assert {each["id"] for each in client.client_list()} == before
    assert hears.recovered == [False]


async def test_consumers_are_told_that_redis_was_lost_and_is_back(
    closing: AsyncExitStack, server: RedisServer, client: redis.Redis
) -> None:
    """Each of them once a loss, by messages of the types that were asked for, after which groups work again."""
    layer = made(closing, server.url, on_disconnect="redis.lost", on_reconnect="redis.back")
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("a-group", channel)
    for number in range(3):
        assert client.client_kill_filter(_type="pubsub", skipme=True) == 1
        for channel in channels:
            assert await received(layer, channel) == {"type": "redis.lost"}
            assert await received(layer, channel) == {"type": "redis.back"}
        # No wait: whoever is told that Redis is back is subscribed.
        await layer.group_send("a-group", {"type": "a.message", "number": number})
        for channel in channels:
            assert await received(layer, channel) == {"type": "a.message", "number": number}


async def test_a_restarted_redis_heals(closing: AsyncExitStack, server: RedisServer) -> None:
    """A lasting loss is reported once; meanwhile sending fails at once, and afterwards it works again."""
    layer = made(closing, server.url, on_disconnect="redis.lost", on_reconnect="redis.back")
    channel = await layer.new_channel()
    await layer.group_add("a-group", channel)
    server.kill()
    assert await received(layer, channel) == {"type": "redis.lost"}
    with pytest.raises((redis.ConnectionError, OSError)):
        await layer.group_send("a-group", {"type": "lost"})
    server.start()
    assert await received(layer, channel) == {"type": "redis.back"}
    await layer.group_send("a-group", {"type": "a.message"})
    assert await received(layer, channel) == {"type": "a.message"}
