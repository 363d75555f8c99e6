"""
A reverse proxy that serves a site under a path, and removes the path before it passes a request on.

Owns what nginx does for `location /app/ { proxy_pass http://web/; }`. One request a connection, except WebSockets.
"""

import asyncio
import contextlib
import re
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["PathProxy"]

HEAD_LIMIT_BYTES = 65_536


class PathProxy:
    """
    `async with PathProxy("/app", "http://127.0.0.1:8000") as proxy`.

    Attributes:
        url: Where it listens. The site is at `url` + the path, and there is nothing at other paths.
    """

    def __init__(self, path: str, target_url: str) -> None:
        self._path = path.encode()
        self._target = urlsplit(target_url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=HEAD_LIMIT_BYTES)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._hand_on(reader, writer)
        writer.transport.abort() if writer.transport.get_write_buffer_size() == 0 else writer.close()

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, rest = head.split(b" ", 2)
        if not target.startswith(self._path + b"/"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return await writer.drain()
        if b"\r\nupgrade:" not in rest.lower():
            rest = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"\r\nConnection: close", rest)
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        far_writer.write(b" ".join([method, target.removeprefix(self._path), rest]))
        ways = [asyncio.create_task(self._pump(*way)) for way in ((reader, far_writer), (far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            far_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
