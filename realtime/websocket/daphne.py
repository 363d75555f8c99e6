"""
A `send` that waits where the web server's own does not.

Owns the flow control of one connection on Daphne: its `send` hands everything to Twisted and returns, and Twisted holds
what a client does not read, without a limit. Other servers wait by themselves, as ASGI has it. How much may be held
behind a send that waits is the sink's (sinks).
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["WaitingSend", "waiting"]

type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class WaitingSend:
    """
    Daphne's `send`, which waits while the transport holds more than a limit.

    A push producer in Twisted's words: the transport tells it when to pause, and to go on when all has been sent.

    Args:
        send: The server's own.
        protocol: The connection, from the server: `registerProducer` is Autobahn's public interface.
        limit_bytes: What the transport may hold. Twisted writes nothing before its next turn, so that this has room for
            all that one turn brings to a client which is not slow at all; Twisted's own 64 KiB have not.
    """

    __slots__ = ("_send", "_writable", "connection")

    def __init__(self, send: Send, protocol: Any, limit_bytes: int) -> None:
        self._send = send
        # The server's protocol object for the connection.
        self.connection = protocol
        # Set when there is room again; None while there is.
        self._writable: asyncio.Event | None = None
        # Until now it was the HTTP channel that the connection began as, which has nothing more to write.
        protocol.transport.bufferSize = limit_bytes
        protocol.unregisterProducer()
        protocol.registerProducer(self, True)

    def __call__(self, event: MutableMapping[str, Any]) -> Awaitable[None]:
        return self._send(event) if self._writable is None else self._send_later(self._writable, event)

    async def _send_later(self, writable: asyncio.Event, event: MutableMapping[str, Any]) -> None:
        await writable.wait()
        await self._send(event)

    def release(self) -> None:
        """The connection is over: whoever waits goes on, and what is sent is dropped by the server. Idempotent."""
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
    """Make Daphne's `send` one that waits; any other server's is given back as it is."""
    # Daphne hands the application partial(server.handle_reply, protocol).
    protocol = send.args[0] if isinstance(send, functools.partial) and send.args else None
    if protocol is None or not hasattr(protocol, "registerProducer"):
        return send
    return WaitingSend(send, protocol, limit_bytes)
