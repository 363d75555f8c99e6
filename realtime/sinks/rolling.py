"""
A sink that writes records into files of many lines, a new file after some time or size.

Owns when a file begins and ends, and that no record is in two. Does not own how a file becomes durable (storage).
"""

import asyncio
import gzip
import hashlib
import io
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec

from realtime.exceptions import EntriesFailed, PermanentError, Unavailable
from realtime.extras import extra
from realtime.logs.record import LogRecord
from realtime.redis.outage import Outage
from realtime.sinks.base import Sink, SinkHandler, Workplace, body_of, record_of, stored
from realtime.sinks.written import WrittenFiles
from realtime.streams.entry import Entry

__all__ = ["Format", "NdjsonSink"]

type Format = Literal["ndjson.gz", "ndjson", "parquet"]
# A fast level: logs compress well anyhow, and one worker has one core.
GZIP_LEVEL = 3


class NdjsonSink(Sink):
    """
    Writes each selected record as a line of a file, `<day>/<time>-<hash>.ndjson.gz`::

        class Archive(NdjsonSink):
            url = "s3://archive/logs"
            roll_seconds = 60

    Records are acked when their file is durable, so until then a worker holds up to `roll_records` of them in memory.

    Attributes:
        roll_seconds, roll_records, roll_bytes: A file ends when it is that old, or has that many records, or bytes
            before compression.
        format: "ndjson.gz", "ndjson", or "parquet", which needs pyarrow.

    Guarantees:
        The lines of a file are in the order of the stream. Each selected record is in one file, also if a worker dies
        at any moment. The exception is a worker that was held up for longer than its lease just while it created a
        file: then some records may be in two.
    """

    batch_size: ClassVar[int] = 500
    roll_seconds: ClassVar[float] = 10.0
    roll_records: ClassVar[int] = 20_000
    roll_bytes: ClassVar[int] = 64 << 20
    format: ClassVar[Format] = "ndjson.gz"

    def transform(self, record: LogRecord) -> Any:
        """
        The value of a line: anything that JSON has; for Parquet a mapping. By default the record itself.

        Called for each selected record, in a thread.
        """
        return record

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """Enough for a whole file, and the beginning of the next one while that is written."""
        return 2 * math.ceil(self.roll_records / self.batch_size)

    def make_handler(self, workplace: Workplace) -> SinkHandler:
        """The handler of one worker."""
        if self.format == "parquet":
            with extra("parquet"):
                import pyarrow  # noqa: F401
        return _RollingHandler(self, workplace)


