"""
Sinks that write files named after a key: `podium/<game>.json.gz`.

Owns the steps from a record to its files. Does not own how a file becomes durable (storage).
"""

import asyncio
import gzip
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from realtime.exceptions import EntriesFailed, EntryRejected, Unavailable
from realtime.logs.record import LogRecord
from realtime.sinks.base import (
    WAITED_FOR,
    Sink,
    SinkHandler,
    SinkResources,
    call_in_thread,
    call_project,
    call_storage,
    is_selected,
    record_of,
)
from realtime.statistics import count
from realtime.streams.entry import Entry
from realtime.untrusted.text import printable

__all__ = ["ContentSink"]

# A key is part of a path, so it has no "/" and does not begin with a dot.
_KEY = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,199}")


class ContentSink(Sink):
    """
    Writes files about each thing that a record reports as finished, and then removes its source::

        class Games(ContentSink):
            url = "s3://archive/games"
            kinds = ("meta", "podium")

            def select(self, record):
                return record.message == "Cleaning Game Records"

            def key(self, record):
                return record.task["game_token"]

            def fetch(self, record):
                return load_game(self.key(record))

            def transform(self, record, game):
                return {"meta": {"rounds": game.rounds}, "podium": game.ranks()}

            def clean_up(self, record):
                delete_game(self.key(record))

    `fetch`, `transform` and `clean_up` may be async; otherwise they run in a thread, as `select` and `key` do.

    Attributes:
        kinds: The files of each key: one for each kind, `<kind>/<key><suffix>`.
        suffix: The end of their names. If it ends with ".gz", the files are compressed.

    Guarantees:
        Each file appears once, complete. `clean_up` is called when all files of the key are durable. If a worker dies,
        another one continues: it calls `fetch` and `transform` only if a file is missing, and always calls `clean_up`.
    """

    kinds: ClassVar[Sequence[str]]
    suffix: ClassVar[str] = ".json.gz"
    _sync_methods: ClassVar[Sequence[str]] = ("select", "key")

    @classmethod
    def _check_declaration(cls) -> None:
        super()._check_declaration()
        kinds = getattr(cls, "kinds", ())
        if isinstance(kinds, str):
            raise TypeError(f"{cls.__name__}.kinds is a str: write a tuple, ({kinds!r},)")
        if not kinds:
            raise ValueError(f'{cls.__name__} has no kinds: name its files, such as kinds = ("meta",)')
        cls._check_overridden(ContentSink, "key", "transform")

    def key(self, record: LogRecord) -> str:
        """
        The name of the record's files, without kind and suffix: 1 to 200 letters, digits, ".", "_" and "-".

        Records without a key become dead letters: those whose key has other characters or begins with a dot, and those
        for which this raises KeyError, TypeError or AttributeError.
        """
        raise NotImplementedError(f"{type(self).__name__} has no key()")

    def fetch(self, record: LogRecord) -> Any:
        """The data of the files. By default None."""
        return None

    def transform(self, record: LogRecord, fetched: Any) -> Mapping[str, Any]:
        """The content for each of `kinds`: bytes, or a value that is written as JSON."""
        raise NotImplementedError(f"{type(self).__name__} has no transform()")

    def clean_up(self, record: LogRecord) -> Any:
        """Remove the source of the data. It may be called several times for a key. By default it does nothing."""

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """The most batches at a time: a few, because the keys of one batch are handled at the same time anyhow."""
        return 4

    def make_handler(self, resources: SinkResources) -> SinkHandler:
        """Make the handler of one worker."""
        return _ContentHandler(self, resources)


class _ContentHandler:
    """Handles the selected records of a batch: those of one key in their order, different keys at the same time."""

    def __init__(self, sink: ContentSink, resources: SinkResources) -> None:
        self._sink, self._storage, self._executor = sink, resources.storage, resources.executor

    async def handle(self, entries: Sequence[Entry]) -> None:
        keys, errors = await call_project(self._select, entries, executor=self._executor)
        tasks = (self._handle_key(key, records) for key, records in keys.items())
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            errors |= result
        if errors:
            raise EntriesFailed(errors)

    def on_stop(self) -> None:
        """Nothing to do: running calls take no longer than usual."""

    def on_acked(self, entries: Sequence[Entry]) -> None:
        """Nothing to do: the files themselves show which records are done."""

    async def close(self) -> None:
        """Nothing to do: no task outlives `handle`."""

    def _select(
        self, entries: Sequence[Entry]
    ) -> tuple[dict[str, list[tuple[bytes, LogRecord]]], dict[bytes, Exception]]:
        """
        The selected records by key, each with the id of its entry; and the errors by id. Runs in a thread.

        Raises:
            WAITED_FOR: Something is unavailable: the worker calls with the whole batch again until it works.
        """
        keys: dict[str, list[tuple[bytes, LogRecord]]] = {}
        errors: dict[bytes, Exception] = {}
        for entry in entries:
            try:
                record = record_of(entry)
                if is_selected(self._sink, record):
                    keys.setdefault(self._key(record), []).append((entry.id, record))
            except WAITED_FOR:
                raise
            except Exception as error:
                errors[entry.id] = error
        return keys, errors

    def _key(self, record: LogRecord) -> str:
        try:
            key = self._sink.key(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise EntryRejected(f"the record has no key: {type(error).__name__}: {error}") from error
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            shown = printable(repr(key), limit=100)
            raise EntryRejected(f"{shown} cannot be the name of a file: use 1 to 200 letters, digits, '.', '_' and '-'")
        return key

    async def _handle_key(self, key: str, records: Sequence[tuple[bytes, LogRecord]]) -> dict[bytes, Exception]:
        """Handle the records of one key; returns the errors by id."""
        errors: dict[bytes, Exception] = {}
        for id, record in records:
            try:
                await self._handle_record(key, record)
            except Unavailable:
                # The record is not at fault: the worker calls `handle` with the whole batch again until it works.
                raise
            except Exception as error:
                errors[id] = error
        return errors

    async def _handle_record(self, key: str, record: LogRecord) -> None:
        sink, executor = self._sink, self._executor
        paths = {kind: f"{kind}/{key}{sink.suffix}" for kind in sink.kinds}
        if not await call_storage(self._storage.exist, list(paths.values()), executor=executor):
            fetched = await call_project(sink.fetch, record, executor=executor)
            contents = await call_project(sink.transform, record, fetched, executor=executor)
            if contents.keys() != paths.keys():
                raise ValueError(f"{sink.name}.transform() returned {sorted(contents)}, not {sorted(paths)}")
            # All files are encoded before the first is created: if one cannot be encoded, none is created.
            bodies = {
                path: await call_in_thread(_encode, contents[kind], path, executor=executor)
                for kind, path in paths.items()
            }
            for path, body in bodies.items():
                await call_storage(self._storage.create, path, body, executor=executor)
            count("sinks.files", len(bodies), sink.name)
        await call_project(sink.clean_up, record, executor=executor)


def _encode(content: Any, path: str) -> bytes:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    # No time in the header, so that the same content makes the same file.
    return gzip.compress(body, mtime=0) if path.endswith(".gz") else body
