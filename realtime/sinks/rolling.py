"""
Sinks that write many records into each file, and begin a new file after some time or size.

Owns when a file begins and ends, and that no record is in two files. Does not own how a file becomes durable (storage).
"""

import asyncio
import functools
import gzip
import hashlib
import io
import math
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, get_args

import msgspec

from realtime.exceptions import EntriesFailed, PermanentError, Unavailable
from realtime.extras import extra
from realtime.logs.record import LogRecord
from realtime.redis.outage import Outage
from realtime.sinks.base import (
    WAITED_FOR,
    Sink,
    SinkHandler,
    SinkResources,
    body_of,
    call_in_thread,
    call_project,
    call_storage,
    is_selected,
    record_of,
)
from realtime.sinks.written import WrittenFiles
from realtime.statistics import count
from realtime.streams.entry import Entry

__all__ = ["Format", "NdjsonSink"]

type Format = Literal["ndjson.gz", "ndjson", "parquet"]
# A fast level, because a worker process has one core; logs compress well with it too.
GZIP_LEVEL = 3
# When the worker has ended, the ids of acked entries have this time to be removed from Redis.
FORGET_SECONDS = 1.0


class NdjsonSink(Sink):
    """
    Writes each selected record as a line of a file, `<day>/<time>-<hash>.ndjson.gz`::

        class Archive(NdjsonSink):
            url = "s3://archive/logs"
            roll_seconds = 60

    Records are acked when their file is durable. Until then the worker holds them in memory, at most about twice
    `roll_records`.

    Attributes:
        roll_seconds, roll_records, roll_bytes: A file ends when it is this old, has this many records, or this many
            bytes before compression, whichever comes first.
        format: "ndjson.gz", "ndjson", or "parquet", which needs pyarrow.

    Guarantees:
        The lines of a file are in the order of the stream. Each selected record is in exactly one file, even if workers
        die. There are exceptions: records may be in two files if a worker stands still for longer than its lease while
        it creates a file, if Redis restarts with older data, or if the consumer group is deleted.
    """

    batch_size: ClassVar[int] = 500
    roll_seconds: ClassVar[float] = 10.0
    roll_records: ClassVar[int] = 20_000
    roll_bytes: ClassVar[int] = 64 << 20
    format: ClassVar[Format] = "ndjson.gz"
    _sync_methods: ClassVar[Sequence[str]] = ("select", "transform")

    @classmethod
    def _check_declaration(cls) -> None:
        super()._check_declaration()
        if cls.format not in (formats := get_args(Format.__value__)):
            known = ", ".join(map(repr, formats))
            raise ValueError(f"{cls.__name__} has the format {cls.format!r}, which does not exist; formats: {known}")

    def transform(self, record: LogRecord) -> Any:
        """
        The value of a line: anything that can be written as JSON; for Parquet a mapping. By default the record itself.

        Called in a thread, for each selected record. It must have no effects, because it may be called several times.
        """
        return record

    # For the worker ---------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """The most batches at a time: enough for a whole file, and for the next one while the first is written."""
        return 2 * math.ceil(self.roll_records / self.batch_size)

    def make_handler(self, resources: SinkResources) -> SinkHandler:
        """Make the handler of one worker. Raises ExtraMissing if the format needs pyarrow and it is not installed."""
        if self.format == "parquet":
            with extra("parquet"):
                import pyarrow  # noqa: F401
        return _RollingHandler(self, resources)


class _File:
    """
    The records of a file that is not durable yet.

    Attributes:
        ids, lines: The ids of its entries, and a line for each, as they were added.
        size_bytes: Of the lines, without line breaks.
        durable: Done when the file is durable. Its result is the entries that are not in it, with their errors.
        timer: Ends the file after `roll_seconds`. None if it ends at once.
    """

    def __init__(self, timer: asyncio.TimerHandle | None = None) -> None:
        self.ids: list[bytes] = []
        self.lines: list[bytes] = []
        self.size_bytes = 0
        self.durable: asyncio.Future[Mapping[bytes, Exception]] = asyncio.get_running_loop().create_future()
        self.timer = timer

    def add(self, ids: Sequence[bytes], lines: Sequence[bytes]) -> None:
        """Add entries, with a line for each."""
        self.ids += ids
        self.lines += lines
        self.size_bytes += sum(map(len, lines))

    def keep(self, ids: Collection[bytes]) -> None:
        """Remove all other entries."""
        kept = [(id, line) for id, line in zip(self.ids, self.lines, strict=True) if id in ids]
        self.ids, self.lines = [id for id, _ in kept], [line for _, line in kept]


