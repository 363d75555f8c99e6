"""
The fast path from the hub to a socket, on uvicorn: `uvicorn --ws realtime.server:FrameProtocol …`.

Owns the handshake. uvicorn's sans-I/O protocol answers it. Once the application has accepted, it can detach the
connection: from then on the connection is a `Socket`, and everything that served the handshake is freed. An application
that does not detach is served by uvicorn as usual until it closes; a Socket then ends the connection. Our own
application also runs on every other ASGI server (sinks.AsgiSink).

Does not own HTTP requests: `HttpProtocol` is exported here, and lives in `realtime.websocket.http_protocol`.
"""

import asyncio
import weakref
from typing import Any, Final

from realtime.extras import extra
from realtime.protocol.closing import hang_up
from realtime.websocket.keepalive import Keepalive

with extra("server"):
    from uvicorn.protocols.utils import ClientDisconnected
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from uvicorn.server import ServerState
    from websockets.http11 import Request

    from realtime.websocket.connection import ServerSockets, Socket
    from realtime.websocket.framing import INTERNAL_ERROR
    from realtime.websocket.http_protocol import HttpProtocol

__all__ = ["EXTENSION", "FrameProtocol", "HttpProtocol"]

# The key in scope["extensions"] under which the application finds an object with `detach`.
EXTENSION: Final = "signalbox.frames"
# A connection whose handshake the application has not answered by then is aborted.
HANDSHAKE_SECONDS: Final = 10.0
# The most that a client may send before its handshake is answered.
EARLY_LIMIT_BYTES: Final = 65_536
DEFAULT_GRACE_SECONDS: Final = 10.0

_server_sockets: weakref.WeakKeyDictionary[ServerState, ServerSockets] = weakref.WeakKeyDictionary()


class FrameProtocol(WebSocketsSansIOProtocol):
    """The handshake of one WebSocket connection, and all of it if the application does not detach it."""

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any], **options: Any) -> None:
        super().__init__(config, server_state, app_state, **options)
        self._server_state = server_state
        # The connection, once it is detached.
        self._socket: Socket | None = None
        # What the client sent before its handshake was answered.
        self._early = b""
        # Aborts a handshake that is not answered in time; None once it is answered.
        self._deadline: asyncio.TimerHandle | None = None

    def detach(self, *, limit_bytes: int) -> Socket:
        """
        Take the connection over from ASGI. What the client sends then goes to the receiver given to `Socket.start`.
        Call it once, right after sending `websocket.accept`. The application may return afterwards.

        Args:
            limit_bytes: The largest message that the client may send; uvicorn's `ws_max_size` applies if it is smaller.

        Raises:
            OSError: The client has gone.
        """
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        return self._become_socket(min(limit_bytes, self.config.ws_max_size))

    def take_request(self, request: Request, early: bytes) -> None:
        """Begin with a handshake that was parsed already, and with the bytes that the client sent after it."""
        self._early = early
        self.handle_connect(request)

    def _become_socket(self, limit_bytes: int) -> Socket:
        self.stop_keepalive()
        self.connections.discard(self)
        socket = self._socket = Socket(self.transport, self._sockets(), limit_bytes=limit_bytes, early=self._early)
        self._early = b""
        self.transport.set_protocol(socket)
        # The parser refers to itself: without this, these objects would live until the next garbage collection.
        self.conn.parser = self.scope = self.request = self.response = None  # type: ignore[assignment]
        return socket

    def _sockets(self) -> ServerSockets:
        sockets = _server_sockets.get(self._server_state)
        if sockets is None:
            keepalive = None
            if self.config.ws_ping_interval:
                keepalive = Keepalive(self.loop, self.config.ws_ping_interval, self.config.ws_ping_timeout)
            sockets = _server_sockets[self._server_state] = ServerSockets(
                loop=self.loop,
                connections=self.connections,
                keepalive=keepalive,
                grace_seconds=self.config.timeout_graceful_shutdown or DEFAULT_GRACE_SECONDS,
            )
        return sockets

    # As the parent, but … ---------------------------------------------------------------------------------------------

    def handle_connect(self, event: Any) -> None:
        """… offers the extension unless compression was negotiated, and sets a deadline for the answer."""
        super().handle_connect(event)
        if not self.close_sent:
            if not self.conn.extensions:
                self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]
            self._deadline = self.loop.call_later(HANDSHAKE_SECONDS, self._give_up)

    def start_keepalive(self) -> None:
        """… reads nothing after accept until the connection is detached or the application calls `receive`."""
        self._answered()
        super().start_keepalive()
        self.read_paused = True
        self.transport.pause_reading()
        # After `take_request`, the parser still waits for a request: restart it for frames.
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)

    async def receive(self) -> Any:
        """… resumes reading."""
        if self._early and self.handshake_complete and not self.disconnected:
            early, self._early = self._early, b""
            super().data_received(early)
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return await super().receive()

    async def send(self, message: Any) -> None:
        """… hands a connection that the application closes to a Socket, which ignores what the client still sends."""
        is_last = message["type"] == "websocket.close" and self.handshake_complete and not self.close_sent
        if not is_last or self.disconnected or self.transport.is_closing():
            await super().send(message)
            return
        code, reason = message.get("code") or 1000, message.get("reason") or ""
        self.close_sent = self.disconnected = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        # Wakes tasks that wait to send, so that they notice the close.
        self.writable.set()
        socket = self._become_socket(self.config.ws_max_size)
        socket.close(code, reason)
        socket.start(None)

    def data_received(self, data: bytes) -> None:
        """… keeps what arrives before the handshake is answered, and answers requests that it cannot parse."""
        if self.handshake_initiated and not self.handshake_complete:
            self._early += data
            if len(self._early) > EARLY_LIMIT_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if not self.handshake_initiated and not self.close_sent and self.conn.handshake_exc is not None:
            self.close_sent = True
            # The library answers requests that are too long, but no others.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(
                answer or self.conn.reject(400, "This is not the handshake of a WebSocket.\n").serialize()
            )
            hang_up(self.transport)

    async def run_asgi(self) -> None:
        """… leaves a detached connection open."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            self.logger.exception("Exception in ASGI application\n")
            if self._socket is not None:
                self._socket.close(INTERNAL_ERROR, "the server failed")
        if self._socket is not None:
            if not self._socket.is_started:
                self._socket.close(INTERNAL_ERROR, "the server failed")
            return
        if not self.handshake_complete:
            self.send_500_response()
        if self.close_timer is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered()
        super().connection_lost(exc)

    def _answered(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.abort()
