"""
The site on its web server, in this process, and what clients of it cost: connecting, a topic, and a view of a map.

Owns the server, and clients that know as much of the protocol as these paths need. Does not own the options that the
server has in production (realtime.web).
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Self

import uvicorn
import uvloop
from asgiref.sync import sync_to_async
from django.conf import settings

from benchmarks.processes import free_port

__all__ = ["LISTENERS", "VEHICLES", "VIEWERS", "connect", "fan_out", "show_map"]

TOPIC = "news.benchmark"
LISTENERS, VIEWERS, VEHICLES = 100, 20, 50
# Users who share these connections: one may have 32.
SIGNED_IN = 10
# Around the place at which the vehicles are.
FILTER = b'{"bbox":[7,46,8,47],"zoom":10}'
TEXT_LIMIT = 126


def connect(count: int) -> None:
    """Connect, subscribe to a topic, and disconnect."""

    async def act(open_client: Callable[[], Awaitable[_Client]]) -> None:
        # The last connection of a process takes with it what is there for all of them.
        other = await open_client()
        await other.subscribe(TOPIC)
        for _ in range(count):
            client = await open_client()
            await client.subscribe(TOPIC)
            await client.close()
        await other.close()

    _run(act)


def fan_out(count: int) -> None:
    """Publish on a topic that LISTENERS clients have subscribed to, the next one when all have got the last one."""

    async def act(open_client: Callable[[], Awaitable[_Client]]) -> None:
        from realtime.publisher import apublish

        clients = [await open_client() for _ in range(LISTENERS)]
        for client in clients:
            await client.subscribe(TOPIC)
        for number in range(count):
            await apublish(TOPIC, b'{"number":%d,"text":"Your order is on its way!"}' % number)
            for client in clients:
                await client.wait_for(b'{"number":%d,' % number)
        for client in clients:
            await client.close()

    _run(act)


def show_map(count: int) -> None:
    """Move VEHICLES in the views of VIEWERS clients, and again when all have got the new places."""

    async def act(open_client: Callable[[], Awaitable[_Client]]) -> None:
        # The views begin with vehicles.
        await _move(0)
        clients = [await open_client() for _ in range(VIEWERS)]
        for client in clients:
            client.say(b'{"type":"subscribe","topic":"vehicles.*","view":"v","number":1,"filter":%b}' % FILTER)
            await client.wait_for(b'"batch":"reset","complete":true')
        for number in range(1, count + 1):
            await _move(number)
            for client in clients:
                await client.wait_for(b'{"number":%d,"vehicle":%d}' % (number, VEHICLES - 1))
        for client in clients:
            await client.close()

    _run(act)


async def _move(number: int) -> None:
    """Publish all vehicles, a little further on."""
    from realtime.publisher import Item, apublish_many

    place = 7.5 + number % 100 / 1000
    await apublish_many(
        Item("vehicles.benchmark", {"number": number, "vehicle": each}, key=f"v-{each}", at=(place, 46.5))
        for each in range(VEHICLES)
    )


def _run(act: Callable[[Callable[[], Awaitable["_Client"]]], Coroutine[Any, Any, None]]) -> None:
    """Do something while the site is served; `act` gets a function that opens a connection of a signed-in user."""

    async def serve_and_act() -> None:
        async with _served() as port:
            cookies = itertools.cycle(await sync_to_async(_cookies)())
            await act(lambda: _Client.open(port, next(cookies)))

    asyncio.run(serve_and_act(), loop_factory=uvloop.new_event_loop)


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[int]:
    """The site on a port of the loopback, with the protocols that `realtime.web` gives it."""
    port = free_port()
    config = uvicorn.Config(
        "project.asgi:application",
        port=port,
        http="realtime.server:HttpProtocol",
        ws="realtime.server:FrameProtocol",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            raise SystemExit("the web server did not start")
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await serving


def _cookies() -> list[bytes]:
    """The session cookies of users who are signed in from now on."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    name, found = settings.SESSION_COOKIE_NAME, []
    for user in get_user_model().objects.order_by("-pk")[:SIGNED_IN]:
        browser = Client()
        browser.force_login(user)
        found.append(f"{name}={browser.cookies[name].value}".encode())
    return found


class _Client(asyncio.Protocol):
    """One WebSocket connection. Costs little beside what the server does for it."""

    @classmethod
    async def open(cls, port: int, cookie: bytes) -> Self:
        """Connect, and wait until the server has accepted."""
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        host = settings.ALLOWED_HOSTS[0].encode()
        client._transport.write(
            b"GET /ws/ HTTP/1.1\r\nHost: %b\r\nCookie: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: signalbox.v1\r\n\r\n" % (host, cookie)
        )
        await client.wait_for(b'"type":"hello"')
        return client

    def __init__(self) -> None:
        self._received, self._changed = bytearray(), asyncio.Event()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._changed.set()

    def say(self, text: bytes) -> None:
        """Send a frame; its mask is zero, which leaves the text as it is."""
        head = b"\x81" + bytes([0x80 | min(len(text), TEXT_LIMIT)])
        length = b"" if len(text) < TEXT_LIMIT else len(text).to_bytes(2)
        self._transport.write(head + length + bytes(4) + text)

    async def subscribe(self, topic: str) -> None:
        """Subscribe to a topic, and wait for the answer."""
        self.say(b'{"type":"subscribe","topic":"%b"}' % topic.encode())
        await self.wait_for(b'"type":"subscribed","topic":"%b"' % topic.encode())

    async def wait_for(self, text: bytes) -> None:
        """Wait until the server has sent this, and forget all that it sent so far."""
        while text not in self._received:
            if self._transport is None:
                raise SystemExit(f"the server has closed the connection: {bytes(self._received[-500:])!r}")
            self._changed.clear()
            await self._changed.wait()
        self._received.clear()

    async def close(self) -> None:
        """Close, and wait until the server has."""
        self._transport.write(b"\x88\x82" + bytes(4) + (1000).to_bytes(2))
        while self._transport is not None:
            self._changed.clear()
            await self._changed.wait()