class _RollingHandler:
    """Collects the lines of many batches in one file. Each call of `handle` returns when its file is durable."""

    def __init__(self, sink: NdjsonSink, resources: SinkResources) -> None:
        self._sink, self._storage, self._executor = sink, resources.storage, resources.executor
        self._written = WrittenFiles(resources.redis, key=resources.files_key, consumer=resources.consumer)
        self._redis_outage, self._still_held = resources.redis_outage, resources.still_held
        self._storage_outage = Outage(f"the storage of the sink {sink.name}")
        # The file that lines are added to; None before its first line.
        self._file: _File | None = None
        # Tasks that write a file, or that remove its ids from Redis when all are acked.
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of them that remove ids.
        self._forgets: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        # Whether a line is the record itself.
        self._is_untransformed = type(sink).transform is NdjsonSink.transform

    async def handle(self, entries: Sequence[Entry]) -> None:
        written = await self._already_written(entries)
        entries = [entry for entry in entries if entry.id not in written]
        ids, lines, errors = await call_project(self._make_lines, entries, executor=self._executor)
        if ids:
            # Shielded, because other calls wait for the same file.
            failed = await asyncio.shield(self._add(ids, lines, apart=entries[0].is_suspect))
            errors |= {id: failed[id] for id in ids if id in failed}
            if len(errors) == len(entries) and all(isinstance(error, Unavailable) for error in errors.values()):
                raise Unavailable("the entries are left to other workers")
        if errors:
            raise EntriesFailed(errors)

    def on_stop(self) -> None:
        """End the present file at once, and from now on write each batch into a file of its own."""
        self._is_stopping = True
        self._roll()

    def on_acked(self, entries: Sequence[Entry]) -> None:
        """Remove the ids of a file from Redis when all of its entries are acked."""
        if finished := self._written.acked(entry.id for entry in entries):
            task = self._start(self._redis_outage.until_done(self._written.forget, finished))
            self._forgets.add(task)
            task.add_done_callback(self._forgets.discard)

    async def close(self) -> None:
        """Cancel what still runs. Entries of unfinished files are not acked, so other workers get them."""
        if self._forgets:
            # In an outage, their ids stay in Redis, and are removed after some days.
            await asyncio.wait(self._forgets, timeout=FORGET_SECONDS)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _already_written(self, entries: Sequence[Entry]) -> set[bytes]:
        """The ids of entries that are in a file already, because its worker died before their acks."""
        found = await self._redis_outage.until_done(self._written.find, [entry.id for entry in entries])
        written: set[bytes] = set()
        for path, ids in found.items():
            if await call_storage(self._storage.exist, [path], executor=self._executor):
                written |= ids
        return written

    def _make_lines(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[bytes], dict[bytes, Exception]]:
        """
        The ids and the lines of the selected entries, and the errors by id. Runs in a thread.

        Raises:
            WAITED_FOR: Something is unavailable: the worker calls with the whole batch again until it works.
        """
        sink = self._sink
        ids: list[bytes] = []
        lines: list[bytes] = []
        errors: dict[bytes, Exception] = {}
        for entry in entries:
            try:
                record = record_of(entry)
                if is_selected(sink, record):
                    # The entry has the JSON of the record, so it need not be encoded again.
                    line = _one_line(body_of(entry)) if self._is_untransformed else _encode(sink.transform(record))
                    if sink.format == "parquet" and not line.lstrip().startswith(b"{"):
                        raise PermanentError(f"{sink.name}.transform() returned no mapping, which has no columns")
                    ids.append(entry.id)
                    lines.append(line)
            except WAITED_FOR:
                raise
            except Exception as error:
                errors[entry.id] = error
        return ids, lines, errors

    def _add(
        self, ids: Sequence[bytes], lines: Sequence[bytes], *, apart: bool
    ) -> "asyncio.Future[Mapping[bytes, Exception]]":
        """
        Add lines to the present file. Returns its `durable`.

        Args:
            apart: Write them at once, into a file of their own: workers died with these entries, and other suspects
                are not tried before these are done.
        """
        if apart:
            own_file = _File()
            own_file.add(ids, lines)
            self._start(self._write(own_file))
            return own_file.durable
        file = self._file
        if file is None:
            timer = asyncio.get_running_loop().call_later(self._sink.roll_seconds, self._roll)
            file = self._file = _File(timer)
        file.add(ids, lines)
        if self._is_stopping or len(file.ids) >= self._sink.roll_records or file.size_bytes >= self._sink.roll_bytes:
            self._roll()
        return file.durable

    def _roll(self) -> None:
        """End the present file, and begin to write it."""
        file, self._file = self._file, None
        if file is not None:
            if file.timer is not None:
                file.timer.cancel()
            self._start(self._write(file))

    async def _write(self, file: _File) -> None:
        failed: dict[bytes, Exception] = {}
        try:
            # If this worker was held up, others may have taken over entries, and written them.
            held = await self._still_held(file.ids)
            failed = {id: Unavailable("the entry is left to other workers") for id in file.ids if id not in held}
            if failed:
                file.keep(held)
            if file.ids:
                await self._create(file)
        except Exception as error:
            # A defect. Handlers wait for the file, and would wait for ever.
            failed |= dict.fromkeys(file.ids, error)
        file.durable.set_result(failed)

    async def _create(self, file: _File) -> None:
        path, body = await call_in_thread(_finished, file, self._sink.format, executor=self._executor)
        await self._redis_outage.until_done(self._written.begin, self._written.new(path), file.ids)
        # A failed attempt may have created the file. That is harmless: all attempts have the same path and body.
        create = functools.partial(call_storage, self._storage.create, path, body, executor=self._executor)
        await self._storage_outage.until_done(create, errors=(Unavailable,))
        count("sinks.files", 1, self._sink.name)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"sink {self._sink.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_encode = msgspec.json.encode


