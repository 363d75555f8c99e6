"""
One WebSocket that we serve ourselves, from the end of the handshake to its last byte.

Owns the transport of a connection taken over from the web server (realtime.server): incoming messages become calls of a
receiver, outgoing frames arrive complete (sinks). An idle connection has no task, no timer, no queue and no buffer.
Does not own the handshake nor the meaning of messages (client).
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import hang_up
from realtime.statistics import SocketStatistics, register
from realtime.websocket import framing
from realtime.websocket.keepalive import Keepalive, Turn

__all__ = ["Receiver", "ServerSockets", "Socket"]

# A client that does not read the unsent data, or does not answer a close frame, is aborted after this time.
ABORT_AFTER_SECONDS: Final = 5.0
# A stopping server asks its clients to come back after a random wait of at most this length.
RETRY_AFTER_SECONDS: Final = 10.0
# The fraction of the grace period over which connections are closed, and the fraction after which a connection that
# does not end by itself is aborted.
CLOSE_SPREAD_FRACTION: Final = 0.5
ABORT_FRACTION: Final = 0.25
# With fewer connections than this, the spread is shorter: a few clients that reconnect at once do no harm.
FULL_SPREAD_COUNT: Final = 100
# The most pings, pongs and fragments between two of our pings. Messages are limited by the receiver.
CONTROL_FRAMES_LIMIT: Final = 5_000
# How many frames may arrive between our close frame and the client's, because they were on their way. A frame of more
# than 4 KiB counts as several. After this many, nothing more is read.
LATE_LIMIT: Final = 256
_LATE_BYTES: Final = 4_096

_PING: Final = b"\x89\x00"
# _ABORTING: our close frame was sent, nothing more is read, and the connection is aborted soon.
_OPEN, _CLOSING, _ABORTING, _CLOSED = range(4)


class Receiver(Protocol):
    """The receiver of what a client sends."""

    def take_text(self, text: str) -> None:
        """Take a message. Must not wait."""

    def close(self) -> None:
        """The connection has ended, or is being closed. Idempotent."""


class ServerSockets:
    """
    What the sockets of one server on one event loop share.

    Args:
        connections: The web server's own set; it calls `shutdown()` on each member when it stops.
        keepalive: Pings the sockets; None to send no pings.
        grace_seconds: How long the server waits for its connections when it stops.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        connections: set[Any],
        keepalive: Keepalive | None,
        grace_seconds: float,
    ) -> None:
        self.loop, self.connections, self.keepalive = loop, connections, keepalive
        self.grace_seconds = grace_seconds
        self.abort_after_seconds = min(ABORT_AFTER_SECONDS, grace_seconds * ABORT_FRACTION)
        # See SocketStatistics.
        self.open_count = self.dead_count = self.aborted_count = self.refused_count = 0
        register(self)

    def close_delay_seconds(self) -> float:
        """How long one connection waits when the server stops: random, within a fraction of the grace period."""
        crowd = min(1.0, len(self.connections) / FULL_SPREAD_COUNT)
        return random.uniform(0, self.grace_seconds * CLOSE_SPREAD_FRACTION * crowd)  # noqa: S311 - spreads load

    def statistics(self) -> SocketStatistics:
        """The counters of this server now."""
        return SocketStatistics(
            open_count=self.open_count,
            dead_count=self.dead_count,
            aborted_count=self.aborted_count,
            refused_count=self.refused_count,
        )


