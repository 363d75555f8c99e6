"""
The last moments of a connection that this side has closed: nothing more is read, and soon it is cut.

Owns that for a transport of asyncio (`hang_up`), and for the connections of other servers (`send_close`). After a close
frame, or an HTTP error, the client may send what it likes for as long as it likes. A server that goes on reading, to
find the client's answer in it, works for that client alone.

ASGI has no way to say "read no more", so the connection is looked for behind another server's `send`: uvicorn's is a
method of it, Daphne's has it as an argument. Any other server's `send` is used as it is.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = ["LINGER_SECONDS", "hang_up", "send_close"]

# How long the last words may be on their way to the client. Cut at once, it would lose them: a socket that is closed
# with something unread resets the connection.
LINGER_SECONDS: Final = 1.0
# The same where not even our own side of the network has taken them yet.
LINGER_UNSENT_SECONDS: Final = 5.0

type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def hang_up(transport: asyncio.Transport, cut: Callable[[], None] | None = None) -> asyncio.TimerHandle:
    """
    Read nothing more, tell the client by the end of the stream that nothing more comes, and cut it soon.

    Args:
        cut: Called instead of the transport's own `abort`.

    Returns:
        The timer that cuts it; to be cancelled if the connection ends before.
    """
    if not transport.is_closing():
        transport.pause_reading()
        if transport.can_write_eof():
            transport.write_eof()
    seconds = LINGER_UNSENT_SECONDS if transport.get_write_buffer_size() else LINGER_SECONDS
    return asyncio.get_running_loop().call_later(seconds, cut or transport.abort)


async def send_close(send: Send, *, code: int, reason: str) -> None:
    """Send the close event of an accepted WebSocket, and have the server read nothing more where that is possible."""
    event = {"type": "websocket.close", "code": int(code), "reason": reason}
    connection = _connection_of(send)
    transport: Any = getattr(connection, "transport", None)
    if hasattr(transport, "abortConnection"):
        # Twisted's; what it holds is still written.
        transport.pauseProducing()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abortConnection)
        await send(event)
    elif hasattr(transport, "pause_reading") and not hasattr(connection, "detach"):
        # uvicorn's. One of its implementations waits in `send` for the client's answer, another one reads on after it.
        if not transport.is_closing():
            transport.pause_reading()
        await send(event)
        hang_up(transport)
    else:
        await send(event)


def _connection_of(send: Any) -> Any:
    """The server's object for the connection; None if it is not known where that is."""
    if isinstance(send, functools.partial):
        return send.args[0] if send.args else None
    # The second is our own wrapper's (backpressure).
    return getattr(send, "__self__", None) or getattr(send, "connection", None)
