"""What clients send after the server has closed their connection is ignored, on any ASGI server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import LINGER_SECONDS, send_close
from realtime.server import FrameProtocol
from realtime.websocket import connection as sockets_module
from realtime.websocket.framing import CLOSE, PING, TEXT
from tests.integration.serving import Application, Connection, RawClient, frame, serving, statistics
from tests.support.waiting import Standstill, wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]

# Some 10,000 frames, which cost their sender nothing.
EMPTY_FRAMES = frame(TEXT) * 10_900
# More than the buffers of both ends hold, and much less than a client can send in a second to somebody who reads.
UNREAD_LIMIT_BYTES = 32_000_000


async def flood(client: RawClient) -> int:
    """Send until the connection is cut; gives how many bytes went out."""
    sent_bytes = 0
    async with asyncio.timeout(60):
        try:
            while True:
                await client.send(EMPTY_FRAMES)
                sent_bytes += len(EMPTY_FRAMES)
        except ConnectionError:
            return sent_bytes


def close_at_once(connection: Connection) -> None:
    connection.socket.close(CloseCode.UNAUTHORISED, "sign in first")


def refuse(connection: Connection) -> None:
    connection.socket._refuse(CloseCode.PROTOCOL_ERROR, "as if it were not understood")


@pytest.mark.parametrize("end", [close_at_once, refuse])
async def test_what_comes_after_a_close_is_not_read(
    application: Application, end: Callable[[Connection], None]
) -> None:
    """The client gets its close frame, and is cut when it goes on sending, long before a silent one would be."""
    application.on_detached = end
    async with serving(application) as server, await RawClient.open(server.port) as client:
        assert await client.close_code() in (CloseCode.UNAUTHORISED, CloseCode.PROTOCOL_ERROR)
        assert await flood(client) < UNREAD_LIMIT_BYTES
        await wait_until(lambda: statistics(server).open_count == 0)
        assert statistics(server).aborted_count == 1
        assert application.connections[0].texts == []


async def test_of_one_read_nothing_is_looked_at_behind_the_end(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, pings and fragments: the rest of what was read with the message that ended the connection."""
    reads: list[int] = []
    take_text = Connection.take_text

    def end_at_once(connection: Connection, text: str) -> None:
        take_text(connection, text)
        connection.socket.close(CloseCode.PROTOCOL_ERROR, "enough")

    passed_over = sockets_module.Socket._ignore

    def count(socket: sockets_module.Socket, data: bytes) -> None:
        reads.append(1)
        passed_over(socket, data)

    monkeypatch.setattr(Connection, "take_text", end_at_once)
    monkeypatch.setattr(sockets_module.Socket, "_ignore", count)
    async with serving(application) as server, await RawClient.open(server.port) as client:
        client.writer.write(frame(TEXT, b"last") + frame(TEXT) * 5_000 + frame(PING) * 5_000)
        assert await client.close_code() == CloseCode.PROTOCOL_ERROR
        await flood(client)
        await wait_until(lambda: statistics(server).open_count == 0)
    assert application.connections[0].texts == ["last"]
    assert len(reads) <= sockets_module.LATE_LIMIT + 8


async def test_what_was_on_its_way_does_not_cost_a_client_its_answer(application: Application) -> None:
    """A few messages that crossed the close: the connection still ends by the client's close frame, and cleanly."""
    async with serving(application) as server, await RawClient.open(server.port) as client:
        await wait_until(lambda: application.connections)
        application.connections[0].socket.close(CloseCode.UNAUTHORISED, "signed out")
        client.writer.write(frame(TEXT, b"on its way") * 20)
        assert await client.close_code() == CloseCode.UNAUTHORISED
        await client.send(frame(CLOSE, b"\x11\x94"))
        assert await client.end() == b""
        await wait_until(lambda: statistics(server).open_count == 0)
        assert statistics(server).aborted_count == 0


# Applications that do not detach --------------------------------------------------------------------------------------


async def stock(scope: Any, receive: Any, send: Any) -> None:
    """A consumer as anybody writes it."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4500, "reason": "sign in first"})


async def ours(scope: Any, receive: Any, send: Any) -> None:
    """One that closes as we do."""
    await receive()
    await send({"type": "websocket.accept"})
    await send_close(send, code=4500, reason="sign in first")


@asynccontextmanager
async def witnessed(application: Any, **options: Any) -> AsyncIterator[RawClient]:
    """A client of a server, whose connection must be cut within seconds."""
    async with serving(application, **options) as server, await RawClient.open(server.port) as client:
        yield client
        await wait_until(lambda: not server.server_state.connections)


@pytest.mark.parametrize(
    ("application", "ws"),
    [(stock, FrameProtocol), (ours, FrameProtocol), (ours, "websockets-sansio")],
    ids=["stock", "ours", "sansio"],
)
async def test_on_other_protocols_nothing_is_read_after_a_close_either(application: Any, ws: Any) -> None:
    """Also with an ordinary consumer, and on a uvicorn with its own protocols."""
    async with witnessed(application, ws=ws) as client:
        assert await client.close_code() == 4500
        assert await flood(client) < UNREAD_LIMIT_BYTES


@pytest.mark.parametrize("ws", [FrameProtocol, "websockets-sansio"], ids=["ours", "sansio"])
async def test_a_polite_client_is_gone_soon(ws: Any) -> None:
    """It answers, sees the end, and closes; it need not be cut."""
    async with witnessed(ours, ws=ws) as client, Standstill() as stood:
        assert await client.close_code() == 4500
        answered_at = time.monotonic()
        await client.send(frame(CLOSE, b"\x11\x94"))
        async with asyncio.timeout(60):
            assert await client.reader.read() == b""
        assert time.monotonic() - answered_at - stood.seconds < 10 * LINGER_SECONDS
