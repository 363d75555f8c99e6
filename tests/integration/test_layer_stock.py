"""What ordinary consumers and settings can rely on: bursts, order, timely errors, options of channels_redis."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.checks import run_checks

from realtime.layer import RedisChannelLayer, event_loop, queues
from realtime.redis import clients
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

GROUP = "chat.room"


@pytest.fixture
async def layer(signalbox: Any) -> AsyncIterator[RedisChannelLayer]:
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    yield layer
    await layer.flush()


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]
    """The chat of the tutorial of Channels."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(GROUP, {"type": "chat.message", "message": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["message"])


class Silent(Chat):
    """Counts the messages of a group."""

    heard: list[str]

    async def chat_message(self, event: dict[str, Any]) -> None:
        self.heard.append(event["message"])


async def _connected(consumer: Any, count: int, **options: Any) -> list[WebsocketCommunicator]:
    clients = [WebsocketCommunicator(consumer.as_asgi(**options), "/") for _ in range(count)]
    for client in clients:
        assert (await client.connect(timeout=10))[0]
    return clients


async def _disconnect(layer: RedisChannelLayer, clients: list[WebsocketCommunicator]) -> None:
    for client in clients:
        await client.disconnect(timeout=10)
    await wait_until(lambda: (layer.channels, layer.groups) == ({}, {}))


# Stock consumers look at the database connections that other tests have left in their thread.
@pytest.mark.django_db(transaction=True)
class TestBursts:
    @pytest.mark.parametrize("count", [150, 500, 2000])
    async def test_an_idle_consumer_gets_all_of_a_burst(
        self, layer: RedisChannelLayer, redis_client: redis.Redis, count: int
    ) -> None:
        """With the options that a project has by default; all of it in one write to Redis."""
        clients = await _connected(Chat, 3)
        payloads = [layer.serialize({"type": "chat.message", "message": str(number)}) for number in range(count)]
        with redis_client.pipeline(transaction=False) as burst:
            for payload in payloads:
                burst.publish(layer.redis_channel(GROUP), payload)
            burst.execute()
        for client in clients:
            assert [await client.receive_from(timeout=10) for _ in range(count)] == [str(n) for n in range(count)]
        assert layer.dropped_count == 0
        await _disconnect(layer, clients)

    async def test_sixty_clients_of_a_chat_get_six_hundred_lines(self, layer: RedisChannelLayer) -> None:
        """As fast as they can be sent."""
        heard: list[str] = []
        consumer = type("Counting", (Silent,), {"heard": heard})
        clients = await _connected(consumer, 60)
        lines = [f"line {number}" for number in range(600)]
        await asyncio.gather(*(layer.group_send(GROUP, {"type": "chat.message", "message": line}) for line in lines))
        await wait_until(lambda: len(heard) == 60 * 600 or layer.dropped_count > 0, seconds=60)
        assert layer.dropped_count == 0
        assert sorted(heard) == sorted(lines * 60)
        await _disconnect(layer, clients)

    async def test_a_consumer_that_takes_nothing_is_bounded_in_bytes(
        self, signalbox: Any, redis_client: redis.Redis
    ) -> None:
        """The first are kept, what is beyond the limit is dropped and counted."""
        layer = RedisChannelLayer(**signalbox.CHANNEL_LAYERS["default"]["CONFIG"], capacity_bytes=100_000)
        channel = await layer.new_channel()
        for number in range(30):
            await layer.send(channel, {"type": "x", "number": number, "text": "x" * 10_000})
        await wait_until(lambda: layer.channels[channel].qsize() + layer.dropped_count == 30)
        assert 5 <= layer.channels[channel].qsize() < 25
        assert (await layer.receive(channel))["number"] == 0
        await layer.flush()

    async def test_channels_may_have_capacities_of_their_own(self, signalbox: Any) -> None:
        """By a glob or a compiled expression; the first that matches counts."""
        layer = RedisChannelLayer(
            **signalbox.CHANNEL_LAYERS["default"]["CONFIG"],
            capacity=7,
            channel_capacity={"jobs.slow": 2, "jobs.*": 5, re.compile("http"): 9},
        )
        names = ("jobs.slow", "jobs.fast", "http.request", "else")
        assert [layer.capacity_of(name) for name in names] == [2, 5, 9, 7]


