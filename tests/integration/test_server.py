"""The handshake and the sockets on a real uvicorn: every way in which a connection begins, lives and ends."""

import asyncio
import gc
import logging
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime import server as server_module
from realtime.protocol.close_codes import CloseCode
from realtime.server import EXTENSION, FrameProtocol
from realtime.websocket import connection as sockets_module
from realtime.websocket.framing import CLOSE, TEXT
from tests.integration.serving import (
    HELLO,
    LIMIT_BYTES,
    REQUEST,
    Application,
    RawClient,
    count_is,
    frame,
    serving,
    statistics,
)
from tests.support.waiting import Standstill, wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]


# Messages -------------------------------------------------------------------------------------------------------------


async def test_what_is_said_arrives_in_order_both_ways(server: Any, application: Application) -> None:
    """From the first byte after the handshake on, whole messages and fragmented ones, up to the limit."""
    async with connect(f"ws://127.0.0.1:{server.port}/ws/", proxy=None) as client:
        said = [f"{number}" for number in range(200)] + ["ü" * (LIMIT_BYTES // 2), ""]
        for text in said:
            await client.send(text)
        await client.send(["in ", "three ", "parts"])
        (connection,) = application.connections
        await wait_until(lambda: len(connection.texts) == len(said) + 1)
        assert connection.texts == [*said, "in three parts"]
        for _ in range(3):
            connection.socket.write(HELLO)
        assert [await client.recv() for _ in range(3)] == ["hello"] * 3


async def test_an_idle_connection_has_no_task_and_no_protocol_of_the_handshake(
    server: Any, application: Application
) -> None:
    """All that served the handshake is gone when the application has returned."""
    tasks = len(asyncio.all_tasks())
    clients = [await RawClient.open(server.port) for _ in range(20)]
    await count_is(application, 20)
    await wait_until(lambda: len(asyncio.all_tasks()) == tasks)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, FrameProtocol)]
    assert statistics(server).open_count == 20
    for client in clients:
        client.abort()
    await wait_until(lambda: statistics(server).open_count == 0)
    assert [each.close_count for each in application.connections] == [1] * 20


async def test_an_application_that_does_not_detach_is_served_as_by_uvicorn(caplog: pytest.LogCaptureFixture) -> None:
    """A stock consumer of the same site sees nothing of all this."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            if event.get("text") == "close":
                await send({"type": "websocket.close", "code": 3000, "reason": "as you wish"})
                return
            await send({"type": "websocket.send", "text": event["text"]})

    async with serving(echo, ws_ping_interval=0.05, ws_ping_timeout=5.0) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as client:
            for number in range(100):
                await client.send(str(number))
            assert [await client.recv() for _ in range(100)] == [str(number) for number in range(100)]
            await client.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 3000
        async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_compressed_connections_are_left_to_uvicorn() -> None:
    """Frames that all sockets share are not compressed, and our reader reads no compressed ones."""
    offered: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        offered.append(EXTENSION in scope["extensions"])
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await receive()

    async with serving(application, ws_per_message_deflate=True) as server:
        for compression in ("deflate", None):
            async with connect(
                f"ws://127.0.0.1:{server.port}/",
                proxy=None,
                compression=compression,  # type: ignore[arg-type]
            ) as client:
                assert await client.recv() == "hello"
    assert offered == [False, True]


# Handshakes -----------------------------------------------------------------------------------------------------------


async def test_a_refused_handshake_is_a_403() -> None:
    """The application closes before it accepts."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})

    async with serving(refuse) as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/", proxy=None)
        assert refused.value.response.status_code == 403


