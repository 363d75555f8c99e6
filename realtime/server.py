"""
The fast way from the hub to a socket, on uvicorn: `uvicorn --ws realtime.server:FrameProtocol …`.

Owns the handshake: uvicorn's sans-I/O protocol answers it, and when the application has accepted, the connection can be
detached: from then on it is a `sockets.Socket`, and all that served the handshake is forgotten. An application that
does not detach is served as by uvicorn itself, and ours runs on every other ASGI server too (sinks.AsgiSink).

`HttpProtocol` ends connections that never finish a request; uvicorn waits for them for ever.
"""

import asyncio
import weakref
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from realtime.framing import INTERNAL_ERROR
from realtime.keepalive import Keepalive
from realtime.sockets import Socket, SocketHome, SocketStatistics

__all__ = ["EXTENSION", "FrameProtocol", "HttpProtocol", "statistics"]

# What the application finds in scope["extensions"]: an object with `detach`.
EXTENSION: Final = "signalbox.frames"
# A request whose head is not there by then, or a handshake that the application has not answered, is ended.
HANDSHAKE_SECONDS: Final = 10.0
# The head of a request; longer, and it is refused.
HEAD_LIMIT_BYTES: Final = 65_536
DEFAULT_GRACE_SECONDS: Final = 10.0

_homes: weakref.WeakKeyDictionary[ServerState, SocketHome] = weakref.WeakKeyDictionary()


def statistics() -> list[SocketStatistics]:
    """Of each server of this process: in practice of one."""
    return [home.statistics() for home in _homes.values()]


class FrameProtocol(WebSocketsSansIOProtocol):
    """The handshake of one WebSocket connection, and all of it if the application does not detach it."""

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any], **options: Any) -> None:
        super().__init__(config, server_state, app_state, **options)
        self._server_state = server_state
        # What has become of the connection, once it is detached.
        self._socket: Socket | None = None
        # Ends a handshake that is not answered; None once it is.
        self._deadline: asyncio.TimerHandle | None = None

    def detach(self, *, limit_bytes: int) -> Socket:
        """
        Take the connection out of ASGI's hands: what the client says goes to the receiver that `Socket.start` is given.
        To be called once, directly after `websocket.accept` was sent. The application may return afterwards.

        Args:
            limit_bytes: The largest message that the client may send; `ws_max_size`, if that is less.

        Raises:
            OSError: The client has gone.
        """
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        self.stop_keepalive()
        self.connections.discard(self)
        socket = self._socket = Socket(
            self.transport, self._home(), limit_bytes=min(limit_bytes, self.config.ws_max_size)
        )
        self.transport.set_protocol(socket)
        # The parser refers to itself: without this, all of it would wait for the garbage collector.
        self.conn.parser = self.scope = self.request = self.response = None  # type: ignore[assignment]
        return socket

    def _home(self) -> SocketHome:
        home = _homes.get(self._server_state)
        if home is None:
            keepalive = None
            if self.config.ws_ping_interval:
                keepalive = Keepalive(self.loop, self.config.ws_ping_interval, self.config.ws_ping_timeout)
            home = _homes[self._server_state] = SocketHome(
                loop=self.loop,
                connections=self.connections,
                keepalive=keepalive,
                grace_seconds=self.config.timeout_graceful_shutdown or DEFAULT_GRACE_SECONDS,
            )
        return home

    # As the parent, but … ---------------------------------------------------------------------------------------------

    def handle_connect(self, event: Any) -> None:
        """… offers the extension, where no compression was agreed on, and does not wait for an answer for ever."""
        super().handle_connect(event)
        if not self.close_sent:
            if not self.conn.extensions:
                self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]
            self._deadline = self.loop.call_later(HANDSHAKE_SECONDS, self._give_up)

    def start_keepalive(self) -> None:
        """… reads nothing after accept before it is known who reads: it is detached, or the application receives."""
        self._answered()
        super().start_keepalive()
        self.read_paused = True
        self.transport.pause_reading()

    async def receive(self) -> Any:
        """… begins to read."""
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return await super().receive()

    def data_received(self, data: bytes) -> None:
        """… ends a connection that speaks before the handshake is answered; no client may."""
        if self.handshake_initiated and not self.handshake_complete:
            self.transport.abort()
            return
        super().data_received(data)

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


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with a deadline and a limit for the head of each request: `uvicorn --http …`."""

    # Ends the connection if the head that is being read is not whole by then.
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HANDSHAKE_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.cycle is not None and self.cycle.response_complete:
            # The next request on a connection that was kept alive.
            self._deadline = self.loop.call_later(HANDSHAKE_SECONDS, self.transport.abort)
        if self._deadline is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        self._head_read()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_read()
        super().connection_lost(exc)

    def _head_read(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
