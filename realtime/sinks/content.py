"""
A sink that writes one file a key: `podium/<game>.json.gz`.

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
from realtime.sinks.base import Sink, SinkHandler, Workplace, called, record_of, stored
from realtime.streams.entry import Entry
from realtime.untrusted.text import printable

__all__ = ["ContentSink"]

# A part of a path, so no "/" and no dot at the beginning.
_KEY = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,199}")


class ContentSink(Sink):
    """
    For a record that says that something is over: fetch what there is of it, write files, and clean up::

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

    The methods are sync, and run in a thread, or async.

    Attributes:
        kinds: The files of each key: `<kind>/<key><suffix>`.
        suffix: The end of their names. With ".gz" at its end they are compressed.

    Guarantees:
        Each file appears once, complete. `clean_up` is called when all files of the key are durable. If a worker dies,
        another one continues: it fetches again only if a file is missing, and calls `clean_up` again in any case.
    """

    kinds: ClassVar[Sequence[str]]
    suffix: ClassVar[str] = ".json.gz"

    def key(self, record: LogRecord) -> str:
        """The name of the record's files, without kind and suffix: letters, digits, ".", "_" and "-"."""
        raise NotImplementedError

    def fetch(self, record: LogRecord) -> Any:
        """What the files are made of. None by default."""
        return None

    def transform(self, record: LogRecord, fetched: Any) -> Mapping[str, Any]:
        """The content of each kind: bytes, or a value for JSON."""
        raise NotImplementedError

    def clean_up(self, record: LogRecord) -> Any:
        """Remove the source. May be called several times. Nothing by default."""

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """Each batch may have some records whose files are written at the same time."""
        return 4

    def make_handler(self, workplace: Workplace) -> SinkHandler:
        """The handler of one worker."""
        return _ContentHandler(self, workplace)


class _ContentHandler:
    """Does the steps for each selected record; records of one key one after another."""

    def __init__(self, sink: ContentSink, workplace: Workplace) -> None:
        self._sink, self._storage, self._executor = sink, workplace.storage, workplace.executor

    async def handle(self, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        keys, errors = await loop.run_in_executor(self._executor, self._select, entries)
        tasks = (self._handle_key(key, found) for key, found in keys.items())
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            errors |= result
        if errors:
            raise EntriesFailed(errors)

    def on_stop(self) -> None:
        """What runs is finished."""

    def on_acked(self, entries: Sequence[Entry]) -> None:
        """Files tell what is done."""

    async def close(self) -> None:
        """There is nothing to end."""

    def _select(
        self, entries: Sequence[Entry]
    ) -> tuple[dict[str, list[tuple[bytes, LogRecord]]], dict[bytes, Exception]]:
        """The selected records by key, each with the id of its entry; and the errors."""
        queues = frozenset(self._sink.queues)
        keys: dict[str, list[tuple[bytes, LogRecord]]] = {}
        errors: dict[bytes, Exception] = {}
        for entry in entries:
            try:
                record = record_of(entry)
                if (not queues or record.queue in queues) and self._sink.select(record):
                    keys.setdefault(self._key(record), []).append((entry.id, record))
            except Exception as error:
                errors[entry.id] = error
        return keys, errors

    def _key(self, record: LogRecord) -> str:
        try:
            key = self._sink.key(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise EntryRejected(f"the record has no key: {type(error).__name__}: {error}") from error
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise EntryRejected(
                f"{printable(repr(key), limit=100)} cannot be the name of a file: use letters, digits, '.', '_' and '-'"
            )
        return key

    async def _handle_key(self, key: str, found: Sequence[tuple[bytes, LogRecord]]) -> dict[bytes, Exception]:
        errors: dict[bytes, Exception] = {}
        for id, record in found:
            try:
                await self._handle_record(key, record)
            except Unavailable:
                # Of no record's making: all of the batch is tried again, until it works.
                raise
            except Exception as error:
                errors[id] = error
        return errors

    async def _handle_record(self, key: str, record: LogRecord) -> None:
        sink, executor = self._sink, self._executor
        paths = {kind: f"{kind}/{key}{sink.suffix}" for kind in sink.kinds}
        if not await stored(self._storage.exist, list(paths.values()), executor=executor):
            fetched = await called(sink.fetch, record, executor=executor)
            contents = await called(sink.transform, record, fetched, executor=executor)
            if contents.keys() != paths.keys():
                raise ValueError(f"{sink.name}.transform() returned {sorted(contents)}, not {sorted(paths)}")
            # All before the first is written: if one cannot be made, there is none.
            bodies = {
                path: await called(_encoded, contents[kind], path, executor=executor) for kind, path in paths.items()
            }
            for path, body in bodies.items():
                await stored(self._storage.create, path, body, executor=executor)
        await called(sink.clean_up, record, executor=executor)


def _encoded(content: Any, path: str) -> bytes:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    # Without a time, so that the same content makes the same file.
    return gzip.compress(body, mtime=0) if path.endswith(".gz") else body
