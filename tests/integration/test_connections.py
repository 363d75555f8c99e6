"""Sockets of our own on a real uvicorn: how a connection ends, bad input, and signs of life."""

import asyncio
import logging
import struct
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.protocol.close_codes import CloseCode
from realtime.websocket import connection as sockets_module
from realtime.websocket.connection import SocketStatistics
from realtime.websocket.framing import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.integration.serving import HELLO, LIMIT_BYTES, Application, RawClient, count_is, frame, serving, statistics
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]


# Ends -----------------------------------------------------------------------------------------------------------------


async def test_a_close_from_the_server_ends_with_the_clients_answer(server: Any, application: Application) -> None:
    """Code and reason arrive after all that was written before; what is closed twice is closed once."""
    async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as client:
        await count_is(application, 1)
        (connection,) = application.connections
        connection.socket.write(HELLO)
        connection.socket.close(CloseCode.UNAUTHORISED, "sign in first")
        connection.socket.close(CloseCode.SLOW, "never sent")
        assert await client.recv() == "hello"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4500, "sign in first")
    await wait_until(lambda: connection.close_count == 1)
    assert statistics(server) == SocketStatistics(open_count=0, dead_count=0, aborted_count=0, refused_count=0)


@pytest.mark.parametrize(("code", "answer"), [(1000, 1000), (1001, 1001), (4999, 4999)])
async def test_a_close_from_the_client_is_answered(
    server: Any, application: Application, code: int, answer: int
) -> None:
    """By the same code, and the receiver learns of it once."""
    async with await RawClient.open(server.port) as client:
        await client.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
        assert await client.close_code() == answer
        await client.end()
    await wait_until(lambda: statistics(server).open_count == 0)
    assert application.connections[0].close_count == 1


@pytest.mark.parametrize("how", ["reset", "half closed", "close frame, then reset"])
async def test_a_client_that_vanishes_is_missed_once(server: Any, application: Application, how: str) -> None:
    """However it goes, and also while it is written to."""
    async with await RawClient.open(server.port) as client:
        await count_is(application, 1)
        (connection,) = application.connections
        if how == "half closed":
            client.writer.write_eof()
        else:
            if how != "reset":
                await client.send(frame(CLOSE))
            client.abort()
        while not connection.close_count:
            connection.socket.write(HELLO)
            await asyncio.sleep(0)
        await wait_until(lambda: statistics(server).open_count == 0)
        assert connection.close_count == 1


