"""
Flow control for Daphne, whose `send` does not wait.

Owns a `send` that waits while too much is unsent. Daphne's own passes everything to Twisted and returns, and Twisted
buffers what a client does not read, without a limit. Other servers wait, as ASGI requires. Does not own how much may be
held behind a send that waits (sinks).
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["WaitingSend", "waiting"]

type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class WaitingSend:
    """
    Daphne's `send`, made to wait while the transport holds more than a limit.

    In Twisted's terms it is a push producer: the transport pauses it, and resumes it when everything has been sent.

    Args:
        send: The server's own `send`.
        protocol: The server's protocol object; `registerProducer` is Autobahn's public interface.
        limit_bytes: How much the transport may hold. Twisted writes nothing before its next turn, so the limit must
            have room for everything that one turn sends to a fast client; Twisted's own 64 KiB are too small.
    """

    __slots__ = ("_send", "_writable", "connection")

    def __init__(self, send: Send, protocol: Any, limit_bytes: int) -> None:
        self._send = send
        # The server's protocol object for the connection.
        self.connection = protocol
        # Set when there is room again; None while there is room.
        self._writable: asyncio.Event | None = None
        # The producer so far was the HTTP channel of the handshake, which has nothing more to write.
        protocol.transport.bufferSize = limit_bytes
        protocol.unregisterProducer()
        protocol.registerProducer(self, True)

    def __call__(self, event: MutableMapping[str, Any]) -> Awaitable[None]:
        return self._send(event) if self._writable is None else self._send_later(self._writable, event)

    async def _send_later(self, writable: asyncio.Event, event: MutableMapping[str, Any]) -> None:
        await writable.wait()
        await self._send(event)

    def release(self) -> None:
        """The connection has ended: sends that wait continue, and the server drops what they send. Idempotent."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # Source: twisted.internet.interfaces.IPushProducer.

    def pauseProducing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()

    def resumeProducing(self) -> None:
        self.release()

    def stopProducing(self) -> None:
        self.release()


def waiting(send: Send, *, limit_bytes: int) -> Send | WaitingSend:
    """Wrap Daphne's `send` in one that waits; the `send` of any other server is returned unchanged."""
    # Daphne's `send` is partial(server.handle_reply, protocol).
    protocol = send.args[0] if isinstance(send, functools.partial) and send.args else None
    if protocol is None or not hasattr(protocol, "registerProducer"):
        return send
    return WaitingSend(send, protocol, limit_bytes)
