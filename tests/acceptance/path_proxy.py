"""
A reverse proxy that serves a site under a path, and removes the path before it passes a request on.

Owns what nginx does for `location /app/ { proxy_pass http://web/; }`. One request a connection, except WebSockets.
"""

import asyncio
import re
from urllib.parse import urlsplit

from tests.acceptance.tcp_proxy import TcpProxy

__all__ = ["PathProxy"]


class PathProxy(TcpProxy):
    """
    `async with PathProxy("/app", "http://127.0.0.1:8000") as proxy`.

    Attributes:
        url: Where it listens. The site is at `url` + the path, and there is nothing at other paths.
    """

    def __init__(self, path: str, target_url: str) -> None:
        super().__init__()
        self._path = path.encode()
        self._target = urlsplit(target_url)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._hand_on(reader, writer)
        finally:
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
        try:
            await self.copy_both_ways((reader, writer), (far_reader, far_writer))
        finally:
            far_writer.close()
