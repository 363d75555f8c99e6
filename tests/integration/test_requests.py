"""Requests to a real uvicorn: incomplete ones, ones that are too long, and invalid handshakes."""

import asyncio
import time
from typing import Any

import pytest

from realtime.websocket import http_protocol as requests_module
from realtime.websocket.framing import TEXT
from tests.integration.serving import REQUEST, Application, RawClient, frame, serving
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]


async def status_of(client: RawClient) -> int:
    """The status of the answer. The answer must be complete, and the connection must end right after it."""
    head, _, body = (await client.end()).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b"connection: close" in [line.lower() for line in lines]
    assert len(body) == int(next(line for line in lines if line.lower().startswith(b"content-length")).split(b":")[1])
    return int(lines[0].split()[1])


def handshake(*headers: bytes, path: bytes = b"/ws/") -> bytes:
    return REQUEST.replace(b"/ws/", path).replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n")


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["nothing", "GET", "half"]
)
async def test_a_request_that_is_never_finished_ends(
    application: Application, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Even if a byte arrives now and then: the head must be complete in time."""
    monkeypatch.setattr(requests_module, "HEAD_SECONDS", 1.0)
    async with serving(application) as server:
        started = time.monotonic()
        async with await RawClient.connect(server.port) as client:
            await client.send(sent)

            async def trickle() -> None:
                while sent:
                    client.writer.write(b"x")
                    await asyncio.sleep(0.05)

            trickling = asyncio.create_task(trickle())
            answer = await client.end()
            trickling.cancel()
        assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""
        assert time.monotonic() - started > 0.9
        await wait_until(lambda: not server.server_state.connections)


async def test_pages_are_served_as_ever() -> None:
    """Several requests on one connection, with a body longer than any head may be."""

    async def pages(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            event = await receive()
            size, more = size + len(event["body"]), event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"%06d" % size})

    async with serving(pages) as server, await RawClient.connect(server.port) as client:
        for size in (0, 100_000, 5):
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await client.reader.readexactly(6) == b"%06d" % size


@pytest.mark.parametrize("body", [b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_body_that_never_comes_ends_its_request(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """The client gets an answer, and the application does not wait for the rest for ever."""
    monkeypatch.setattr(requests_module, "BODY_SECONDS", 0.3)
    events: list[str] = []

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while not events or events[-1] == "http.request":
            events.append((await receive())["type"])

    async with serving(read) as server, await RawClient.connect(server.port) as client:
        await client.send(b"POST /login/ HTTP/1.1\r\nHost: x\r\n" + body)
        assert await status_of(client) == 408
        await wait_until(lambda: not server.server_state.connections and not server.server_state.tasks)
    assert events[-1] == "http.disconnect"


async def test_a_long_body_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes at a rate that is worth the wait is waited for, and what the application does not read is not late."""
    monkeypatch.setattr(requests_module, "BODY_SECONDS", 2.0)
    monkeypatch.setattr(requests_module, "BODY_BYTES_PER_SECOND", 100)
    may_read = asyncio.Event()

    async def pages(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/busy":
            await may_read.wait()
        size, more = 0, True
        while more:
            event = await receive()
            size, more = size + len(event["body"]), event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"%06d" % size})

    async with serving(pages) as server, await RawClient.connect(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(10):
            await client.send(b"x" * 1000)
            await asyncio.sleep(0.3)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await client.reader.readexactly(6) == b"010000"
        client.writer.write(b"POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n" + b"x" * 999_999)
        # The timer looks three times, and finds each time that nothing is read.
        await asyncio.sleep(3 * 2.0)
        may_read.set()
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await client.reader.readexactly(6) == b"999999"


async def test_an_answer_before_the_body_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that does not want the rest has said so; the client gets no second answer."""
    monkeypatch.setattr(requests_module, "BODY_SECONDS", 0.2)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(refuse) as server, await RawClient.connect(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        answer = await client.end()
        assert answer.startswith(b"HTTP/1.1 413")
        assert answer.count(b"HTTP/1.1") == 1


# Size -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["endless", "whole"])
async def test_a_head_that_is_too_long_is_refused(application: Application, end: bytes) -> None:
    """A client cannot make the server buffer a megabyte of headers."""
    async with serving(application) as server, await RawClient.connect(server.port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 262_144 + end)
        assert await status_of(client) == 431


BAD_HANDSHAKES = {
    "129 headers": (handshake(*(b"X-%d: x" % number for number in range(129 - 5))), 431),
    "a long path": (handshake(path=b"/ws/?epoch=" + b"x" * 8_192), 414),
    "a body": (handshake(b"Content-Length: 5"), 400),
    "a body that comes": (handshake(b"Content-Length: 5") + b"hello", 400),
    "chunks": (handshake(b"Transfer-Encoding: chunked"), 400),
    "chunks that come": (handshake(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 400),
    "a path that is no ASCII": (handshake(path="/wß/".encode()), 400),
    "another method": (REQUEST.replace(b"GET", b"PUT"), 405),
    "another version": (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "no key": (REQUEST.replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
    "another version of WebSockets": (REQUEST.replace(b"Version: 13", b"Version: 8"), 400),
}


@pytest.mark.parametrize("case", BAD_HANDSHAKES)
async def test_a_handshake_that_cannot_be_is_answered(application: Application, case: str) -> None:
    """By an HTTP status, some words, and the end of the connection."""
    said, status = BAD_HANDSHAKES[case]
    async with serving(application) as server, await RawClient.connect(server.port) as client:
        await client.send(said)
        assert await status_of(client) == status
        await wait_until(lambda: not server.server_state.connections)
    assert application.connections == []


@pytest.mark.parametrize("case", ["129 headers", "a long path", "a body that comes", "another method", "no key"])
async def test_a_handshake_that_cannot_be_is_answered_behind_other_http(application: Application, case: str) -> None:
    """Where only the WebSockets of a uvicorn are ours."""
    async with serving(application, http="httptools") as server, await RawClient.connect(server.port) as client:
        await client.send(BAD_HANDSHAKES[case][0])
        assert (await client.end()).startswith(b"HTTP/1.1 4")
        await wait_until(lambda: not server.server_state.connections)
    assert application.connections == []


async def test_a_browser_with_many_cookies_is_let_in(application: Application) -> None:
    """A head that is small enough for a page is small enough for a WebSocket: both have the same limit."""
    cookie = b"sessionid=" + b"x" * 32 + b"; other=" + b"y" * 8_192
    seen: list[bytes] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"cookie")
        await application(scope, receive, send)

    async with serving(look) as server, await RawClient.connect(server.port) as client:
        await client.send(handshake(b"Cookie: " + cookie, b"X-Name: J\xfcrgen"))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        await client.send(frame(TEXT, b"I am in"))
        await wait_until(lambda: application.connections[0].texts == ["I am in"])
    assert seen == [cookie]


async def test_after_a_refusal_nothing_is_read(application: Application) -> None:
    """A client that keeps sending is disconnected."""
    async with serving(application) as server, await RawClient.connect(server.port) as client:
        await client.send(BAD_HANDSHAKES["a body"][0])
        sent_bytes = 0
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(20):
                while True:
                    await client.send(bytes(65_536))
                    sent_bytes += 65_536
        # What fits into the buffers of both ends.
        assert sent_bytes < 32_000_000
        await wait_until(lambda: not server.server_state.connections)
