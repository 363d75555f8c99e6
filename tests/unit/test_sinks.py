"""The two ways to a socket, and the loop over them: order kept, nothing without a limit, nobody held up."""

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode

from realtime.hub import sinks
from realtime.hub.members import Counters, Member, Members
from realtime.hub.sinks import AsgiSink, Frame, FrameWriter, RawSink, Sink, payloads_of
from realtime.protocol.close_codes import CloseCode


class Server:
    """The server's side of an ASGI connection: keeps what it is sent, and lets senders wait when told to."""

    def __init__(self) -> None:
        self.sent: list[str | int] = []
        self.error: Exception | None = None
        self.error_once: Exception | None = None
        self._may_send = asyncio.Event()
        self._may_send.set()

    def stall(self) -> None:
        self._may_send.clear()

    def go_on(self) -> None:
        self._may_send.set()

    async def send(self, event: MutableMapping[str, Any]) -> None:
        if not self._may_send.is_set():
            await self._may_send.wait()
        if self.error is not None:
            raise self.error
        if self.error_once is not None:
            error, self.error_once = self.error_once, None
            raise error
        self.sent.append(event["text"] if event["type"] == "websocket.send" else event["code"])


class Writer(FrameWriter):
    """A server that takes raw frames."""

    def __init__(self, error: Exception | None = None) -> None:
        self.written: list[bytes | int] = []
        self.error = error
        self.limit_bytes = self.unsent = 0
        self.overflow: Callable[[], None] = lambda: None

    def write(self, wire: bytes) -> None:  # type: ignore[override]
        if self.error is not None:
            raise self.error
        self.written.append(wire)

    @property
    def unsent_bytes(self) -> int:
        return self.unsent

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        self.limit_bytes, self.overflow = limit_bytes, on_overflow

    def close(self, code: int, reason: str) -> None:
        self.written.append(code)


@pytest.fixture
async def server() -> Server:
    return Server()


def asgi_sink(server: Server, *, limit_bytes: int = 1_000, on_overflow: Callable[[], None] = lambda: None) -> AsgiSink:
    return AsgiSink(server.send, limit_bytes=limit_bytes, on_overflow=on_overflow)


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_frame_is_what_websockets_makes_of_it(size_bytes: int) -> None:
    """Made once, byte for byte what a library makes: final, text, unmasked, with each of the three lengths."""
    frame = Frame(b"x" * size_bytes)
    assert frame.wire == WebSocketFrame(Opcode.TEXT, frame.payload).serialize(mask=False)
    assert frame.wire is frame.wire
    assert frame.event is frame.event
    assert frame.event == {"type": "websocket.send", "text": "x" * size_bytes}


def test_objects_are_joined_in_order_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few frames as fit; one object that is larger than the limit is a frame of its own."""
    monkeypatch.setattr(sinks, "FRAME_BYTES", 10)
    payloads = payloads_of([b"1234", b"5678", b"9", b"abcdefghijkl", b"m", b"n"])
    assert payloads == [b"1234\n5678", b"9", b"abcdefghijkl", b"m\nn"]
    assert payloads_of([]) == []
    assert payloads_of([b"abcdefghijkl"]) == [b"abcdefghijkl"]


# Plain ASGI -----------------------------------------------------------------------------------------------------------


async def test_a_send_that_need_not_wait_is_done_at_once(server: Server) -> None:
    """When `write` returns it has been sent, and no task is left."""
    sink = asgi_sink(server)
    for number in range(3):
        sink.write(Frame(b"%d" % number))
        assert server.sent[-1] == str(number)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    sink.close(CloseCode.RESTART, "bye")
    assert server.sent == ["0", "1", "2", CloseCode.RESTART]


async def test_order_is_kept_while_a_send_waits(server: Server) -> None:
    """What comes behind a send that waits is sent after it, by one task; and what comes after that as well."""
    sink = asgi_sink(server)
    server.stall()
    for number in range(50):
        sink.write(Frame(b"%d" % number))
        await ticks(number % 3)
    assert server.sent == []
    assert len(asyncio.all_tasks()) == 2
    server.go_on()
    sink.write(Frame(b"50"))
    await ticks()
    sink.write(Frame(b"51"))
    assert server.sent == [str(number) for number in range(52)]
    assert len(asyncio.all_tasks()) == 1


async def test_what_waits_is_bounded_in_bytes(server: Server) -> None:
    """Up to the limit everything is kept, and what was sent counts no more; one byte beyond it is told once."""
    overflows: list[None] = []
    sink = asgi_sink(server, limit_bytes=10, on_overflow=lambda: overflows.append(None))
    for _ in range(3):
        server.stall()
        sink.write(Frame(b"at the server"))
        sink.write(Frame(b"123456789"))
        sink.write(Frame(b"0"))
        await ticks()
        assert overflows == []
        server.go_on()
        await ticks()
    assert server.sent == ["at the server", "123456789", "0"] * 3
    server.stall()
    sink.write(Frame(b"at the server"))
    sink.write(Frame(b"1234567890"))
    for _ in range(5):
        sink.write(Frame(b"x"))
    assert overflows == [], "not from within the loop over sockets"
    await ticks()
    assert len(overflows) == 1
    sink.close(CloseCode.SLOW, "too slow")
    server.go_on()
    await ticks()
    assert server.sent[9:] == ["at the server", CloseCode.SLOW]


async def test_closing_while_a_send_waits_drops_the_rest(server: Server) -> None:
    """The frame that is at the server is sent, nothing behind it, the close last; nothing after it."""
    sink = asgi_sink(server)
    server.stall()
    for text in (b"first", b"second", b"third"):
        sink.write(Frame(text))
    sink.close(CloseCode.SLOW, "too slow")
    sink.close(CloseCode.RESTART, "again")
    sink.write(Frame(b"fourth"))
    assert sink.is_closed
    server.go_on()
    await ticks()
    sink.write(Frame(b"fifth"))
    assert server.sent == ["first", CloseCode.SLOW]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed already")])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_client_that_has_gone_is_no_failure(server: Server, error: Exception, waits: bool) -> None:
    """Servers raise from send() when the client has gone: the sink is closed, quietly, with what it held."""
    sink = asgi_sink(server)
    server.error = error
    if waits:
        server.stall()
    sink.write(Frame(b"first"))
    sink.write(Frame(b"second"))
    server.go_on()
    await ticks()
    assert sink.is_closed
    server.error = None
    sink.write(Frame(b"third"))
    sink.close(CloseCode.SLOW, "too slow")
    assert server.sent == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_frame_that_a_server_refuses_ends_the_connection(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Daphne does so with one that is too long for it and keeps the connection. The client, which would hear nothing
    any more, is told to come back, and the log says why.
    """
    sink = asgi_sink(server)
    sink.write(Frame(b"first"))
    server.error_once = RuntimeError("longer than is allowed")
    sink.write(Frame(b"second"))
    sink.write(Frame(b"third"))
    await ticks()
    assert sink.is_closed
    assert server.sent == ["first", CloseCode.WRITE_FAILED]
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "longer than is allowed" in message
    assert len(asyncio.all_tasks()) == 1


