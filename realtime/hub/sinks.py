"""
The destinations of the hub's frames: one sink per socket.

Owns the two ways to write to a socket, and how much may wait to be sent. Does not own who gets what (hub).

- `RawSink` writes bytes that all sockets share. The server must offer `scope["extensions"]["signalbox.frames"]`, as
  `realtime.server` does.
- `AsgiSink` uses plain ASGI `send`, on every server.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import send_close

__all__ = ["AsgiSink", "Frame", "FrameWriter", "LinesFrame", "RawSink", "Sink", "payloads_of", "wire_of"]

logger = logging.getLogger(__name__)

# The largest frame that holds several objects. Clients limit what they receive, and Daphne limits what it sends
# (docs/how-to/run-in-production.md). Only a single large publication makes a larger frame.
FRAME_BYTES = 65_536


class Frame:
    """One WebSocket text message in the forms that sinks need; each form is made once, when it is first used."""

    __slots__ = ("_event", "_wire", "payload")

    def __init__(self, payload: bytes) -> None:
        # UTF-8 text: one or more JSON objects, one per line.
        self.payload = payload
        self._event: dict[str, Any] | None = None
        self._wire: bytes | None = None

    @property
    def event(self) -> dict[str, Any]:
        """The payload as an ASGI event. Shared by all sinks: never change it."""
        if self._event is None:
            self._event = {"type": "websocket.send", "text": self.payload.decode()}
        return self._event

    @property
    def wire(self) -> bytes:
        """The payload as a WebSocket frame."""
        if self._wire is None:
            self._wire = wire_of(self.payload)
        return self._wire


class LinesFrame(Frame):
    """
    A frame of several objects, which are copied once: into the form that the sink needs.

    Args:
        first: A JSON object.
        rest: More JSON objects, or several joined by line breaks.
        size_bytes: The size of all, each of `rest` after a line break.
    """

    __slots__ = ("_first", "_rest", "_size_bytes")

    def __init__(self, first: bytes, rest: list[bytes], size_bytes: int) -> None:
        self._first, self._rest, self._size_bytes = first, rest, size_bytes
        self._event = self._wire = None

    @property
    def payload(self) -> bytes:  # type: ignore[override]
        """UTF-8 text."""
        return b"\n".join([self._first, *self._rest])

    @property
    def wire(self) -> bytes:
        if self._wire is None:
            self._wire = b"\n".join([_wire_head(self._size_bytes) + self._first, *self._rest])
        return self._wire


def wire_of(payload: bytes) -> bytes:
    """Encode UTF-8 text as one unmasked, final text frame. Source: RFC 6455, section 5.2."""
    return _wire_head(len(payload)) + payload


def _wire_head(size: int) -> bytes:
    if size < 126:
        return b"\x81%c" % size
    if size < 65_536:
        return b"\x81\x7e%b" % size.to_bytes(2)
    return b"\x81\x7f%b" % size.to_bytes(8)


def payloads_of(lines: Sequence[bytes]) -> Sequence[bytes]:
    """Join objects, one per line, into as few payloads of at most FRAME_BYTES as possible, in their order."""
    if len(lines) <= 1:
        return lines
    if sum(map(len, lines)) + len(lines) <= FRAME_BYTES:
        return [b"\n".join(lines)]
    payloads: list[bytes] = []
    part: list[bytes] = []
    part_bytes = 0
    for line in lines:
        if part and part_bytes + len(line) > FRAME_BYTES:
            payloads.append(b"\n".join(part))
            part, part_bytes = [], 0
        part.append(line)
        part_bytes += len(line) + 1
    return [*payloads, b"\n".join(part)]


class FrameWriter(Protocol):
    """The interface that a server offers as `scope["extensions"]["signalbox.frames"]`."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Writes whole frames to the socket without waiting; the transport buffers what it cannot send yet."""

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written the transport has not sent yet."""

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        """Call `on_overflow` soon, on the event loop, when more than `limit_bytes` are unsent."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and close; unsent data may be lost. Idempotent, also after the client has gone."""


class Sink(ABC):
    """
    One socket.

    Attributes:
        limit_bytes: How much may be unsent.
    """

    __slots__ = ()
    limit_bytes: int

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """How much of what was written is not sent yet."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether it was closed from this side, or the client has gone."""

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Send `frame` after all earlier frames. Never waits, never raises; does nothing after `close`."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Close the socket from this side; idempotent."""


