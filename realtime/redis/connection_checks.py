"""
Connections to Redis that close themselves when their server cannot be used, for example after a failover.

Owns which replies mean that a server cannot be used, and the packing of commands. Does not own creating clients
(clients) nor handling the error (outage).

A connection may stay open while its server becomes a replica. The server then refuses every write on this connection,
although the address already leads to the new primary. So such a reply closes the connection and is raised as a lost
connection: the client connects again, and waits as in any other outage.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.connection import HiredisRespSerializer
from redis.exceptions import ClusterDownError, InvalidResponse, MasterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["BeforeTexts", "answer_parsed", "checked", "unexpected"]

# Errors that mean that the server cannot be used. redis-py's BusyLoadingError is a ConnectionError already.
_UNUSABLE = (ClusterDownError, MasterDownError, ReadOnlyError)
# The same errors where redis-py has no class for them, or where the error of a script or a transaction quotes them.
_UNUSABLE_TEXT = re.compile(r"(?:^|: -?)(?:READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN) ")
_EXCERPT_LETTERS = 100
# What hiredis packs without calling Python.
_TEXTS = {str, bytes}
# Raises DataError for a value that cannot be sent.
_CHECKING_PACKER: Any = HiredisRespSerializer()


def _unusable(error: redis.RedisError) -> RedisConnectionError | None:
    """The connection error to raise instead, if the server cannot be used; None if the connection can be kept."""
    if isinstance(error, _UNUSABLE):
        # redis-py removes the error code from the text.
        return RedisConnectionError(f"{error.status_code} {error}")
    if _UNUSABLE_TEXT.search(str(error)):
        return RedisConnectionError(str(error))
    return None


def _explained(error: redis.ResponseError) -> redis.ResponseError:
    """Add a hint to "unknown command": any supported Redis or Valkey knows our commands, but a Sentinel does not."""
    if str(error).lower().startswith("unknown command"):
        return redis.ResponseError(
            f"{error} (is this the port of a Sentinel? A Sentinel stores no data: give the address of the Redis server)"
        )
    return error


def unexpected(asked: str, answer: object) -> InvalidResponse:
    """The error for a reply that no Redis would give to this command."""
    return InvalidResponse(
        f"the answer to {asked} is not one of Redis: {answer!r:.{_EXCERPT_LETTERS}}; is this a Redis server?"
    )


@contextlib.contextmanager
def answer_parsed(asked: str) -> Iterator[None]:
    """Wrap commands whose replies are parsed: a reply that cannot be parsed raises `redis.InvalidResponse`."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InvalidResponse(
            f"the answer to {asked} is not one of Redis ({error}); is this a Redis server?"
        ) from error


class BeforeTexts(str):
    """
    As the first argument of a command: all that follow are str or bytes, and the packer does not look at their types.

    For commands with hundreds of arguments, where this would be a third of the time that packing takes.
    """

    __slots__ = ()


class _Packer:
    """
    Packs commands in C, for the sync and async connections of redis-py.

    redis-py packs the commands of its async connections in Python, which takes several times as long for a command of
    many arguments. Those of its sync ones it packs in C too; newer versions first check the type of each argument.

    Guarantees:
        hiredis gets no numbers. It calls their `repr()` without a check for failure, and a signal handler that raises
        there, as Ctrl-C does, ends the process with a segmentation fault (hiredis 3.5.0).
    """

    def pack(self, command: str | bytes, *arguments: Any) -> list[bytes]:
        """One command as bytes; raises redis.DataError for a value that cannot be sent."""
        is_known = arguments and type(arguments[0]) is BeforeTexts
        if not is_known and not _TEXTS.issuperset(map(type, arguments)):
            arguments = tuple([value if type(value) in _TEXTS else _number_as_text(value) for value in arguments])
        try:
            # A command may have several words: "SCRIPT LOAD".
            return [hiredis.pack_command((*command.split(), *arguments))]
        except TypeError:
            packed: list[bytes] = _CHECKING_PACKER.pack(command, *arguments)
            return packed


def _number_as_text(value: Any) -> Any:
    """The text of a number; anything else unchanged."""
    return repr(value) if type(value) is int or isinstance(value, float) else value


_PACKER = _Packer()


class _Checked:
    """A mixin for redis-py's sync connection classes: checks each reply."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except redis.ResponseError as error:
            if (unusable := _unusable(error)) is None:
                raise _explained(error) from None
        self.disconnect()  # type: ignore[attr-defined]
        raise unusable


class _CheckedAsync:
    """A mixin for redis-py's async connection classes: checks each reply, and packs commands in C."""

    def pack_command(self, *command: Any) -> list[bytes]:
        return _PACKER.pack(*command)

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
    Make the connections of a pool check each reply. Call it before the pool makes its first connection.

    Guarantees:
        A reply which means that the server cannot be used closes the connection and raises `redis.ConnectionError`. If
        the reply to PING is not one that Redis gives, connecting fails.
    """
    pool.connection_class = _checked_class(pool.connection_class)  # type: ignore[arg-type]  # its stub has no hash
    is_async = issubclass(pool.connection_class, _CheckedAsync)
    pool.connection_kwargs["redis_connect_func"] = _greet_async if is_async else _greet
    if not is_async:
        pool.connection_kwargs["command_packer"] = _PACKER
    return pool


def _greet(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("PING", check_health=False)
    try:
        answer = connection.read_response()
    except redis.ResponseError:
        # An error reply is fine, for example from an ACL that forbids PING: only a Redis gives it.
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
        raise RedisConnectionError(str(unexpected("PING", answer)))
