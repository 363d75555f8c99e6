"""
A sink that writes one file a key: `podium/<game>.json.gz`.

Owns the steps from a record to its files. Does not own how a file becomes durable (storage).
"""

import asyncio
import gzip
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar

import msgspec

from realtime.exceptions import PermanentError
from realtime.logs.record import LogRecord
from realtime.sinks.base import Sink, called
from realtime.sinks.storage import Storage
from realtime.streams.entry import Entry

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

    async def handle(self, entries: Sequence[Entry], *, storage: Storage, executor: Executor) -> None:
        """Do all steps for these entries. Those of one key one after another."""
        loop = asyncio.get_running_loop()
        selected = await loop.run_in_executor(executor, self.selected, entries)
        keys: dict[str, list[LogRecord]] = {}
        for _, record in selected:
            keys.setdefault(self._checked_key(record), []).append(record)
        results = await asyncio.gather(
            *(self._handle_key(key, records, storage, executor) for key, records in keys.items()),
            return_exceptions=True,
        )
        # All have ended. The worker tries the batch again entry by entry, which does no harm where it was done.
        for result in results:
            if result is not None:
                raise result

    async def _handle_key(self, key: str, records: Sequence[LogRecord], storage: Storage, executor: Executor) -> None:
        loop = asyncio.get_running_loop()
        paths = {kind: f"{kind}/{key}{self.suffix}" for kind in self.kinds}
        for record in records:
            exist = [await loop.run_in_executor(executor, storage.exists, path) for path in paths.values()]
            if not all(exist):
                fetched = await called(self.fetch, record, executor=executor)
                contents = await called(self.transform, record, fetched, executor=executor)
                if contents.keys() != paths.keys():
                    raise ValueError(f"{self.name}.transform() returned {sorted(contents)}, not {sorted(paths)}")
                for kind, path in paths.items():
                    await loop.run_in_executor(executor, self._create, storage, path, contents[kind])
            await called(self.clean_up, record, executor=executor)

    def _create(self, storage: Storage, path: str, content: Any) -> None:
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        # Without a time, so that the same content makes the same file.
        storage.create(path, gzip.compress(body, mtime=0) if path.endswith(".gz") else body)

    def _checked_key(self, record: LogRecord) -> str:
        try:
            key = self.key(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise PermanentError(f"the record has no key: {type(error).__name__}: {error}") from error
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise PermanentError(f"{key!r} cannot be the name of a file: use letters, digits, '.', '_' and '-'")
        return key
