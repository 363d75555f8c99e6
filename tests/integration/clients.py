"""
Clients of the WebSocket end without a web server: what they say and are told, object by object.

Owns reading frames of several objects. Connections are opened by a test's own fixture.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.testing import ApplicationCommunicator
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client as Browser

from project.asgi import application
from realtime.broker.publication import Position
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from realtime.publisher import encode
from realtime.topics import history_of, resolve, user_topic
from tests.support.waiting import wait_until

__all__ = ["HOST", "Client", "Connect", "nothing_is_left", "session_of", "tell"]

HOST = (b"host", b"testserver")
DEADLINE_SECONDS = 60


def session_of(user: User) -> str:
    """Log in, and give the session cookie."""
    browser = Browser()
    browser.force_login(user)
    return browser.cookies["sessionid"].value


async def tell(user: User, data: Any) -> Position:
    """Publish any JSON on the user's own topic, as any program that reaches Redis can."""
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    topic = user_topic(user.pk)
    return (await layer.publish(PublishRequest(topic, encode(data), history_of(resolve(topic))))).position


class Client(WebsocketCommunicator):  # type: ignore[misc]
    """One connection that is about to be accepted or refused."""

    def __init__(self, path: str, headers: list[tuple[bytes, bytes]], subprotocols: list[str]) -> None:
        super().__init__(application, path, headers, subprotocols)
        # Objects of the last frame that were not asked for yet.
        self._objects: deque[Any] = deque()

    # Not Channels' own, which keep database connections open, for tests within one transaction.

    async def send_input(self, event: dict[str, Any]) -> None:
        await ApplicationCommunicator.send_input(self, event)

    async def receive_output(self, timeout: float = DEADLINE_SECONDS) -> dict[str, Any]:  # noqa: ASYNC109 - its name
        event: dict[str, Any] = await ApplicationCommunicator.receive_output(self, timeout)
        return event

    async def accepted(self) -> dict[str, Any]:
        """Wait for the accept event."""
        event = await self.receive_output()
        assert event["type"] == "websocket.accept", event
        return event

    async def greeted(self) -> dict[str, Any]:
        """Wait until the connection is accepted and has said hello; gives its "subscribed" object."""
        await self.accepted()
        assert (await self.object())["type"] == "hello"
        return await self.object()

    async def object(self) -> Any:
        """The next object that the server says."""
        if not self._objects:
            self._objects.extend(json.loads(line) for line in (await self.receive_from(DEADLINE_SECONDS)).split("\n"))
        return self._objects.popleft()

    async def answer(self, **said: Any) -> Any:
        """Say something, and give the next object that the server says."""
        await self.say(**said)
        return await self.object()

    async def say(self, **said: Any) -> None:
        """Say something."""
        await self.send_to(json.dumps(said))

    async def closed(self) -> dict[str, Any]:
        """Wait for the close event; nothing else may come before it."""
        assert not self._objects, self._objects
        event = await self.receive_output()
        assert event["type"] == "websocket.close", event
        return event


# The fixture `connect`: opens a connection of a user, or of nobody.
Connect = Callable[..., Awaitable[Client]]


async def nothing_is_left() -> None:
    """No topic is live, and no client has a task."""
    assert get_channel_layer().hub.statistics().topic_count == 0
    await wait_until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "realtime client"])
