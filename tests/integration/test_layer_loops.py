"""The channel layer on several event loops and threads of one process, and from sync code."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import uvloop
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from tests.support.redis_server import RedisServer
from tests.support.topic_clients import Client, ClientSink
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent


@pytest.fixture
def server(settings: Any) -> Iterator[RedisServer]:
    """A server that nobody else is connected to, with the default channel layer on it."""
    with RedisServer() as server:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [server.url]}}
        }
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def layer(server: RedisServer) -> RedisChannelLayer:
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    return layer


def connection_count(client: redis.Redis) -> int:
    """How many there are, beside the one that asks."""
    return len(client.client_list()) - 1


@pytest.mark.parametrize("new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_event_loop_that_ends_leaves_nothing(
    layer: RedisChannelLayer, client: redis.Redis, new_event_loop: Any
) -> None:
    """No connection, no task and no state: of consumers, of sockets on topics, nor of publishers."""

    async def use_it() -> None:
        channel = await layer.new_channel()
        await layer.group_add("a-group", channel)
        await layer.group_send("a-group", {"type": "a.message"})
        assert await layer.receive(channel) == {"type": "a.message"}
        await layer.hub.join("news.today", ClientSink(Client(None)))
        await layer.publish(PublishRequest("news.yesterday", b"1", HistoryPolicy()))
        assert connection_count(client) == 2

    for _ in range(3):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(use_it())
        assert layer._layers == {}
        wait_until_sync(lambda: connection_count(client) == 0)


def test_sync_code_sends_receives_and_is_in_groups(layer: RedisChannelLayer, client: redis.Redis) -> None:
    """By async_to_sync, which makes an event loop for each call; the receiver is on one of its own."""
    with asyncio.Runner() as runner:
        channel = runner.run(layer.new_channel())
        runner.run(layer.group_add("a-group", channel))
        for number in range(20):
            async_to_sync(layer.group_send)("a-group", {"type": "a.message", "number": number})
        async_to_sync(layer.send)(channel, {"type": "a.message", "number": 20})
        numbers = [runner.run(layer.receive(channel))["number"] for _ in range(21)]
        assert numbers == list(range(21))
        assert list(layer._layers) == [runner.get_loop()]
    wait_until_sync(lambda: connection_count(client) == 0)


async def test_threads_of_a_web_process_send_to_its_event_loop(server: RedisServer, client: redis.Redis) -> None:
    """As sync views do, eight at once, while a consumer of the process is on its loop: nothing is lost or mixed up."""
    layer = RedisChannelLayer([server.url], capacity=320)
    channel = await layer.new_channel()
    await layer.group_add("a-group", channel)

    def send(thread: int) -> None:
        for number in range(40):
            async_to_sync(layer.group_send)("a-group", {"type": "a.message", "from": [thread, number]})

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(8) as threads:
        await asyncio.gather(*(loop.run_in_executor(threads, send, thread) for thread in range(8)))
    by_thread: dict[int, list[int]] = {}
    for _ in range(320):
        thread, number = (await layer.receive(channel))["from"]
        by_thread.setdefault(thread, []).append(number)
    assert by_thread == {thread: list(range(40)) for thread in range(8)}
    assert list(layer._layers) == [loop]
    await wait_until(lambda: connection_count(client) == 1)
    await layer.flush()
    await wait_until(lambda: connection_count(client) == 0)


def test_each_event_loop_has_its_own_channels_and_hub(layer: RedisChannelLayer) -> None:
    """Four loops in four threads, in one group: each gets every message, on its own thread."""
    all_are_in, results = threading.Barrier(4, timeout=20), {}

    async def take_part(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add("a-group", channel)
        hub = layer.hub
        await asyncio.to_thread(all_are_in.wait)
        await layer.group_send("a-group", {"type": "a.message", "from": number})
        senders = {(await layer.receive(channel))["from"] for _ in range(4)}
        results[number] = (senders, hub, threading.current_thread())
        assert layer.hub is hub
        await asyncio.to_thread(all_are_in.wait)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(take_part(number)), range(4)))
    assert [senders for senders, _, _ in results.values()] == [{0, 1, 2, 3}] * 4
    assert len({hub for _, hub, _ in results.values()}) == 4
    assert layer._layers == {}


def test_a_layer_that_nobody_holds_goes_with_its_connections(server: RedisServer, client: redis.Redis) -> None:
    """The pooled connections of sync publishers too."""
    layer = RedisChannelLayer([server.url])
    layer.publish_now(PublishRequest("news.today", b"1", HistoryPolicy()))
    assert connection_count(client) == 1
    del layer
    gc.collect()
    wait_until_sync(lambda: connection_count(client) == 0)
