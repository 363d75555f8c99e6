"""
Connections to Redis that close themselves when the server at their other end cannot be used.

Owns which answers say so. Does not own making clients (connections) nor what follows the error (outage).

An open connection outlives the role of its server: after a failover, the old primary refuses each write on it for as
long as it lives, while the address already leads to the new primary. So such an answer closes the connection and counts
as a lost one: it is made anew, and waited for as in any other outage.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import ClusterDownError, InvalidResponse, MasterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["answer_parsed", "checked", "nonsense"]

# And BusyLoadingError, which redis-py itself takes for a lost connection.
_UNUSABLE = (ClusterDownError, MasterDownError, ReadOnlyError)
# What redis-py has no class for; and what the error of a script or a transaction quotes.
_UNUSABLE_TEXT = re.compile(r"(?:^|: -?)(?:READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN) ")
_EXCERPT_LETTERS = 100


def _unusable(error: redis.RedisError) -> RedisConnectionError | None:
    """The error to raise instead if the server cannot be used; None if the connection is as good as before."""
    if isinstance(error, _UNUSABLE):
        # redis-py takes the code off the text.
        return RedisConnectionError(f"{error.status_code} {error}")
    if _UNUSABLE_TEXT.search(str(error)):
        return RedisConnectionError(str(error))
    return None


def _explained(error: redis.ResponseError) -> redis.ResponseError:
    """Every Redis and Valkey that is new enough knows all of our commands; a Sentinel knows next to none."""
    if str(error).lower().startswith("unknown command"):
        return redis.ResponseError(
            f"{error} (is this the port of a Sentinel? It takes no data: give the address of the Redis itself)"
        )
    return error


def nonsense(asked: str, answer: object) -> InvalidResponse:
    """The error for an answer that no Redis gives."""
    return InvalidResponse(f"the answer to {asked} makes no sense: {answer!r:.{_EXCERPT_LETTERS}}; is this a Redis?")


@contextlib.contextmanager
def answer_parsed(asked: str) -> Iterator[None]:
    """Put it around commands whose answers are parsed: what cannot be parsed is `redis.InvalidResponse`."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InvalidResponse(f"the answer to {asked} makes no sense ({error}); is this a Redis?") from error


class _Checked:
    """Before a class of redis-py's sync connections."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except redis.ResponseError as error:
            if (unusable := _unusable(error)) is None:
                raise _explained(error) from None
        self.disconnect()  # type: ignore[attr-defined]
        raise unusable


class _CheckedAsync:
    """Before a class of redis-py's async connections."""

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except redis.ResponseError as error:
            if (unusable := _unusable(error)) is None:
                raise _explained(error) from None
        await self.disconnect(nowait=True)  # type: ignore[attr-defined]
        raise unusable


@functools.cache
def _checked_class(connection_class: type) -> type:
    is_async = issubclass(connection_class, redis.asyncio.connection.AbstractConnection)
    return type(connection_class.__name__, (_CheckedAsync if is_async else _Checked, connection_class), {})


def checked[Pool: (redis.ConnectionPool, redis.asyncio.ConnectionPool)](pool: Pool) -> Pool:
    """
    Let the connections of a pool check what they are answered; call it before the first is made.

    Guarantees:
        An answer that the server cannot be used closes the connection and is a `redis.ConnectionError`. A server that
        cannot answer PING is no Redis: connecting fails.
    """
    pool.connection_class = _checked_class(pool.connection_class)  # type: ignore[arg-type]  # its stub has no hash
    is_async = issubclass(pool.connection_class, _CheckedAsync)
    pool.connection_kwargs["redis_connect_func"] = _greet_async if is_async else _greet
    return pool


def _greet(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("PING", check_health=False)
    try:
        answer = connection.read_response()
    except redis.ResponseError:
        # An access list without PING: a Redis.
        return
    _check_pong(answer)


async def _greet_async(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("PING", check_health=False)
    try:
        answer = await connection.read_response()
    except redis.ResponseError:
        return
    _check_pong(answer)


def _check_pong(answer: object) -> None:
    if answer not in (b"PONG", "PONG"):
        raise RedisConnectionError(str(nonsense("PING", answer)))