def _one_line(body: bytes) -> bytes:
    """The JSON without line breaks, which another program may have written."""
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def _finished(file: _File, format: Format) -> tuple[str, bytes]:
    """
    The path and the content of a file. Runs in a thread.

    Files sort by time. Different entries make different paths, even if their lines are the same: otherwise, of two such
    files in one second, the later one would count as written.
    """
    body = _content(file, format)
    digest = hashlib.sha256(body)
    digest.update(b" ".join(file.ids))
    now = datetime.now(UTC)
    return f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:16]}.{format}", body


def _content(file: _File, format: Format) -> bytes:
    """The content of a file, in the order of the stream."""
    # If the worker lost an entry to another worker and got it again, the entry was added twice.
    by_id = dict(zip(file.ids, file.lines, strict=True))
    lines = [by_id[id] for id in sorted(by_id, key=_numbers_of)]
    if format == "parquet":
        return _parquet(lines)
    body = b"\n".join((*lines, b""))
    return gzip.compress(body, GZIP_LEVEL, mtime=0) if format == "ndjson.gz" else body


def _numbers_of(id: bytes) -> tuple[int, int]:
    """The time and the number in an id, by which ids sort; as text they do not."""
    milliseconds, _, number = id.partition(b"-")
    return int(milliseconds), int(number)


def _parquet(lines: Sequence[bytes]) -> bytes:
    """A Parquet file with a row for each line, and a column for each field. Nested values are JSON."""
    with extra("parquet"):
        import pyarrow
        import pyarrow.parquet
    rows = [msgspec.json.decode(line) for line in lines]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_cell(row.get(name)) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
            # The column has values of more than one type, or very large ones.
            columns[name] = pyarrow.array([None if value is None else str(value) for value in values])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    return file.getvalue()


def _cell(value: Any) -> Any:
    return _encode(value).decode() if isinstance(value, dict | list) else value
