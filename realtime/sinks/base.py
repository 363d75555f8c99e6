"""
What a sink declares, and the registry of sinks.

Owns the base class, and finding each app's sinks. Does not own what the kinds of sinks do (content, rolling) nor their
workers (service).
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction

from realtime.exceptions import PermanentError
from realtime.logs.handler import DEFAULT_STREAM
from realtime.logs.record import RECORD_FIELD, LogRecord, decode_record
from realtime.streams.entry import Entry

__all__ = ["Sink", "all_sinks"]

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_RECORD = RECORD_FIELD.encode()

# In order of declaration.
_sinks: list[type["Sink"]] = []


class Sink:
    """
    The base of all sinks: subclass `ContentSink` or `NdjsonSink` in an app's `sinks.py`.

    Attributes:
        url: Where its files go: a directory or a URL of fsspec. A class without one is a common base, and no sink.
        name: Its consumer group, and its name on the command line; by default the name of the class. The entries that
            it has not finished are stored under this name, so it stays when the class is renamed.
        stream: The stream that it reads.
        queues: Only records with one of these queues; empty for all records.
        storage_options: For fsspec: endpoints and secrets.
        batch_size: The most records that are selected together.
        concurrency: The most batches at a time, in each worker.
        max_attempts: After so many failed attempts a record is a dead letter.
        lease_seconds: After this time, others take the records of a worker that died.
    """

    url: ClassVar[str | Path]
    name: ClassVar[str]
    stream: ClassVar[str] = DEFAULT_STREAM
    queues: ClassVar[Sequence[str]] = ()
    storage_options: ClassVar[Mapping[str, Any]] = {}
    batch_size: ClassVar[int] = 100
    concurrency: ClassVar[int] = 4
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

    def selected(self, entries: Sequence[Entry]) -> list[tuple[Entry, LogRecord]]:
        """
        The entries that the sink is for, with their records.

        Raises:
            PermanentError: An entry has no record.
        """
        queues, select = frozenset(self.queues), self.select
        found = [(entry, _record_of(entry)) for entry in entries]
        return [pair for pair in found if (not queues or pair[1].queue in queues) and select(pair[1])]


def all_sinks() -> Sequence[type[Sink]]:
    """The sinks of all apps, in order of declaration."""
    return tuple(_sinks)


def _record_of(entry: Entry) -> LogRecord:
    try:
        return decode_record(entry.fields[_RECORD])
    except KeyError:
        raise PermanentError(f"the entry has no field {RECORD_FIELD!r}") from None
    except ValueError as error:
        raise PermanentError(f"the field {RECORD_FIELD!r} is not a log record: {error}") from error


async def called(function: Callable[..., Any], *arguments: Any, executor: Executor) -> Any:
    """The result of a function of the project: an async one runs on the event loop, another one in a thread."""
    if iscoroutinefunction(function):
        return await function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
