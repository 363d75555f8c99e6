"""
`python -m benchmarks.providers.receiver webhook|email PORT KEYS`: an HTTP or SMTP server that takes everything at once.

Owns as much of the two protocols as Signalbox's transports need, and no more: it must not be what limits the bot.
"""

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.providers.keys import KeyLog

__all__ = ["RECEIVERS"]

_ID = re.compile(rb"webhook-id: *(\w+)", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"message-id: *<(\w+)", re.IGNORECASE)


class _Receiver(asyncio.Protocol):
    def __init__(self, log: KeyLog) -> None:
        self._log = log
        # What has come and was not yet answered.
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def _take(self, key: re.Match[bytes] | None) -> None:
        # What has no key is none of ours; it is counted, as a delivery that nobody asked for.
        self._log.note(key[1].decode() if key else "unknown")


class _Http(_Receiver):
    """One request a connection, as the bot has it."""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self._take(_ID.search(head))
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()


class _Smtp(_Receiver):
    """A line, an answer; after DATA everything up to a lone dot."""

    _is_mail = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._transport.write(b"220 benchmark\r\n")

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            part, end, rest = self._data.partition(b"\r\n.\r\n" if self._is_mail else b"\r\n")
            if not end:
                return
            self._data = rest
            self._answer(part)

    def _answer(self, part: bytes) -> None:
        if self._is_mail:
            self._is_mail = False
            self._take(_MESSAGE_ID.search(part))
            self._transport.write(b"250 taken\r\n")
        elif part.upper() == b"DATA":
            self._is_mail = True
            self._transport.write(b"354 go on\r\n")
        elif part.upper() == b"QUIT":
            self._transport.write(b"221 bye\r\n")
            self._transport.close()
        else:
            self._transport.write(b"250 yes\r\n")


# By the name of the transport that calls it.
RECEIVERS: dict[str, Callable[[KeyLog], _Receiver]] = {"webhook": _Http, "email": _Smtp}


async def _serve(name: str, port: int, log: KeyLog) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: RECEIVERS[name](log), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), KeyLog(sys.argv[3])))