class _File:
    """A file that is being collected."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.lines: list[bytes] = []
        self.size_bytes = 0
        # Done when it is durable: the entries that are not in it, with their errors.
        self.written: asyncio.Future[Mapping[bytes, Exception]] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    def keep(self, ids: Collection[bytes]) -> None:
        """Remove all other entries."""
        kept = [(id, line) for id, line in zip(self.ids, self.lines, strict=True) if id in ids]
        self.ids, self.lines = [id for id, _ in kept], [line for _, line in kept]


class _RollingHandler:
    def __init__(self, sink: NdjsonSink, workplace: Workplace) -> None:
        self._sink, self._storage, self._executor = sink, workplace.storage, workplace.executor
        self._written = WrittenFiles(workplace.redis, key=workplace.files_key, consumer=workplace.consumer)
        self._redis_outage, self._still_held = workplace.redis_outage, workplace.still_held
        self._storage_outage = Outage(f"the storage of the sink {sink.name}")
        # The file that is being collected.
        self._file: _File | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._is_plain = type(sink).transform is NdjsonSink.transform
        self._selects_all = type(sink).select is NdjsonSink.select and not sink.queues

    async def handle(self, entries: Sequence[Entry]) -> None:
        written = await self._already_written(entries)
        entries = [entry for entry in entries if entry.id not in written]
        loop = asyncio.get_running_loop()
        ids, lines, errors = await loop.run_in_executor(self._executor, self._make_lines, entries)
        if ids:
            # Other handlers wait for the same file.
            failed = await asyncio.shield(self._add(ids, lines))
            errors |= {id: failed[id] for id in ids if id in failed}
            if len(errors) == len(entries) and all(isinstance(error, Unavailable) for error in errors.values()):
                raise Unavailable("the entries are left to other workers")
        if errors:
            raise EntriesFailed(errors)

    def on_stop(self) -> None:
        """Write what there is."""
        self._is_stopping = True
        self._roll()

    def on_acked(self, entries: Sequence[Entry]) -> None:
        if finished := self._written.acked(entry.id for entry in entries):
            self._start(self._forget(finished))

    async def _already_written(self, entries: Sequence[Entry]) -> set[bytes]:
        """Those entries that a worker has written that died before their ack."""
        found = await self._redis_outage.until_done(self._written.find, [entry.id for entry in entries])
        written: set[bytes] = set()
        for path, ids in found.items():
            if await stored(self._storage.exist, [path], executor=self._executor):
                written |= ids
        return written

    def _make_lines(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[bytes], dict[bytes, Exception]]:
        """Runs in a thread: the ids and lines of the selected entries, and the errors of others."""
        sink, queues = self._sink, frozenset(self._sink.queues)
        ids: list[bytes] = []
        lines: list[bytes] = []
        errors: dict[bytes, Exception] = {}
        for entry in entries:
            try:
                record = record_of(entry)
                if self._selects_all or ((not queues or record.queue in queues) and sink.select(record)):
                    # A record as it is need not be encoded again.
                    line = _one_line(body_of(entry)) if self._is_plain else _encode(sink.transform(record))
                    if sink.format == "parquet" and not line.lstrip().startswith(b"{"):
                        raise PermanentError(f"{sink.name}.transform() returned no mapping, which has no columns")
                    ids.append(entry.id)
                    lines.append(line)
            except Exception as error:
                errors[entry.id] = error
        return ids, lines, errors

    def _add(self, ids: Sequence[bytes], lines: Sequence[bytes]) -> "asyncio.Future[Mapping[bytes, Exception]]":
        file = self._file
        if file is None:
            file = self._file = _File()
            file.timer = asyncio.get_running_loop().call_later(self._sink.roll_seconds, self._roll)
        file.ids += ids
        file.lines += lines
        file.size_bytes += sum(map(len, lines))
        if self._is_stopping or len(file.ids) >= self._sink.roll_records or file.size_bytes >= self._sink.roll_bytes:
            self._roll()
        return file.written

    def _roll(self) -> None:
        """End the present file, and write it."""
        file, self._file = self._file, None
        if file is not None:
            if file.timer is not None:
                file.timer.cancel()
            self._start(self._write(file))

    async def _write(self, file: _File) -> None:
        failed: dict[bytes, Exception] = {}
        try:
            # A worker that was held up may have lost them, and others have written them.
            held = await self._still_held(file.ids)
            failed = {id: Unavailable("the entry is left to other workers") for id in file.ids if id not in held}
            if failed:
                file.keep(held)
            if file.ids:
                await self._create(file)
        except Exception as error:
            # A defect. Handlers wait for the file, and would wait for ever.
            failed |= dict.fromkeys(file.ids, error)
        file.written.set_result(failed)

    async def _create(self, file: _File) -> None:
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._executor, _content, file, self._sink.format)
        path = _path_of(body, file.ids, self._sink.format)
        await self._redis_outage.until_done(self._written.begin, self._written.new(path), file.ids)
        failures = 0
        with self._storage_outage.observer() as observer:
            # Always the same file: whether an attempt that failed has created it, does not matter.
            while True:
                try:
                    await stored(self._storage.create, path, body, executor=self._executor)
                    break
                except Unavailable as error:
                    await observer.wait(error, failures)
                    failures += 1
            observer.worked()

    async def _forget(self, files: Sequence[bytes]) -> None:
        await self._redis_outage.until_done(self._written.forget, files)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work, name=f"sink {self._sink.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_encode = msgspec.json.encode


def _one_line(body: bytes) -> bytes:
    """Another program may have appended JSON with line breaks to the stream."""
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def _path_of(body: bytes, ids: Sequence[bytes], format: Format) -> str:
    """By time, content and entries: files sort by time, and different records with the same content have their own."""
    now, digest = datetime.now(UTC), hashlib.sha256(body)
    digest.update(b" ".join(ids))
    return f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:16]}.{format}"


def _content(file: _File, format: Format) -> bytes:
    """Runs in a thread: the content of a file, in the order of the stream."""
    # An entry that was lost and came again may be in it twice.
    by_id = dict(zip(file.ids, file.lines, strict=True))
    lines = [by_id[id] for id in sorted(by_id, key=_number_of)]
    if format == "parquet":
        return _parquet(lines)
    body = b"\n".join((*lines, b""))
    return gzip.compress(body, GZIP_LEVEL, mtime=0) if format == "ndjson.gz" else body


def _number_of(id: bytes) -> tuple[int, int]:
    """Ids are not ordered as texts."""
    milliseconds, _, number = id.partition(b"-")
    return int(milliseconds), int(number)


def _parquet(lines: Sequence[bytes]) -> bytes:
    with extra("parquet"):
        import pyarrow
        import pyarrow.parquet
    rows = [msgspec.json.decode(line) for line in lines]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_plain(row.get(name)) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
            # Values of more than one type, or very large.
            columns[name] = pyarrow.array([None if value is None else str(value) for value in values])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    return file.getvalue()


def _plain(value: Any) -> Any:
    """A value of a column: what is nested becomes JSON."""
    return _encode(value).decode() if isinstance(value, dict | list) else value
