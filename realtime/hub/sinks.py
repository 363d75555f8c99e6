"""
Where the hub's frames go: one sink a socket.

Owns the two ways to a socket and how much may wait there. Does not own who gets what (hub).

- `RawSink`: the server offers `scope["extensions"]["signalbox.frames"]` (see `realtime.server`): one write of bytes
  that all sockets share.
- `AsgiSink`: plain ASGI `send`, on every server.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import send_close

__all__ = ["AsgiSink", "Frame", "FrameWriter", "RawSink", "Sink", "payloads_of", "wire_of"]

logger = logging.getLogger(__name__)

# The largest frame that holds several objects. Clients limit what they receive, and Daphne limits what it sends
# (docs/how-to/run-in-production.md). Only a single large publication makes a larger frame.
FRAME_BYTES = 65_536


class Frame:
    """One WebSocket text message in the forms that sinks need, each made once, when first asked for."""

    __slots__ = ("_event", "_wire", "payload")

    def __init__(self, payload: bytes) -> None:
        # UTF-8 text: one or more JSON objects, one a line.
        self.payload = payload
        self._event: dict[str, Any] | None = None
        self._wire: bytes | None = None

    @property
    def event(self) -> dict[str, Any]:
        """The payload as an ASGI event; shared, not to be changed."""
        if self._event is None:
            self._event = {"type": "websocket.send", "text": self.payload.decode()}
        return self._event

    @property
    def wire(self) -> bytes:
        """The payload as bytes for the socket."""
        if self._wire is None:
            self._wire = wire_of(self.payload)
        return self._wire


def wire_of(payload: bytes) -> bytes:
    """UTF-8 text as one unmasked, final text frame. Source: RFC 6455, section 5.2."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


def payloads_of(lines: Sequence[bytes]) -> Sequence[bytes]:
    """Objects, one a line, joined into as few payloads of FRAME_BYTES at most as their order allows."""
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
    """What a server offers as `scope["extensions"]["signalbox.frames"]`."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Writes whole frames to the socket at once and never waits; what it cannot send yet, the transport holds."""

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        """Call `on_overflow` (soon, on the event loop) when more than `limit_bytes` are unsent."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and close; what is unsent may be lost. Idempotent, also when the client has gone."""


class Sink(ABC):
    """One socket."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether it was closed from this side, or the client was found gone."""

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Send `frame` after all that was written before. Never waits, never raises; after `close` it does nothing."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Close the socket from this side; idempotent."""


class RawSink(Sink):
    """
    Writes shared bytes through the server's own transport.

    Args:
        on_overflow: Called once, soon, when more than `limit_bytes` are unsent.

    Attributes:
        write_bytes: For the hub's loop over sockets: a whole frame. Unlike `write` it may raise when the socket is
            gone, and does not look whether this sink is closed: leave the hub before closing it.
    """

    __slots__ = ("_is_closed", "_on_overflow", "_writer", "write_bytes")

    def __init__(self, writer: FrameWriter, *, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        self._writer, self._on_overflow = writer, on_overflow
        self._is_closed = False
        self.write_bytes: Callable[[bytes], None] = writer.write
        writer.bound(limit_bytes, self._overflow)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def write(self, frame: Frame) -> None:
        if self._is_closed:
            return
        try:
            self.write_bytes(frame.wire)
        except Exception:
            # uvloop's transports raise once they are closed; the server is about to say so.
            self._is_closed = True
            logger.debug("a socket takes nothing any more", exc_info=True)

    def close(self, code: int, reason: str) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._writer.close(int(code), reason)

    def _overflow(self) -> None:
        if not self._is_closed:
            self._on_overflow()


class AsgiSink(Sink):
    """
    Sends by ASGI's `send`. A send is run at once; only one that has to wait becomes a task, and what comes meanwhile
    is held.

    Args:
        send: The application's own.
        limit_bytes: The most that is held behind a send that waits.
        on_overflow: Called once, soon, when more would be. It has to close the sink, which drops what is held.

    Guarantees:
        Frames are sent in the order of `write`, one at a time, and the close event last. While a send waits, the close
        event waits behind it: a client that reads nothing at all is ended by the server's own ping.
    """

    __slots__ = (
        "_held",
        "_held_bytes",
        "_is_closed",
        "_is_over_limit",
        "_limit_bytes",
        "_loop",
        "_on_overflow",
        "_pending_close",
        "_send",
        "_task",
    )

    def __init__(
        self,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
        *,
        limit_bytes: int,
        on_overflow: Callable[[], None],
    ) -> None:
        self._send, self._limit_bytes, self._on_overflow = send, limit_bytes, on_overflow
        self._loop = asyncio.get_running_loop()
        self._is_closed = self._is_over_limit = False
        # Frames behind the one that waits to be sent, and their bytes; made when first needed.
        self._held: deque[Frame] | None = None
        self._held_bytes = 0
        # Code and reason of the close that is sent after the frame that is being sent; None if there is none.
        self._pending_close: tuple[int, str] | None = None
        # The send that waits, and then sends what is held.
        self._task: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def write(self, frame: Frame) -> None:
        if self._is_closed or self._is_over_limit:
            return
        if self._task is None:
            self._start(frame)
        elif self._held_bytes + len(frame.payload) <= self._limit_bytes:
            if self._held is None:
                self._held = deque()
            self._held.append(frame)
            self._held_bytes += len(frame.payload)
        else:
            # Not from within the hub's loop over sockets.
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
        # Eager: it has run as far as it goes without waiting when this returns, and is a task for `send` to see.
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
            logger.debug("a socket takes nothing any more", exc_info=True)
            self._give_up()
        except RuntimeError as error:
            # Likewise on older servers; or a close was sent already; or Daphne has a limit for what it sends.
            logger.debug("a socket takes nothing any more", exc_info=True)
            self._give_up()
            if await self._close_deaf():
                logger.warning(
                    "the web server refused to send a frame, and the connection was closed: %s "
                    "(Daphne needs --websocket-max-message-size 131072)",
                    error,
                )
        except Exception:
            logger.exception("a server's send() failed")
            self._give_up()
            await self._close_deaf()
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

    async def _close_deaf(self) -> bool:
        """Close a connection that may still be open: its client would get nothing more and not notice."""
        try:
            await send_close(self._send, code=CloseCode.WRITE_FAILED, reason="a write failed")
        except Exception:
            logger.debug("there was nothing to close", exc_info=True)
            return False
        return True