async def test_a_server_that_fails_is_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is not the client's going is logged once; the writer is not disturbed."""
    sink = asgi_sink(server)
    server.error = ValueError("no such event")
    with caplog.at_level(logging.ERROR):
        sink.write(Frame(b"first"))
        sink.write(Frame(b"second"))
    assert sink.is_closed
    assert [record.message for record in caplog.records] == ["the web server's send() failed"]


# Raw frames -----------------------------------------------------------------------------------------------------------


async def test_a_raw_sink_writes_whole_frames_until_it_is_closed() -> None:
    """The close is told to the server once; nothing is written, and no overflow heard of, after it."""
    writer, overflows = Writer(), list[None]()
    sink = RawSink(writer, limit_bytes=77, on_overflow=lambda: overflows.append(None))
    assert writer.limit_bytes == 77
    sink.write(Frame(b"first"))
    writer.overflow()
    sink.close(CloseCode.SLOW, "too slow")
    sink.close(CloseCode.RESTART, "again")
    sink.write(Frame(b"second"))
    writer.overflow()
    assert writer.written == [Frame(b"first").wire, CloseCode.SLOW]
    assert len(overflows) == 1


async def test_a_raw_socket_that_raises_is_taken_for_gone() -> None:
    """uvloop's transports raise when they are closed: whoever writes does not notice."""
    sink = RawSink(Writer(RuntimeError("the handler is closed")), limit_bytes=1, on_overflow=lambda: None)
    sink.write(Frame(b"first"))
    assert sink.is_closed


# The loop over sockets ------------------------------------------------------------------------------------------------


def members_of(group: Members, sinks: list[Sink]) -> list[Member]:
    members = [Member(sink) for sink in sinks]
    for member in members:
        group.add(member)
    return members


async def test_every_raw_socket_is_written_the_same_bytes_once() -> None:
    """However many publications: one write a socket, of one bytes object that all share."""
    counters = Counters()
    group = Members(counters)
    writers = [Writer() for _ in range(100)]
    members_of(group, [RawSink(writer, limit_bytes=1, on_overflow=lambda: None) for writer in writers])
    group.send([b"1", b"2", b"3"], 3)
    assert {len(writer.written) for writer in writers} == {1}
    assert {id(writer.written[0]) for writer in writers} == {id(writers[0].written[0])}
    assert writers[0].written == [Frame(b"1\n2\n3").wire]
    assert (counters.frame_count, counters.delivery_count) == (1, 300)


async def test_a_socket_that_raises_disturbs_nobody(server: Server) -> None:
    """It gets nothing more and is closed after the loop; all others get everything, in the same call."""
    counters = Counters()
    group = Members(counters)
    writers = [Writer(OSError("gone") if number in (0, 3, 4, 9) else None) for number in range(10)]
    sound = [writer for writer in writers if writer.error is None]
    raw: list[Sink] = [RawSink(writer, limit_bytes=1, on_overflow=lambda: None) for writer in writers]
    members_of(group, [*raw, asgi_sink(server)])
    group.send([b"1"], 1)
    assert all(writer.written == [Frame(b"1").wire] for writer in sound)
    assert server.sent == ["1"]
    assert counters.failed_count == 4
    assert [writer.written for writer in writers if writer.error is not None] == [[]] * 4
    await ticks()
    assert [writer.written for writer in writers if writer.error is not None] == [[CloseCode.WRITE_FAILED]] * 4
    assert len(group) == 7
    group.send([b"2"], 2)
    assert counters.failed_count == 4
    assert all(writer.written == [Frame(b"1").wire, Frame(b"2").wire] for writer in sound)


async def test_members_may_leave_from_within_a_write() -> None:
    """A member that a write makes leave is not served from the next broadcast on; the loop is not disturbed."""
    group = Members(Counters())
    writers = [Writer() for _ in range(3)]
    first, second, third = members_of(
        group, [RawSink(writer, limit_bytes=1, on_overflow=lambda: None) for writer in writers]
    )

    def leave_all(wire: bytes) -> None:
        for member in (first, second, third):
            group.drop(member)

    second.write = leave_all
    group.send([b"1"], 1)
    group.send([b"2"], 2)
    assert [writer.written for writer in writers] == [[Frame(b"1").wire], [], [Frame(b"1").wire]]
    assert len(group) == 0
