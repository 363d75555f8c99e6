"""
A uvicorn with our protocols in the test's own event loop, and clients that speak to it byte by byte.

Owns starting and stopping it. The application detaches each connection and keeps what was said.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import uvicorn
from websockets.frames import Frame, Opcode

from realtime import server as server_module
from realtime.server import EXTENSION, FrameProtocol, HttpProtocol
from realtime.statistics import SocketStatistics
from realtime.websocket.connection import Socket
from tests.support.waiting import wait_until

__all__ = ["HELLO", "Application", "Connection", "RawClient", "count_is", "frame", "serving", "statistics"]

LIMIT_BYTES = 65_536
# A whole text frame of a server.
HELLO = b"\x81\x05hello"
REQUEST = (
    b"GET /ws/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Connection:
    """One detached connection, seen from the application; the receiver of its socket."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.texts: list[str] = []
        self.close_count = 0
        self.overflow_count = 0

    def take_text(self, text: str) -> None:
        self.texts.append(text)

    def close(self) -> None:
        self.close_count += 1

    def overflow(self) -> None:
        self.overflow_count += 1


class Application:
    """
    Accepts and detaches each connection.

    Attributes:
        connections: In the order in which they came.
        on_detached: Called with each; what it raises is the application's failure.
    """

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.on_detached: Callable[[Connection], None] = lambda connection: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        connection = Connection(scope["extensions"][EXTENSION].detach(limit_bytes=LIMIT_BYTES))
        self.connections.append(connection)
        connection.socket.start(connection)
        self.on_detached(connection)


async def count_is(application: Application, count: int) -> None:
    """Wait until the application has detached so many connections."""
    await wait_until(lambda: len(application.connections) == count)


@asynccontextmanager
async def serving(application: Any, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """Serve `application` on `server.port`; stopped as by SIGTERM when left."""
    options = {"ws_ping_interval": None, "ws_max_size": LIMIT_BYTES, "timeout_graceful_shutdown": 3} | options
    config = uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        **{"http": HttpProtocol, "ws": FrameProtocol, "ws_per_message_deflate": False, **options},
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server.port = listener.getsockname()[1]  # type: ignore[attr-defined]
        # Without serve(), which takes the signals of the process.
        task = asyncio.create_task(server._serve([listener]))
        try:
            await wait_until(lambda: server.started)
            yield server
        finally:
            server.should_exit = True
            await task


def statistics(server: uvicorn.Server) -> SocketStatistics:
    """Of the sockets of one server, which has had at least one."""
    return server_module._server_sockets[server.server_state].statistics()


def frame(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame."""
    return Frame(Opcode(opcode), data, fin=fin).serialize(mask=True)


class RawClient:
    """A client that answers nothing by itself, and sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, receive_bytes: int | None = None) -> Self:
        """Open a TCP connection; with a small buffer, one that is soon full."""
        plain = socket.socket()
        if receive_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=plain, limit=4096))

    @classmethod
    async def open(cls, port: int, *, receive_bytes: int | None = None) -> Self:
        """Open a WebSocket."""
        client = await cls.connect(port, receive_bytes=receive_bytes)
        await client.send(REQUEST)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.abort()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload."""
        async with asyncio.timeout(60):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """The code of the close frame that comes, whatever comes before it."""
        while True:
            opcode, data = await self.receive()
            if opcode == Opcode.CLOSE:
                return int.from_bytes(data[:2])

    async def end(self) -> bytes:
        """Wait until the server has closed the connection; returns what it has sent before."""
        received = b""
        async with asyncio.timeout(60):
            with suppress(ConnectionResetError):
                while part := await self.reader.read(65_536):
                    received += part
        return received

    def abort(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()