class RawSink(Sink):
    """
    Writes shared bytes through the server's own transport.

    Args:
        on_overflow: Called once, soon, when more than `limit_bytes` are unsent.

    Attributes:
        write_bytes: Writes a whole frame, for the hub's loop over sockets. Unlike `write`, it may raise if the socket
            is gone, and does not check whether this sink is closed: leave the hub before closing the sink.
    """

    __slots__ = ("_is_closed", "_on_overflow", "_writer", "limit_bytes", "write_bytes")

    def __init__(self, writer: FrameWriter, *, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        self._writer, self.limit_bytes, self._on_overflow = writer, limit_bytes, on_overflow
        self._is_closed = False
        self.write_bytes: Callable[[bytes], None] = writer.write
        writer.bound(limit_bytes, self._overflow)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def unsent_bytes(self) -> int:
        return self._writer.unsent_bytes

    def write(self, frame: Frame) -> None:
        if self._is_closed:
            return
        try:
            self.write_bytes(frame.wire)
        except Exception:
            # uvloop's transports raise once they are closed; the server is about to report that.
            self._is_closed = True
            logger.debug("a socket accepts no more data", exc_info=True)

    def close(self, code: int, reason: str) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._writer.close(int(code), reason)

    def _overflow(self) -> None:
        if not self._is_closed:
            self._on_overflow()


class AsgiSink(Sink):
    """
    Sends with ASGI's `send`. Each send starts at once; only one that has to wait becomes a task. Frames written
    meanwhile are held.

    Args:
        send: ASGI's `send` of the connection.
        limit_bytes: The most bytes held behind a send that waits.
        on_overflow: Called once, soon, when the limit is exceeded. It must close the sink, which drops what is held.

    Guarantees:
        Frames are sent in the order of `write`, one at a time, and the close event last. If a send waits, the close
        event waits behind it: a client that reads nothing at all is closed by the server's own ping timeout.
    """

    __slots__ = (
        "_held",
        "_held_bytes",
        "_is_closed",
        "_is_over_limit",
        "_loop",
        "_on_overflow",
        "_pending_close",
        "_send",
        "_task",
        "limit_bytes",
    )

    def __init__(
        self,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
        *,
        limit_bytes: int,
        on_overflow: Callable[[], None],
    ) -> None:
        self._send, self.limit_bytes, self._on_overflow = send, limit_bytes, on_overflow
        self._loop = asyncio.get_running_loop()
        self._is_closed = self._is_over_limit = False
        # Frames behind the one that waits to be sent, and their total size; created when first needed.
        self._held: deque[Frame] | None = None
        self._held_bytes = 0
        # Code and reason of the close to send after the current frame; None if the sink is not being closed.
        self._pending_close: tuple[int, str] | None = None
        # The send that waits, and then sends the held frames; None while nothing waits.
        self._task: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def unsent_bytes(self) -> int:
        return self._held_bytes

    def write(self, frame: Frame) -> None:
        if self._is_closed or self._is_over_limit:
            return
        if self._task is None:
            self._start(frame)
        elif self._held_bytes + len(frame.payload) <= self.limit_bytes:
            if self._held is None:
                self._held = deque()
            self._held.append(frame)
            self._held_bytes += len(frame.payload)
        else:
            # Later, not within the hub's loop over sockets.
            self._is_over_limit = True
            self._loop.call_soon(self._overflow)

    def close(self, code: int, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._drop_held()
        self._pending_close = (int(code), reason)
        if self._task is None:
            self._start(None)

    def _overflow(self) -> None:
        if not self._is_closed:
            self._on_overflow()

    def _start(self, frame: Frame | None) -> None:
        # Eager: the task runs at once, up to its first wait. `send` still sees a task, which some servers need.
        task = asyncio.Task(self._run(frame), loop=self._loop, eager_start=True)
        if not task.done():
            self._task = task

    async def _run(self, frame: Frame | None) -> None:
        try:
            while frame is not None:
                await self._send(frame.event)
                frame = self._next()
            if self._pending_close is not None:
                code, reason = self._pending_close
                await send_close(self._send, code=code, reason=reason)
        except OSError:
            # The client has gone (ASGI 2.4); the consumer learns of it from receive().
            logger.debug("a socket accepts no more data", exc_info=True)
            self._give_up()
        except RuntimeError as error:
            # The client has gone (older servers), or a close was sent already, or the frame exceeds a limit of Daphne.
            logger.debug("a socket accepts no more data", exc_info=True)
            self._give_up()
            if await self._close_after_failure():
                logger.warning(
                    "the web server refused to send a frame, and the connection was closed: %s "
                    "(Daphne needs --websocket-max-message-size 131072)",
                    error,
                )
        except Exception:
            logger.exception("the web server's send() failed")
            self._give_up()
            await self._close_after_failure()
        finally:
            self._task = None

    def _next(self) -> Frame | None:
        if not self._held:
            return None
        frame = self._held.popleft()
        self._held_bytes -= len(frame.payload)
        return frame

    def _drop_held(self) -> None:
        self._held, self._held_bytes = None, 0

    def _give_up(self) -> None:
        self._is_closed = True
        self._drop_held()

    async def _close_after_failure(self) -> bool:
        """Close a connection that may still be open, because its client would get nothing more and not notice."""
        try:
            await send_close(self._send, code=CloseCode.WRITE_FAILED, reason="a write failed")
        except Exception:
            logger.debug("there was nothing to close", exc_info=True)
            return False
        return True