async def test_an_application_that_fails_ends_its_connection_only(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """Before accept 500, after it a close; each is one traceback in the log."""
    failing = {"/before", "/after"}

    async def sometimes(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/after":
            await receive()
            await send({"type": "websocket.accept"})
        if scope["path"] in failing:
            raise LookupError(scope["path"])
        await application(scope, receive, send)

    def fail(connection: Any) -> None:
        if len(application.connections) == 2:
            raise LookupError("/detached")

    application.on_detached = fail
    async with serving(sometimes) as server:
        uri = f"ws://127.0.0.1:{server.port}"
        async with connect(f"{uri}/fine", proxy=None) as fine:
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{uri}/before", proxy=None)
            assert refused.value.response.status_code == 500
            async with connect(f"{uri}/after", proxy=None) as after:
                with pytest.raises(ConnectionClosed):
                    await after.recv()
            async with connect(f"{uri}/detached", proxy=None) as detached:
                with pytest.raises(ConnectionClosed) as closed:
                    await detached.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1011
            application.connections[0].socket.write(HELLO)
            assert await fine.recv() == "hello"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [str(record.exc_info[1]) for record in errors if record.exc_info] == ["/before", "/after", "/detached"]


async def test_a_client_that_goes_during_the_handshake_is_no_error(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the application is about to accept or to detach then: it learns of it, and nothing is left."""
    may_go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def slow_send(event: Any) -> None:
            if scope["path"] == "/accepting":
                await may_go_on.wait()
            await send(event)
            await may_go_on.wait()

        await application(scope, receive, slow_send)

    async with serving(slow) as server:
        for path in ("/accepting", "/detaching"):
            may_go_on.clear()
            client = await RawClient.connect(server.port)
            await client.send(REQUEST.replace(b"/ws/", path.encode()))
            if path == "/detaching":
                await client.reader.readuntil(b"\r\n\r\n")
            await wait_until(lambda: len(server.server_state.tasks) == 1)
            client.abort()
            if path == "/accepting":
                await wait_until(lambda: not server.server_state.connections)
            may_go_on.set()
            await wait_until(lambda: not server.server_state.tasks and not server.server_state.connections)
    assert [each.close_count for each in application.connections] == [1]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_connection_that_nobody_starts_is_closed(application: Application) -> None:
    """An application that detaches and then forgets it does not leave a client waiting."""

    async def forgetful(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"][EXTENSION].detach(limit_bytes=1)

    async with serving(forgetful) as server, await RawClient.open(server.port) as client:
        assert await client.close_code() == 1011
        await client.send(frame(CLOSE))
        await client.end()
        await wait_until(lambda: not server.server_state.connections)


@pytest.mark.parametrize("how", ["one segment", "two segments", "amid a frame"])
async def test_what_is_said_before_the_answer_is_kept(server: Any, application: Application, how: str) -> None:
    """A client need not wait for the answer to its handshake where it is sure of it; nothing that it says is lost."""
    said = frame(TEXT, b"early") + frame(TEXT, b"bird")
    first = {"one segment": said, "two segments": b"", "amid a frame": said[:7]}[how]
    async with await RawClient.connect(server.port) as client:
        client.writer.write(REQUEST + first)
        if how == "two segments":
            # Most often before the answer; nothing depends on it.
            client.writer.write(said)
        else:
            await client.reader.readuntil(b"\r\n\r\n")
            client.writer.write(said[len(first) :])
        await wait_until(lambda: application.connections and len(application.connections[0].texts) == 2)
        assert application.connections[0].texts == ["early", "bird"]
        await client.send(frame(TEXT, b"late"))
        await wait_until(lambda: application.connections[0].texts[2:] == ["late"])


async def test_what_is_said_before_the_answer_reaches_an_application_that_does_not_detach() -> None:
    """In order, before what is said later."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asked.set()
        await may_answer.wait()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})

    async with serving(echo) as server, await RawClient.connect(server.port) as client:
        two = frame(TEXT, b"two")
        client.writer.write(REQUEST + frame(TEXT, b"one") + two[:3])
        await asked.wait()
        await client.send(two[3:])
        may_answer.set()
        await client.reader.readuntil(b"\r\n\r\n")
        await client.send(frame(TEXT, b"three"))
        assert [await client.receive() for _ in range(3)] == [(TEXT, b"one"), (TEXT, b"two"), (TEXT, b"three")]


async def test_who_says_much_before_the_answer_is_cut_off() -> None:
    """The bytes are kept in memory for a client that is not authenticated yet."""
    asked = asyncio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asked.set()
        await receive()

    async with serving(never) as server, await RawClient.connect(server.port) as client:
        await client.send(REQUEST)
        await asked.wait()
        with suppress(ConnectionError):
            await client.send(bytes(2 * server_module.EARLY_LIMIT_BYTES))
        assert await client.end() == b""


async def test_a_handshake_that_nobody_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that hangs must not collect connections without end."""
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.2)

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    async with serving(hang) as server, await RawClient.connect(server.port) as client:
        await client.send(REQUEST)
        assert await client.end() == b""
        await wait_until(lambda: not server.server_state.connections and not server.server_state.tasks)


# The end of the server ------------------------------------------------------------------------------------------------


async def test_a_server_that_stops_closes_its_sockets_one_after_the_other(application: Application) -> None:
    """Two hundred learn when to come back, at different times, and those who do not answer do not hold it up."""
    count, grace_seconds = 200, 3
    closed_at: list[float] = []
    waits: list[float] = []

    async def leave(client: RawClient, *, politely: bool) -> None:
        opcode, data = await client.receive()
        assert opcode == CLOSE
        assert int.from_bytes(data[:2]) == CloseCode.RESTART
        closed_at.append(time.monotonic())
        name, _, seconds = data[2:].decode().partition("=")
        assert name == "retry_after"
        waits.append(float(seconds))
        if politely:
            await client.send(frame(CLOSE, data[:2]))
        await client.end()

    async with AsyncExitStack() as stack:
        async with serving(application, timeout_graceful_shutdown=grace_seconds) as server:
            clients = [await RawClient.open(server.port) for _ in range(count)]
            await count_is(application, count)
            leaving = [
                asyncio.create_task(leave(client, politely=index % 10 > 0)) for index, client in enumerate(clients)
            ]
            stood = await stack.enter_async_context(Standstill())
            started = time.monotonic()
        stopped_seconds = time.monotonic() - started
        await asyncio.gather(*leaving)
    assert stopped_seconds - stood.seconds < grace_seconds + 6.0
    # What is due while the machine stands still comes all at once afterwards.
    assert max(closed_at) - min(closed_at) + stood.seconds > grace_seconds / 4
    assert max(waits) <= sockets_module.RETRY_AFTER_SECONDS
    assert max(waits) - min(waits) > sockets_module.RETRY_AFTER_SECONDS / 2
    assert [each.close_count for each in application.connections] == [1] * count
    for client in clients:
        client.abort()


async def test_a_server_that_stops_during_a_handshake_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets an answer, and the application is not waited for without end."""

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async with serving(hang) as server:
        client = await RawClient.connect(server.port)
        await client.send(REQUEST)
        await wait_until(lambda: len(server.server_state.tasks) == 1)
    assert (await client.reader.readline()).startswith(b"HTTP/1.1 500")
    client.abort()