async def test_a_close_that_is_not_answered_is_cut(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, and counted."""
    monkeypatch.setattr(sockets_module, "ABORT_AFTER_SECONDS", 0.2)
    async with serving(application) as server, await RawClient.open(server.port) as client:
        await count_is(application, 1)
        application.connections[0].socket.close(CloseCode.SLOW, "")
        assert await client.close_code() == CloseCode.SLOW
        await client.end()
        await wait_until(lambda: statistics(server).aborted_count == 1)
        assert statistics(server).open_count == 0


async def test_a_client_that_does_not_read_is_told_of_once_and_cut(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unsent is bounded; the close frame waits behind it, and in the end all of it goes."""
    monkeypatch.setattr(sockets_module, "ABORT_AFTER_SECONDS", 0.3)
    limit_bytes = 1_000_000
    written = b"\x82\x7e" + struct.pack("!H", 50_000) + bytes(50_000)
    async with (
        serving(application) as server,
        await RawClient.open(server.port, receive_bytes=4096) as stalled,
        await RawClient.open(server.port) as brisk,
    ):
        await count_is(application, 2)
        slow, fast = application.connections
        slow.socket.bound(limit_bytes, lambda: (slow.overflow(), slow.socket.close(CloseCode.SLOW, ""))[0])
        count = 0
        while not slow.overflow_count:
            slow.socket.write(written)
            fast.socket.write(HELLO)
            assert await brisk.receive() == (TEXT, b"hello")
            count += 1
            assert count < 500, "the limit is not kept"
        assert slow.socket._transport.get_write_buffer_size() < limit_bytes + 2 * len(written)
        await wait_until(lambda: slow.close_count == 1)
        assert slow.overflow_count == 1
        assert statistics(server).aborted_count == 1
        stalled.abort()


async def test_a_client_that_reads_at_last_gets_all_and_the_close_frame(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too slow, but there: it learns why it was closed, in order."""
    async with serving(application) as server, await RawClient.open(server.port, receive_bytes=4096) as client:
        await count_is(application, 1)
        (connection,) = application.connections
        connection.socket.bound(500_000, lambda: connection.socket.close(CloseCode.SLOW, "reads too slowly"))
        count = 0
        while statistics(server).open_count and connection.socket._state == 0:
            connection.socket.write(b"\x81\x7e" + struct.pack("!H", 60_000) + b"x" * 60_000)
            count += 1
            await asyncio.sleep(0)
        for _ in range(count):
            assert await client.receive() == (TEXT, b"x" * 60_000)
        assert await client.receive() == (CLOSE, struct.pack("!H", CloseCode.SLOW) + b"reads too slowly")


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x02hi", 1002),
        (bytes((0xC1, 0x80)) + bytes(4), 1002),
        (bytes((0x83, 0x80)) + bytes(4), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (bytes((PING, 0x80)) + bytes(4), 1002),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, "ü".encode()[:1], fin=False) + frame(CONTINUATION, b"x"), 1007),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (bytes((0x81, 0xFF)) + struct.pack("!Q", 2**63), 1009),
        (frame(TEXT, b"x" * (LIMIT_BYTES + 1)), 1009),
        (frame(TEXT, b"x" * 1_048_576), 1009),
        (frame(TEXT, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 40_000), 1009),
        (frame(BINARY, b"x"), CloseCode.PROTOCOL_ERROR),
        (frame(BINARY, b"x" * 1_048_576), 1009),
        (frame(PING) * (sockets_module.CONTROL_FRAMES_LIMIT + 1), CloseCode.RATE_LIMITED),
        (frame(TEXT, b"", fin=False) + frame(CONTINUATION, fin=False) * 5_001, CloseCode.RATE_LIMITED),
    ],
    ids=lambda value: value[:10].hex() if isinstance(value, bytes) else str(value),
)
async def test_what_is_no_websocket_ends_its_connection_only(
    server: Any, application: Application, sent: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told why, even when it goes on sending; the others notice nothing."""
    async with await RawClient.open(server.port) as good, await RawClient.open(server.port) as bad:
        await count_is(application, 2)
        bad.writer.write(sent)
        assert await bad.close_code() == code
        bad.writer.write(b"and more" * 1000)
        bad.writer.write_eof()
        await bad.end()
        await wait_until(lambda: statistics(server).open_count == 1)
        assert application.connections[1].close_count == 1
        assert application.connections[1].texts == []
        application.connections[0].socket.write(HELLO)
        assert await good.receive() == (TEXT, b"hello")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_pings_are_answered_and_of_many_the_last(server: Any) -> None:
    """A flood of pings is not made into a flood of pongs."""
    async with await RawClient.open(server.port) as client:
        await client.send(frame(PING, b"one"))
        assert await client.receive() == (PONG, b"one")
        await client.send(b"".join(frame(PING, str(number).encode()) for number in range(1_000)))
        pongs = [(await client.receive())[1]]
        while pongs[-1] != b"999":
            pongs.append((await client.receive())[1])
        assert len(pongs) < 100


# Keepalive ------------------------------------------------------------------------------------------------------------


async def test_who_answers_pings_lives_and_who_does_not_is_given_up(application: Application) -> None:
    """Every connection is pinged once an interval; the silent one is gone soon after its first ping."""

    async def keep_silent(client: RawClient) -> float:
        assert await client.receive() == (PING, b"")
        assert await client.close_code() == 1011
        await client.end()
        return time.monotonic()

    async def keep_talking(client: RawClient) -> float:
        for _ in range(4):
            assert await client.receive() == (PING, b"")
            # Any sign of life will do.
            await client.send(frame(TEXT, b"I am here"))
        return time.monotonic()

    async with (
        serving(application, ws_ping_interval=0.4, ws_ping_timeout=0.2) as server,
        connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as lively,
        await RawClient.open(server.port) as silent,
        await RawClient.open(server.port) as talkative,
    ):
        started = time.monotonic()
        silent_until, talked_until = await asyncio.gather(keep_silent(silent), keep_talking(talkative))
        # Others are asked again and again, and never given up.
        assert silent_until - started < 10.0
        assert talked_until - started > 1.0
        await lively.send("still here")
        await wait_until(lambda: "still here" in application.connections[0].texts)
        assert statistics(server).dead_count == 1


async def test_a_silent_client_with_much_unsent_is_cut_at_once(application: Application) -> None:
    """A close frame behind a megabyte that nobody reads would reach nobody."""
    async with (
        serving(application, ws_ping_interval=0.2, ws_ping_timeout=0.1) as server,
        await RawClient.open(server.port, receive_bytes=4096) as client,
    ):
        await count_is(application, 1)
        (connection,) = application.connections
        for _ in range(100):
            connection.socket.write(b"\x81\x7e" + struct.pack("!H", 60_000) + bytes(60_000))
        await wait_until(lambda: connection.close_count == 1)
        assert statistics(server).dead_count == 1
        await wait_until(lambda: statistics(server).open_count == 0)
        client.abort()