class TestSending:
    async def test_calls_at_the_same_time_arrive_in_their_order(self, layer: RedisChannelLayer) -> None:
        """Fifty, large ones and small ones in turn, so that on connections of their own the small ones were faster."""
        channel = await layer.new_channel()
        for _ in range(3):
            messages = [{"type": "x", "number": number, "text": "x" * (300_000 * (number % 2))} for number in range(50)]
            await asyncio.gather(*(layer.send(channel, message) for message in messages))
            assert [await layer.receive(channel) for _ in messages] == messages

    async def test_a_silent_redis_fails_all_callers_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many wait: they do not wait for one timeout after another."""
        monkeypatch.setattr(queues, "MESSAGES_PER_ROUND_TRIP", 1)
        with RedisServer() as server:
            publisher = clients.async_publisher(server.url, timeout_seconds=3.0, retries=0)
            sender = queues.Sender(publisher)
            await sender.publish("before", b"1")
            server.pause()
            calls = [sender.publish("now", b"%d" % number) for number in range(200)]
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 50)
            assert {type(result) for result in results} == {redis.TimeoutError}
            server.resume()
            await sender.publish("after", b"1")
            await clients.close(publisher)

    async def test_a_cancelled_call_holds_up_none_behind_it(self, layer: RedisChannelLayer) -> None:
        """Whether it was sent itself is not known."""
        channel = await layer.new_channel()
        calls = [asyncio.create_task(layer.send(channel, {"type": "x", "number": number})) for number in range(10)]
        await asyncio.sleep(0)
        calls[0].cancel()
        calls[5].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result for number, result in enumerate(results) if number not in (0, 5)] == [None] * 8
        numbers: list[int] = []
        while 9 not in numbers:
            numbers.append((await layer.receive(channel))["number"])
        assert [number for number in numbers if number not in (0, 5)] == [1, 2, 3, 4, 6, 7, 8, 9]

    async def test_each_caller_hears_of_a_redis_that_is_gone(self, settings: Any, signalbox: Any) -> None:
        """The one that is under way, and those that wait behind it."""
        with RedisServer() as server:
            layer = RedisChannelLayer([server.url])
            channel = await layer.new_channel()
            await layer.send(channel, {"type": "x"})
            server.kill()
            calls = (layer.send(channel, {"type": "x"}) for _ in range(5))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [redis.ConnectionError] * 5
            server.start()
            await layer.send(channel, {"type": "x"})
            await layer.flush()

    @pytest.mark.parametrize("message", [{"type": "x", "of": {1: "one"}}, {"type": "x", 2: "two"}, {"type": object()}])
    async def test_what_no_receiver_could_read_is_refused(self, layer: RedisChannelLayer, message: Any) -> None:
        """A number as a key: msgpack writes it and does not read it."""
        with pytest.raises(TypeError, match="this message cannot be sent"):
            await layer.group_send(GROUP, message)


class TestErrors:
    @pytest.mark.parametrize("call", ["new_channel", "receive"])
    async def test_a_redis_that_was_never_there_is_an_error_in_time(
        self, signalbox: Any, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """No handshake waits for it without end."""
        monkeypatch.setattr(event_loop, "SUBSCRIBE_TIMEOUT_SECONDS", 0.2)
        layer = RedisChannelLayer(["redis://127.0.0.1:1"])
        started = time.monotonic()
        with pytest.raises(redis.TimeoutError, match=r"could not subscribe to .* within"):
            await (layer.new_channel() if call == "new_channel" else layer.receive("jobs"))
        assert time.monotonic() - started < 30
        assert layer.channels == {}
        await layer.flush()

    async def test_a_group_that_cannot_be_joined_is_an_error_in_time(
        self, signalbox: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The channel was there before Redis went; it is in no group afterwards."""
        with RedisServer() as server:
            layer = RedisChannelLayer([server.url])
            channel = await layer.new_channel()
            server.kill()
            monkeypatch.setattr(event_loop, "SUBSCRIBE_TIMEOUT_SECONDS", 0.2)
            with pytest.raises(redis.TimeoutError):
                await layer.group_add(GROUP, channel)
            assert layer.groups == {}
            await layer.flush()

    def test_sync_code_may_ask_what_a_layer_has(self, signalbox: Any) -> None:
        """Where no event loop runs, what lives on one is not there; that is no error."""
        layer = get_channel_layer()
        assert not hasattr(layer, "no_such_thing")
        assert not hasattr(layer, "channels")
        assert getattr(layer, "groups", None) is None
        assert hasattr(layer, "group_send")

    async def test_within_an_event_loop_likewise(self, layer: RedisChannelLayer) -> None:
        """There it has its channels."""
        assert not hasattr(layer, "no_such_thing")
        assert layer.channels == {}


def test_options_of_the_core_layer_are_taken_and_those_without_effect_are_named(signalbox: Any) -> None:
    """A project that changes from channels_redis.core leaves its CONFIG as it is."""
    config = signalbox.CHANNEL_LAYERS["default"]["CONFIG"]
    options = {**config, "expiry": 60, "channel_capacity": {"http.*": 200}, "random_prefix_length": 0}
    signalbox.CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": options}}
    assert isinstance(get_channel_layer(), RedisChannelLayer)
    found = [message for message in run_checks(tags=["realtime"]) if message.id == "realtime.W008"]
    assert ["expiry" in found[0].msg, "random_prefix_length" in found[1].msg] == [True, True]
