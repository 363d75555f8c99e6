"""
What a sink declares, the registry of sinks, and what a worker gives to a sink's handler.

Owns the base class, and finding each app's sinks. Does not own what the kinds of sinks do (content, rolling) nor their
workers (service).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import redis.asyncio
from asgiref.sync import iscoroutinefunction
from django.db import InterfaceError, OperationalError, close_old_connections

from realtime.exceptions import EntryRejected, Unavailable
from realtime.logs.handler import DEFAULT_STREAM
from realtime.logs.record import RECORD_FIELD, LogRecord, decode_record
from realtime.redis.outage import Outage
from realtime.sinks.storage import Storage
from realtime.streams.entry import Entry

__all__ = ["Sink", "SinkHandler", "Workplace", "all_sinks", "body_of", "called", "record_of", "stored"]

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_RECORD = RECORD_FIELD.encode()

# In order of declaration.
_sinks: list[type["Sink"]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """
    What a handler works with.

    Attributes:
        storage: Where it writes.
        executor: Threads for everything that blocks.
        redis: A client for short commands.
        redis_outage: The state of Redis, shared by all its users in the process.
        files_key: `Keys.written_files` of the group.
        consumer: The name of the worker.
        still_held: `StreamWorker.still_held`.
    """

    storage: Storage
    executor: Executor
    redis: redis.asyncio.Redis
    redis_outage: Outage
    files_key: str
    consumer: str
    still_held: Callable[[Iterable[bytes]], Awaitable[set[bytes]]]


class SinkHandler(Protocol):
    """The handler of one worker; its methods are the callbacks of `StreamWorker`."""

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Do the work of these entries."""

    def on_stop(self) -> None:
        """Come to an end soon."""

    def on_acked(self, entries: Sequence[Entry]) -> None:
        """These entries will not come again."""

    async def close(self) -> None:
        """The worker has ended. What is not done by then is left to others."""


class Sink:
    """
    The base of all sinks: subclass `ContentSink` or `NdjsonSink` in an app's `sinks.py`.

    Attributes:
        url: Where its files go: a directory or a URL of fsspec. A class without one is a common base, and no sink.
        name: Its consumer group, and its name on the command line; by default the name of the class. Redis stores under
            this name which records are done, so it should stay when the class is renamed.
        stream: The stream that it reads.
        queues: Only records with one of these queues; empty for all records.
        storage_options: For fsspec: endpoints and secrets.
        batch_size: The most records that are selected together.
        max_attempts: After so many failed attempts, a record is a dead letter.
        lease_seconds: After this time, others take the records of a worker that died.
    """

    url: ClassVar[str | Path]
    name: ClassVar[str]
    stream: ClassVar[str] = DEFAULT_STREAM
    queues: ClassVar[Sequence[str]] = ()
    storage_options: ClassVar[Mapping[str, Any]] = {}
    batch_size: ClassVar[int] = 100
    max_attempts: ClassVar[int] = 5
    lease_seconds: ClassVar[float] = 30.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "url" not in cls.__dict__:
            return
        cls.name = cls.__dict__.get("name", cls.__name__)
        if not _NAME.fullmatch(cls.name):
            raise ValueError(f"the name of a sink has 1 to 100 letters, digits, '.', '_' and '-', not {cls.name!r}")
        if any(other.name == cls.name and other.stream == cls.stream for other in _sinks):
            raise ValueError(f"two sinks of the stream {cls.stream} have the name {cls.name!r}: set `name` of one")
        _sinks.append(cls)

    def select(self, record: LogRecord) -> bool:
        """
        Whether the sink is for this record. By default it is for all.

        Called for each record, in a thread; it must not have effects. Records that are not selected are done.
        """
        return True

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """The most batches that a worker handles at a time."""
        raise NotImplementedError

    def make_handler(self, workplace: Workplace) -> SinkHandler:
        """The handler of one worker."""
        raise NotImplementedError


def all_sinks() -> Sequence[type[Sink]]:
    """The sinks of all apps, in order of declaration."""
    return tuple(_sinks)


def body_of(entry: Entry) -> bytes:
    """
    The record of an entry, as JSON.

    Raises:
        EntryRejected: It has none.
    """
    try:
        return entry.fields[_RECORD]
    except KeyError:
        raise EntryRejected(f"the entry has no field {RECORD_FIELD!r}") from None


def record_of(entry: Entry) -> LogRecord:
    """
    The record of an entry.

    Raises:
        EntryRejected: It has none.
    """
    try:
        return decode_record(body_of(entry))
    except ValueError as error:
        raise EntryRejected(f"the field {RECORD_FIELD!r} is not a log record: {error}") from error


async def called(function: Callable[..., Any], *arguments: Any, executor: Executor) -> Any:
    """
    The result of a function of the project: an async one runs on the event loop, another one in a thread.

    Raises:
        Unavailable: The database is unavailable.
    """
    try:
        if iscoroutinefunction(function):
            return await function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(executor, _with_connections, function, arguments)
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def _with_connections(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """As Django around a request: a thread would use a connection that the database has closed again and again."""
    close_old_connections()
    try:
        return function(*arguments)
    finally:
        close_old_connections()


async def stored(function: Callable[..., Any], *arguments: Any, executor: Executor) -> Any:
    """
    The result of a method of a storage.

    Raises:
        Unavailable: The storage failed, in whatever way: each backend of fsspec has errors of its own.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
    except Exception as error:
        raise Unavailable(f"the storage failed: {type(error).__name__}: {error}") from error
