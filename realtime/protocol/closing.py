"""
Ends a connection that this side has closed: stops reading, and aborts the connection soon after.

Owns this for an asyncio transport (`hang_up`) and for the connections of other ASGI servers (`send_close`). After a
close frame or an HTTP error, a client may keep sending for ever. A server that keeps reading to find the client's close
frame would waste its time on that client.

ASGI has no event for "stop reading". So the connection is found through the server's `send`: uvicorn's `send` is a
bound method of the connection, and Daphne's is a partial that has the connection as its argument. With any other
server, only the close event is sent.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = ["LINGER_SECONDS", "hang_up", "send_close"]

# How long a closed connection stays open for its last bytes to reach the client. Aborting at once would lose them: a
# socket that is closed with unread data resets the connection.
LINGER_SECONDS: Final = 1.0
# The same, if the last bytes are still in the transport's write buffer.
LINGER_UNSENT_SECONDS: Final = 5.0

type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def hang_up(transport: asyncio.Transport, abort: Callable[[], None] | None = None) -> asyncio.TimerHandle:
    """
    Stop reading, send EOF, and abort the connection soon.

    Args:
        transport: The connection.
        abort: Called instead of the transport's own `abort`.

    Returns:
        The timer that aborts the connection. Cancel it if the connection ends earlier.
    """
    if not transport.is_closing():
        transport.pause_reading()
        if transport.can_write_eof():
            transport.write_eof()
    seconds = LINGER_UNSENT_SECONDS if transport.get_write_buffer_size() else LINGER_SECONDS
    return asyncio.get_running_loop().call_later(seconds, abort or transport.abort)


async def send_close(send: Send, *, code: int, reason: str) -> None:
    """Send the close event of an accepted WebSocket, and make the server stop reading where that is possible."""
    event = {"type": "websocket.close", "code": int(code), "reason": reason}
    connection = _connection_of(send)
    transport: Any = getattr(connection, "transport", None)
    if hasattr(transport, "abortConnection"):
        # Twisted's transport, under Daphne. It still writes what it has buffered.
        transport.pauseProducing()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abortConnection)
        await send(event)
    elif hasattr(transport, "pause_reading") and not hasattr(connection, "detach"):
        # uvicorn. One of its implementations waits in `send` for the client's close frame; another goes on reading.
        if not transport.is_closing():
            transport.pause_reading()
        await send(event)
        hang_up(transport)
    else:
        await send(event)


def _connection_of(send: Any) -> Any:
    """The server's protocol object for the connection; None for an unknown server."""
    if isinstance(send, functools.partial):
        return send.args[0] if send.args else None
    # The first is uvicorn's bound method, the second is our own wrapper (daphne.WaitingSend).
    return getattr(send, "__self__", None) or getattr(send, "connection", None)
