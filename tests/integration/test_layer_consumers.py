"""Stock consumers of Channels on the channel layer, as its tutorial writes them: one in a process with the hub."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import ApplicationCommunicator, WebsocketCommunicator

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

TOPIC = "news.today"


@pytest.fixture
async def layer(signalbox: Any) -> AsyncIterator[RedisChannelLayer]:
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    yield layer
    await layer.flush()


class AsyncTutorial(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Hears a group, and says to it what its client says."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(TOPIC, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(TOPIC, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(TOPIC, {"type": "chat.message", "message": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(event))

    realtime_message = chat_message


class SyncTutorial(WebsocketConsumer):  # type: ignore[misc]
    """Likewise, in a thread."""

    def connect(self) -> None:
        async_to_sync(self.channel_layer.group_add)(TOPIC, self.channel_name)
        self.accept()

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(TOPIC, self.channel_name)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)(TOPIC, {"type": "chat.message", "message": text_data})

    def chat_message(self, event: dict[str, Any]) -> None:
        self.send(text_data=json.dumps(event))

    realtime_message = chat_message


class Collector(AsyncConsumer):  # type: ignore[misc]
    """No WebSocket: a worker on a channel of its own name."""

    async def a_job(self, event: dict[str, Any]) -> None:
        await self.send(event)


# The threads of sync consumers close the database connections that they find.
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("consumer", [AsyncTutorial, SyncTutorial])
async def test_stock_consumers_hear_messages_and_publications(layer: RedisChannelLayer, consumer: Any) -> None:
    """In the order in which they were sent; a publication with its topic and offset, its data as JSON text."""
    clients = [WebsocketCommunicator(consumer.as_asgi(), "/") for _ in range(3)]
    for client in clients:
        assert (await client.connect(timeout=10))[0]
    await clients[0].send_to(text_data="hello")
    said = {"type": "chat.message", "message": "hello"}
    assert [await client.receive_json_from(timeout=10) for client in clients] == [said] * 3
    for number, data in enumerate((b'{"n": 1}', b'"\xc3\xa9"'), 1):
        published = await layer.publish(PublishRequest(TOPIC, data, HistoryPolicy()))
        assert published.position.offset == number
        event = {"type": "realtime.message", "topic": TOPIC, "offset": number, "data": data.decode()}
        assert [await client.receive_json_from(timeout=10) for client in clients] == [event] * 3
    for client in clients:
        await client.disconnect(timeout=10)
    await wait_until(lambda: (layer.channels, layer.groups) == ({}, {}))


async def test_a_consumer_that_is_killed_leaves_nothing(layer: RedisChannelLayer) -> None:
    """As a web server does it that stops: no disconnect is heard, and nothing is discarded."""
    client = WebsocketCommunicator(AsyncTutorial.as_asgi(), "/")
    assert (await client.connect(timeout=10))[0]
    assert len(layer.groups) == 1
    client.future.cancel()
    await asyncio.wait([client.future])
    assert (layer.channels, layer.groups) == ({}, {})


async def test_a_worker_gets_what_is_sent_to_its_channel(layer: RedisChannelLayer, key_prefix: str) -> None:
    """As `manage.py runworker` does: it receives from a channel of a fixed name, and hands on to the consumer."""
    channel = f"jobs.{key_prefix[:-1]}"
    worker = ApplicationCommunicator(Collector.as_asgi(), {"type": "channel", "channel": channel})

    async def work() -> None:
        while True:
            await worker.send_input(await layer.receive(channel))

    working = asyncio.create_task(work())
    await wait_until(lambda: channel in layer.channels)
    await layer._get_layer()._shard_of_name(channel).subscribe(channel)
    for number in range(5):
        await layer.send(channel, {"type": "a.job", "number": number})
        assert await worker.receive_output(timeout=10) == {"type": "a.job", "number": number}
    working.cancel()
    await asyncio.wait([working])
    worker.future.cancel()
    await asyncio.wait([worker.future])
    await wait_until(lambda: (layer.channels, layer.groups) == ({}, {}))