class Socket(asyncio.Protocol):
    """
    One open connection; the `FrameWriter` of its sink.

    Args:
        transport: Its reading is paused; `start` resumes it.
        limit_bytes: The largest message that the client may send.
        early: Bytes that the client has already sent.

    Guarantees:
        `Receiver.close` is called when the connection ends, however it ends. The connection ends within seconds of
        `close`, whatever the client does. What the client sends after `close` is ignored.
    """

    __slots__ = (
        "_awaits_pong",
        "_control_count",
        "_early",
        "_on_overflow",
        "_reader",
        "_receiver",
        "_sockets",
        "_state",
        "_timer",
        "_transport",
        "_turn",
    )

    def __init__(
        self, transport: asyncio.Transport, sockets: ServerSockets, *, limit_bytes: int, early: bytes = b""
    ) -> None:
        self._transport, self._sockets, self._early = transport, sockets, early
        # None once all further input is ignored.
        self._reader: framing.FrameReader | None = framing.FrameReader(limit_bytes)
        self._receiver: Receiver | None = None
        self._on_overflow: Callable[[], None] | None = None
        self._state = _OPEN
        # Whether a ping was sent and nothing has arrived since.
        self._awaits_pong = False
        # Counts towards CONTROL_FRAMES_LIMIT; after our close, towards LATE_LIMIT.
        self._control_count = 0
        # Its turn of the keepalive.
        self._turn: Turn | None = None
        # Aborts a closing connection, or closes one of a stopping server.
        self._timer: asyncio.TimerHandle | None = None
        sockets.connections.add(self)
        sockets.open_count += 1

    @property
    def is_started(self) -> bool:
        """Whether it has, or had, a receiver, or is closing."""
        return self._receiver is not None or self._state != _OPEN

    def start(self, receiver: Receiver | None) -> None:
        """Pass input to `receiver` from now on; None for a connection that is already closed."""
        if self._state == _OPEN:
            self._receiver = receiver
            if self._sockets.keepalive is not None:
                self._turn = self._sockets.keepalive.add(self)
        elif receiver is not None:
            receiver.close()
        early, self._early = self._early, b""
        if early and self._state != _CLOSED:
            self.data_received(early)
        if self._state in (_OPEN, _CLOSING):
            # Also after our close: the client's close frame is still to be read.
            self._transport.resume_reading()

    # FrameWriter ------------------------------------------------------------------------------------------------------

    @property
    def write(self) -> Callable[[bytes], None]:
        """Writes whole frames at once and never waits."""
        return self._transport.write

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written the transport has not sent yet."""
        return self._transport.get_write_buffer_size()

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        """Call `on_overflow`, soon, when more than `limit_bytes` are unsent."""
        self._on_overflow = on_overflow
        self._transport.set_write_buffer_limits(high=limit_bytes)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end the connection; a client that does not read it is aborted. Idempotent."""
        if self._state == _OPEN:
            self._begin_close()
            if not self._transport.is_closing():
                self._transport.write(framing.close_frame(code, reason))

    # From the web server ----------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server stops: close at a random moment of the grace period, and tell the client when to come back."""
        if self._state == _OPEN and self._timer is None:
            self._timer = self._sockets.loop.call_later(self._sockets.close_delay_seconds(), self._close_for_restart)

    def _close_for_restart(self) -> None:
        self._timer = None
        retry_after = random.uniform(0, RETRY_AFTER_SECONDS)  # noqa: S311 - spreads load
        self._end(CloseCode.RESTART, f"retry_after={retry_after:.2f}")

    # From the keepalive -----------------------------------------------------------------------------------------------

    def ping(self) -> None:
        self._awaits_pong = True
        self._control_count = 0
        self._transport.write(_PING)

    def give_up_if_silent(self) -> None:
        if self._awaits_pong and self._state == _OPEN:
            self._sockets.dead_count += 1
            self._end(framing.INTERNAL_ERROR, "no answer to a ping")
            # A client that is gone will not read the close frame either, so nothing waits for it.
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()

    # From the transport -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._awaits_pong = False
        if self._reader is None:
            self._ignore(data)
            return
        ping: bytes | None = None
        try:
            for opcode, payload in self._reader.feed(data):
                if opcode == framing.CLOSE:
                    self._take_close(payload)
                elif self._state != _OPEN:
                    self._ignore(payload)
                elif opcode == framing.TEXT:
                    self._take_text(payload)
                elif opcode == framing.BINARY:
                    self._refuse(CloseCode.PROTOCOL_ERROR, "binary messages are not understood")
                else:
                    ping = payload if opcode == framing.PING else ping
                    self._control_count += 1
                    if self._control_count > CONTROL_FRAMES_LIMIT:
                        self._refuse(CloseCode.RATE_LIMITED, "too many control frames and fragments")
                if self._reader is None or self._transport.is_closing():
                    return
        except framing.FramingError as error:
            self._refuse(error.code, error.reason)
            return
        if ping is not None and self._state == _OPEN:
            # Of several the last one is answered. Source: RFC 6455, section 5.5.3.
            self._transport.write(framing.pong_frame(ping))

    def pause_writing(self) -> None:
        """More than the limit is unsent. May be called within the hub's loop over sockets, so nothing is done now."""
        if self._on_overflow is not None and self._state == _OPEN:
            self._sockets.loop.call_soon(self._on_overflow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._stop_timers()
        self._state = _CLOSED
        self._sockets.connections.discard(self)
        self._sockets.open_count -= 1

    def _ignore(self, data: bytes) -> None:
        """Ignore data that arrives after our close frame; stop reading when it is too much."""
        self._control_count += 1 + len(data) // _LATE_BYTES
        if self._control_count > LATE_LIMIT:
            self._hang_up()

    def _hang_up(self) -> None:
        self._reader = None
        if self._state == _CLOSING:
            self._state = _ABORTING
            self._stop_timers()
            self._timer = hang_up(self._transport, self._abort)

    def _take_text(self, payload: bytes) -> None:
        if self._receiver is None:
            return
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self._refuse(framing.INVALID_DATA, "a text message must be UTF-8")
            return
        self._receiver.take_text(text)

    def _take_close(self, payload: bytes) -> None:
        code, _ = framing.close_payload(payload)
        if self._state == _OPEN:
            self._begin_close()
            self._transport.write(framing.close_frame(code))
            self._leave()
        self._transport.close()

    # Closing ----------------------------------------------------------------------------------------------------------

    def _refuse(self, code: int, reason: str) -> None:
        if self._state != _OPEN:
            self._hang_up()
            return
        self._sockets.refused_count += 1
        self._end(code, reason)
        # The rest of the input cannot be parsed: ignore it, and only for a short time.
        self._reader = None
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _end(self, code: int, reason: str) -> None:
        """Close the connection from this side, after its receiver has left."""
        self._leave()
        self.close(code, reason)

    def _begin_close(self) -> None:
        self._state = _CLOSING
        self._control_count = 0
        self._stop_timers()
        self._timer = self._sockets.loop.call_later(self._sockets.abort_after_seconds, self._abort)

    def _stop_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turn is not None and self._sockets.keepalive is not None:
            self._sockets.keepalive.leave(self, self._turn)
            self._turn = None

    def _leave(self) -> None:
        receiver, self._receiver, self._on_overflow = self._receiver, None, None
        if receiver is not None:
            receiver.close()

    def _abort(self) -> None:
        self._sockets.aborted_count += 1
        self._transport.abort()
