"""
Reads Redis replies as fast as they arrive: a hiredis parser directly on the socket.

Owns taking over a connection that redis-py has opened and authenticated. redis-py's own reading costs 12 µs per reply
(a coroutine, two timeouts and a lock each), more than all other work for a unicast message.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import hiredis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

from realtime.redis.connection_checks import unexpected

__all__ = ["ReplyStream"]


class ReplyStream(asyncio.Protocol):
    """
    One Redis connection that passes every reply to a callback; commands are written without waiting.

    Args:
        on_reply: Called with each reply, in order. Replies about subscriptions are always lists.
        on_drained: Called after the last reply of each read, when nothing more is buffered.

    Guarantees:
        When the connection is lost, the future `lost` gets the reason as its exception.
    """

    def __init__(self, *, on_reply: Callable[[Any], None], on_drained: Callable[[], None]) -> None:
        self._on_reply, self._on_drained = on_reply, on_drained
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._transport: asyncio.Transport | None = None
        self._connection: AbstractConnection | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, client: redis.asyncio.Redis) -> None:
        """
        Open a connection as `client` would (TLS, password, Sentinel, …) and take it over.

        Raises:
            redis.exceptions.RedisError, OSError: It could not be opened.
        """
        connection = cast(AbstractConnection, client.connection_pool.make_connection())  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            # redis-py has no public access to its transport. Nothing is pending on it: each answer of the handshake
            # has been read.
            self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # Kept alive: when it is garbage-collected, it closes the transport.
        self._connection = connection
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def send(self, *arguments: bytes) -> None:
        """Write one command."""
        assert self._transport is not None, "open() first"  # noqa: S101 - a mistake of the caller, not a condition
        self._transport.write(hiredis.pack_command(arguments))  # type: ignore[arg-type]  # its stub takes one only

    async def close(self) -> None:
        """Close at once; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._abort()
            await connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not Ellipsis:
                if type(reply) is not list:
                    is_error = isinstance(reply, hiredis.ReplyError)
                    raise ResponseError(str(reply)) if is_error else unexpected("a subscription", reply)
                self._on_reply(reply)
        except (ResponseError, InvalidResponse) as error:
            self._end(error)
        except hiredis.ProtocolError as error:
            self._end(InvalidResponse(str(error)))
        finally:
            self._on_drained()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("Redis closed the connection"))

    def _end(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)
            # Its owner may be gone already.
            self.lost.exception()
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
