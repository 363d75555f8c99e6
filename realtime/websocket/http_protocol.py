"""
uvicorn's HTTP protocol with deadlines and size limits: `uvicorn --http realtime.server:HttpProtocol …`.

Owns how long a client may take to send a request, how large its head may be, and the answer to a handshake that cannot
become a WebSocket. Uvicorn alone waits for ever for the rest of a request, and does not answer a handshake that its
WebSocket library cannot parse. Does not own what follows a handshake (server).
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.version import version as websockets_version

from realtime.protocol.closing import hang_up

__all__ = ["HttpProtocol"]

# A request whose head has not arrived completely by then is refused.
HEAD_SECONDS: Final = 10.0
# The largest head of a request, all lines together.
HEAD_LIMIT_BYTES: Final = 65_536
# The most headers of a handshake, and the longest path with its query.
HEADERS_LIMIT: Final = 128
PATH_LIMIT_BYTES: Final = 8_192
# The time for a body is this long, and one second longer for each BODY_BYTES_PER_SECOND that have arrived.
BODY_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 500

_HEAD_TOO_LONG: Final = (431, f"The head of a request may have at most {HEAD_LIMIT_BYTES} bytes.")


class HttpProtocol(HttpToolsProtocol):
    """The requests of one connection, until one of them is the handshake of a WebSocket."""

    # Ends the connection if the head of the current request is late; None while no head is being read.
    _deadline: asyncio.TimerHandle | None = None
    # Bytes of that head so far.
    _head_bytes = 0
    # Checks the progress of the current body; None while there is none.
    _body_timer: asyncio.TimerHandle | None = None
    # When that body began, by the event loop's clock, and how many of its bytes have arrived.
    _body_since = 0.0
    _body_bytes = 0
    # HTTP status and text, if the head that was read is refused.
    _problem: tuple[int, str] | None = None
    # Whether the connection is being ended: what arrives is ignored.
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        if self._deadline is None and self.cycle is not None and self.cycle.response_complete and not self._is_in_body:
            # The next request on a connection that was kept alive.
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        if self._deadline is not None:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._become_websocket(data[upgrade.args[0] :])
                return
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self._refuse(*(self._problem or (400, "Invalid HTTP request received.")))
            return
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse(*_HEAD_TOO_LONG)
        elif self._body_timer is None and self._is_in_body:
            self._body_since, self._body_bytes = self.loop.time(), 0
            self._body_timer = self.loop.call_later(BODY_SECONDS, self._check_body)

    def on_headers_complete(self) -> None:
        self._head_read()
        self._problem = self._problem_of_head()
        if self._problem is not None:
            # Ends the parsing: `data_received` gets an HttpParserError.
            raise ValueError(self._problem[1])
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_body_timer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_read()
        self._stop_body_timer()
        super().connection_lost(exc)

    # Handshakes -------------------------------------------------------------------------------------------------------

    def _become_websocket(self, early: bytes) -> None:
        if not hasattr(self.ws_protocol_class, "take_request"):
            # A WebSocket protocol that is not ours: it parses the request again.
            self.handle_websocket_upgrade()
            return
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[misc, call-arg]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        request = Request(
            self.url.decode("ascii"),
            Headers((name.decode("ascii"), _text_of(value)) for name, value in self.headers),
            self.scope["method"],
            f"HTTP/{self.scope['http_version']}",
        )
        protocol.take_request(request, early)

    def _problem_of_head(self) -> tuple[int, str] | None:
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > HEAD_LIMIT_BYTES:
            return _HEAD_TOO_LONG
        if not self.parser.should_upgrade() or not self._should_upgrade():
            return None
        if len(self.headers) > HEADERS_LIMIT:
            return 431, f"The handshake of a WebSocket may have at most {HEADERS_LIMIT} headers."
        if len(self.url) > PATH_LIMIT_BYTES:
            return 414, f"The path and query of a WebSocket may have at most {PATH_LIMIT_BYTES} bytes."
        if not self.url.isascii():
            return 400, "The path of a WebSocket must be ASCII: percent-encode it."
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        ):
            return 400, "The handshake of a WebSocket must not have a body."
        return None

    # Time -------------------------------------------------------------------------------------------------------------

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._head_bytes:
            self._refuse(408, f"The head of a request must arrive within {HEAD_SECONDS:g} seconds.")
        else:
            self.transport.abort()

    @property
    def _is_in_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body

    def _check_body(self) -> None:
        self._body_timer = None
        if not self._is_in_body:
            return
        now = self.loop.time()
        if self.flow.read_paused:
            # The application is not reading, so the client cannot send: restart the measurement.
            self._body_since, self._body_bytes = now, 0
        ends_at = self._body_since + BODY_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND
        if now < ends_at:
            self._body_timer = self.loop.call_at(ends_at, self._check_body)
        elif self.cycle.response_complete:
            self.transport.abort()
        else:
            self._refuse(408, f"The body of a request must arrive within {BODY_SECONDS:g} seconds, unless it is long.")

    def _head_read(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    # Refusals ---------------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, problem: str) -> None:
        """Answer instead of the application, unless it has begun to answer, and end the connection."""
        self._is_refused = True
        self._head_read()
        self._stop_body_timer()
        if self.transport.is_closing():
            return
        self.logger.info("request refused: %s", problem)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = problem.encode()
            head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            head += [*self.server_state.default_headers, (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % line for line in head)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        if self.cycle is not None and not self.cycle.response_complete:
            # Tell the application that the client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        hang_up(self.transport)


def _text_of(value: bytes) -> str:
    """A header's value, decoded as the installed release of websockets does it."""
    if int(websockets_version.partition(".")[0]) >= 17:
        return value.decode("latin-1")
    return value.decode("ascii", "surrogateescape")
