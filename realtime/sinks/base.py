"""
What all sinks have in common: their declaration, their registry, and what a worker expects of them.

Owns the base class, the registry, and reading the record of an entry. Does not own what each kind of sink does
(content, rolling) nor the workers (service).
"""

import asyncio
import contextvars
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
from realtime.logs.record import LogRecord, decode_record
from realtime.logs.stream import DEFAULT_STREAM, RECORD_FIELD
from realtime.redis.outage import Outage
from realtime.sinks.storage import Storage
from realtime.streams.entry import Entry

__all__ = [
    "WAITED_FOR",
    "Sink",
    "SinkHandler",
    "SinkResources",
    "all_sinks",
    "body_of",
    "call_in_thread",
    "call_project",
    "call_storage",
    "is_selected",
    "record_of",
]

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_RECORD = RECORD_FIELD.encode()
_NO_KIND = "{} is no kind of sink: subclass ContentSink or NdjsonSink"

# The errors of the project's functions that are waited for, without counting an attempt.
WAITED_FOR = (Unavailable, OperationalError, InterfaceError)

# All declared sinks, in order of declaration.
_sinks: list[type["Sink"]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkResources:
    """
    What the handler of a worker uses.

    Attributes:
        storage: Where it writes.
        executor: Threads for everything that blocks.
        redis: A client for short commands (`clients.async_publisher`).
        redis_outage: The state of Redis, shared by all its users in the process.
        files_key: `Keys.written_files` of the sink's consumer group.
        consumer: The name of the worker in that group.
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
    """The handler of one worker. All methods but `close` are the callbacks of `StreamWorker`."""

    async def handle(self, entries: Sequence[Entry]) -> None:
        """
        Write the selected records of these entries.

        Raises:
            Unavailable: The storage, or something that the project needs, is unavailable.
            EntriesFailed: These entries failed; all others are done.

        Guarantees:
            When it returns, the files of all these records are durable.
        """

    def on_stop(self) -> None:
        """Called when the worker stops: finish the running calls soon."""

    def on_acked(self, entries: Sequence[Entry]) -> None:
        """Called when Redis has confirmed the ack of entries: no worker gets them again."""

    async def close(self) -> None:
        """Called when the worker has ended: cancel what still runs."""


class Sink:
    """
    The base of all sinks: subclass `ContentSink` or `NdjsonSink` in an app's `sinks.py`.

    Attributes:
        url: Where its files go: a directory or a URL of fsspec. A class that sets none itself is not a sink, but a base
            for others.
        name: Its name on the command line, and its consumer group; by default the name of the class. Redis stores under
            this name which records are done. If you rename the class, keep the name.
        stream: The stream that it reads.
        queues: It gets only records with one of these queues; if empty, all records.
        storage_options: Endpoints and secrets for fsspec.
        batch_size: The most records that are read and selected together.
        max_attempts: A record that fails this many times is a dead letter.
        lease_seconds: When a worker dies, others take over its records after this time.
    """

    url: ClassVar[str | Path]
    name: ClassVar[str]
    stream: ClassVar[str] = DEFAULT_STREAM
    queues: ClassVar[Sequence[str]] = ()
    storage_options: ClassVar[Mapping[str, Any]] = {}
    batch_size: ClassVar[int] = 100
    max_attempts: ClassVar[int] = 5
    lease_seconds: ClassVar[float] = 30.0
    # The methods that are called in a thread, many times in a row, and so cannot be async.
    _sync_methods: ClassVar[Sequence[str]] = ("select",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls._sync_methods:
            if iscoroutinefunction(getattr(cls, name)):
                raise TypeError(f"{cls.__name__}.{name}() is async, but it is called in a thread: define it with `def`")
        if "url" not in cls.__dict__:
            return
        cls.name = cls.__dict__.get("name", cls.__name__)
        cls._check_declaration()
        if not _NAME.fullmatch(cls.name):
            raise ValueError(
                f"a sink cannot have the name {cls.name!r}: use 1 to 100 letters, digits, '.', '_' and '-'"
            )
        if any(other.name == cls.name and other.stream == cls.stream for other in _sinks):
            raise ValueError(f"two sinks of the stream {cls.stream} have the name {cls.name!r}: set `name` of one")
        _sinks.append(cls)

    @classmethod
    def _check_declaration(cls) -> None:
        """
        Check what the class of a sink declares, apart from its name.

        Raises:
            TypeError: An attribute has a wrong type, or a method is missing.
            ValueError: An attribute has a wrong value.
        """
        if isinstance(cls.queues, str):
            raise TypeError(f"{cls.__name__}.queues is a str: write a tuple, ({cls.queues!r},)")

    @classmethod
    def _check_overridden(cls, base: "type[Sink]", *methods: str) -> None:
        for name in methods:
            if getattr(cls, name) is getattr(base, name):
                raise TypeError(f"{cls.__name__} has no {name}(): a {base.__name__} must define it")

    def select(self, record: LogRecord) -> bool:
        """
        Whether the sink wants this record. By default it wants all.

        Called in a thread, for each record of the sink's `queues`. It must have no effects, because it may be called
        several times for a record. Records that are not selected are acked.
        """
        return True

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """The most batches that a worker handles at a time."""
        raise NotImplementedError(_NO_KIND.format(type(self).__name__))

    def make_handler(self, resources: SinkResources) -> SinkHandler:
        """
        Make the handler of one worker.

        Raises:
            ExtraMissing: A library that the sink needs is not installed.
        """
        raise NotImplementedError(_NO_KIND.format(type(self).__name__))


def all_sinks() -> Sequence[type[Sink]]:
    """The sinks of all apps, in order of declaration."""
    return tuple(_sinks)


def body_of(entry: Entry) -> bytes:
    """
    The JSON of an entry's record.

    Raises:
        EntryRejected: The entry has no such field.
    """
    try:
        return entry.fields[_RECORD]
    except KeyError:
        raise EntryRejected(f"the entry has no field {RECORD_FIELD!r}") from None


def record_of(entry: Entry) -> LogRecord:
    """
    The record of an entry.

    Raises:
        EntryRejected: The entry has no record, or a malformed one.
    """
    try:
        return decode_record(body_of(entry))
    except ValueError as error:
        raise EntryRejected(f"the field {RECORD_FIELD!r} is not a log record: {error}") from error


def is_selected(sink: Sink, record: LogRecord) -> bool:
    """Whether a record has one of the sink's queues, and its `select` returns True. Runs in a thread."""
    return (not sink.queues or record.queue in sink.queues) and sink.select(record)


async def call_in_thread[T](function: Callable[..., T], *arguments: Any, executor: Executor) -> T:
    """Call a function in a thread, with the context of the caller: what it logs is known to be a sink's."""
    call = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(executor, call, function, *arguments)


async def call_project(function: Callable[..., Any], *arguments: Any, executor: Executor) -> Any:
    """
    Call a function of the project: on the event loop if it is async, otherwise in a thread.

    Raises:
        Unavailable: The database is unavailable.
    """
    try:
        if iscoroutinefunction(function):
            return await function(*arguments)
        return await call_in_thread(_with_connections, function, arguments, executor=executor)
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def _with_connections(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    # As Django does around a request: otherwise, the thread would use a connection that the database has closed.
    close_old_connections()
    try:
        return function(*arguments)
    finally:
        close_old_connections()


async def call_storage(function: Callable[..., Any], *arguments: Any, executor: Executor) -> Any:
    """
    Call a method of a storage in a thread.

    Raises:
        Unavailable: The method failed with any error, because each backend of fsspec has its own errors.
    """
    try:
        return await call_in_thread(function, *arguments, executor=executor)
    except Exception as error:
        raise Unavailable(f"the storage failed: {type(error).__name__}: {error}") from error
