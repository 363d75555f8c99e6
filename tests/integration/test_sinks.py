"""Sinks on a real Redis: what happens to each record, also to those that fail."""

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import redis
import redis.asyncio
from django.db import OperationalError, connection

from realtime.exceptions import Unavailable
from realtime.logs import RedisStreamHandler
from realtime.logs.handler import is_in_sink
from realtime.logs.record import LogRecord
from realtime.redis.keys import Keys
from realtime.sinks import ContentSink, NdjsonSink, Sink, all_sinks, base
from realtime.sinks import service as service_module
from realtime.sinks.service import SinkService
from realtime.sinks.storage import LocalStorage
from realtime.sinks.written import WrittenFiles
from realtime.statistics.counting import counted
from realtime.streams.group import stream_script
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]

MOMENT = "2026-01-02T03:04:05Z"
# With each error by which the project's functions say that something is unavailable.
in_an_outage = pytest.mark.parametrize(
    "error", [Unavailable("away"), OperationalError("away")], ids=lambda error: type(error).__name__
)


@pytest.fixture(autouse=True)
def _no_other_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a test declares are the only ones, and are forgotten after it."""
    monkeypatch.setattr(base, "_sinks", [])


@pytest.fixture(autouse=True)
def _no_stream_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}logs*"):
        redis_client.delete(name)


def add(client: redis.Redis, keys: Keys, *names: str, **fields: Any) -> list[bytes]:
    """A record for each name, which is its message; returns the ids of the entries."""
    bodies = [{"level": "INFO", "timestamp": MOMENT, "logger": "t", "message": name, **fields} for name in names]
    return [client.xadd(keys.stream("logs"), {"record": json.dumps(body)}) for body in bodies]  # type: ignore[misc]


@contextlib.asynccontextmanager
async def running(*sinks: type[Sink]) -> AsyncIterator[SinkService]:
    """A service that works, and has stopped after the block."""
    service = SinkService(sinks or all_sinks())
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop(deadline_seconds=5)
        await task


def is_finished(client: redis.Redis, keys: Keys, group: str) -> bool:
    """Whether the group has finished all entries."""
    stream = keys.stream("logs")
    groups = {each["name"].decode(): each for each in client.xinfo_groups(stream)}
    newest = client.xinfo_stream(stream)["last-generated-id"]
    found = groups.get(group)
    return (
        found is not None
        and found["last-delivered-id"] == newest
        and not found["pending"]
        and not client.exists(GroupKeys(stream, group).parked)
    )


def dead_letters(client: redis.Redis, keys: Keys, group: str) -> list[str]:
    """The errors of the dead letters."""
    found: Any = client.xrange(GroupKeys(keys.stream("logs"), group).dead_letters)
    return [fields[b"_error"].decode() for _, fields in found]


def lines(directory: Path) -> list[list[str]]:
    """The messages in each file, in the order of their names."""
    bodies = [gzip.decompress(path.read_bytes()) for path in sorted(directory.glob("*/*.ndjson.gz"))]
    return [[json.loads(line)["message"] for line in body.splitlines()] for body in bodies]


def files(directory: Path) -> list[Path]:
    """All files, at whatever depth."""
    return [path for path in directory.rglob("*") if path.is_file()]


# Files named after a key ----------------------------------------------------------------------------------------------


def games(directory: Path, **members: Any) -> type[ContentSink]:
    """A sink of records whose message is the key; `members` replace its attributes and methods."""

    class Games(ContentSink):
        url = directory
        kinds = ("meta", "podium")
        max_attempts = 2
        fetched: list[str]
        cleaned: list[str]

        def key(self, record: LogRecord) -> str:
            return record.message

        def fetch(self, record: LogRecord) -> Any:
            self.fetched.append(record.message)
            return {"of": record.message}

        def transform(self, record: LogRecord, fetched: Any) -> Mapping[str, Any]:
            return {"meta": fetched, "podium": [1, 2]}

        def clean_up(self, record: LogRecord) -> None:
            self.cleaned.append(record.message)

    Games.fetched, Games.cleaned = [], []
    for name, value in members.items():
        setattr(Games, name, value)
    return Games


def content(directory: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(directory)): json.loads(gzip.decompress(path.read_bytes()))
        for path in directory.rglob("*.json.gz")
    }


async def test_each_key_has_a_file_of_each_kind(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Then its source is cleaned up, in this order. Methods may be async."""
    steps: list[str] = []

    async def fetch(self: Any, record: LogRecord) -> Any:
        steps.append("fetch")
        return record.task

    async def clean_up(self: Any, record: LogRecord) -> None:
        assert len(content(tmp_path)) == 2, "the files are there"
        steps.append("clean up")

    Games = games(tmp_path, fetch=fetch, clean_up=clean_up)
    add(redis_client, keys, "g1", task={"points": 3})
    files = ("sinks.files", "Games")
    counted_before = counted()[files]
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert counted()[files] - counted_before == 2
    assert content(tmp_path) == {"meta/g1.json.gz": {"points": 3}, "podium/g1.json.gz": [1, 2]}
    assert steps == ["fetch", "clean up"]


async def test_queue_and_select_choose_records(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Other records are acked."""
    Games = games(tmp_path, queues=("lobby",), select=lambda self, record: record.message.startswith("g"))
    add(redis_client, keys, "g1", "x1", queue="lobby")
    add(redis_client, keys, "g2", queue="kitchen")
    add(redis_client, keys, "g3")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert Games.cleaned == ["g1"]
    assert not dead_letters(redis_client, keys, "Games")


async def test_what_is_written_is_only_cleaned_up(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Its source may be gone in part: the worker before was killed while it cleaned up."""
    Games = games(tmp_path)
    storage = LocalStorage(tmp_path)
    for kind in ("meta", "podium"):
        storage.create(f"{kind}/g1.json.gz", b"complete")
    storage.create("meta/g2.json.gz", b"complete")
    add(redis_client, keys, "g1", "g2")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert Games.fetched == ["g2"]
    assert sorted(Games.cleaned) == ["g1", "g2"]
    assert (tmp_path / "meta/g2.json.gz").read_bytes() == b"complete", "a file is never written again"
    assert (tmp_path / "podium/g2.json.gz").exists()


async def test_the_same_key_twice_is_written_once(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Also within one batch."""
    Games = games(tmp_path)
    add(redis_client, keys, *["g1"] * 20)
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert (Games.fetched, Games.cleaned) == (["g1"], ["g1"] * 20)


async def test_a_record_that_fails_harms_no_other(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """It is tried again, and is a dead letter in the end; the others of its batch are done in the first attempt."""

    def fetch(self: Any, record: LogRecord) -> Any:
        self.fetched.append(record.message)
        if record.message == "g2":
            raise ZeroDivisionError("no rounds")
        return {}

    Games = games(tmp_path, fetch=fetch)
    add(redis_client, keys, "g1", "g2", "g3")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert sorted(Games.fetched) == ["g1", "g2", "g2", "g3"]
    assert sorted(Games.cleaned) == ["g1", "g3"]
    assert dead_letters(redis_client, keys, "Games") == ["ZeroDivisionError: no rounds"]


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a/b", "", ".hidden", "a\nb", "x" * 201, None, 7], ids=lambda key: repr(key)[:12]
)
async def test_a_key_cannot_lead_out_of_its_folder(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, key: object
) -> None:
    """The key may come from an untrusted user: the record is a dead letter at once."""
    Games = games(tmp_path / "files", key=lambda self, record: record.task)
    add(redis_client, keys, "x", task=key)
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    (error,) = dead_letters(redis_client, keys, "Games")
    assert "cannot be the name of a file: use 1 to 200 letters, digits, '.', '_' and '-'" in error
    assert not files(tmp_path)


@pytest.mark.parametrize("fields", [{"x": "1"}, {"record": "{"}, {"record": '{"level": 3}'}], ids=str)
async def test_an_entry_that_is_no_record_is_a_dead_letter_at_once(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, fields: dict[str, str]
) -> None:
    """Any program may append to the stream. The records beside it are done."""
    Games = games(tmp_path)
    redis_client.xadd(keys.stream("logs"), fields)  # type: ignore[arg-type]
    add(redis_client, keys, "g1")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert len(dead_letters(redis_client, keys, "Games")) == 1
    assert Games.cleaned == ["g1"]


async def test_no_file_of_a_key_is_written_if_one_cannot_be_made(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """All kinds of a key are of one moment: a later attempt would keep those of this one."""
    Games = games(tmp_path, transform=lambda self, record, fetched: {"meta": {}, "podium": {(1, 2): object()}})
    add(redis_client, keys, "g1")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert len(dead_letters(redis_client, keys, "Games")) == 1
    assert not files(tmp_path)


async def test_an_outage_of_the_source_is_waited_for(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """No attempt is counted."""

    def fetch(self: Any, record: LogRecord) -> Any:
        self.fetched.append(record.message)
        if len(self.fetched) <= 4:
            raise Unavailable("the database is unavailable")
        return {}

    Games = games(tmp_path, fetch=fetch)
    add(redis_client, keys, "g1")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert Games.cleaned == ["g1"]
    assert not dead_letters(redis_client, keys, "Games")


async def test_an_outage_of_the_database_is_waited_for(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """As everywhere: no attempt is counted."""

    def fetch(self: Any, record: LogRecord) -> Any:
        self.fetched.append(record.message)
        if len(self.fetched) <= 4:
            raise OperationalError("the connection is closed")
        return {}

    Games = games(tmp_path, fetch=fetch)
    add(redis_client, keys, "g1")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert Games.cleaned == ["g1"]
    assert not dead_letters(redis_client, keys, "Games")


@pytest.mark.django_db(transaction=True)
async def test_a_thread_keeps_no_old_connection_to_the_database(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would use one that the database has closed again and again. Here, each connection is old after its use."""
    monkeypatch.setattr(service_module, "THREADS", 1)
    found: list[bool] = []

    def fetch(self: Any, record: LogRecord) -> Any:
        found.append(connection.connection is None)
        connection.ensure_connection()
        return {}

    Games = games(tmp_path, fetch=fetch)
    add(redis_client, keys, "g1", "g2", "g3")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert found == [True] * 3


@in_an_outage
@pytest.mark.parametrize("name", ["select", "key"])
async def test_an_outage_in_select_or_key_is_waited_for(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, name: str, error: Exception
) -> None:
    """As in the other methods: no attempt is counted, also of the records beside it."""
    calls: list[str] = []

    def method(self: Any, record: LogRecord) -> Any:
        calls.append(record.message)
        if len(calls) <= 4:
            raise error
        return record.message

    Games = games(tmp_path, **{name: method})
    add(redis_client, keys, "g1", "g2")
    async with running(Games):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert sorted(Games.cleaned) == ["g1", "g2"]
    assert not dead_letters(redis_client, keys, "Games")


# Files of many lines --------------------------------------------------------------------------------------------------


def archive(directory: Path, **members: Any) -> type[NdjsonSink]:
    """A sink of all records; `members` replace its attributes and methods."""

    class Archive(NdjsonSink):
        url = directory
        roll_seconds = 60.0
        max_attempts = 2

    for name, value in members.items():
        setattr(Archive, name, value)
    return Archive


@pytest.mark.parametrize(
    "limit", [{"roll_records": 3}, {"roll_bytes": 250}, {"roll_seconds": 0.05}], ids=lambda limit: next(iter(limit))
)
async def test_a_file_ends_by_each_limit(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, limit: dict[str, Any]
) -> None:
    """Its records are acked then."""
    Archive = archive(tmp_path, **limit)
    add(redis_client, keys, "a", "b", "c")
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
        assert sorted(name for each in lines(tmp_path) for name in each) == ["a", "b", "c"]
    await assert_no_files_noted(redis_client, keys)


async def assert_no_files_noted(client: redis.Redis, keys: Keys) -> None:
    """When all entries are acked, Redis has no ids of files."""
    await wait_until(lambda: not client.exists(keys.written_files("logs", "Archive")))


async def test_lines_are_in_the_order_of_the_stream(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Although batches are selected at the same time."""
    names = [str(number) for number in range(2_000)]
    add(redis_client, keys, *names)
    async with running(archive(tmp_path, roll_records=2_000, batch_size=100)):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert lines(tmp_path) == [names]


async def test_no_record_is_acked_before_its_file_is_durable(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """It would be lost with the process. A service that stops writes what it has, and leaves the rest to others."""
    Archive = archive(tmp_path)
    add(redis_client, keys, "a", "b")
    async with running(Archive) as service:
        await service.ready.wait()
        await wait_until(lambda: redis_client.xpending(keys.stream("logs"), "Archive")["pending"] == 2)
        assert not files(tmp_path)
    written = [name for each in lines(tmp_path) for name in each]
    assert is_finished(redis_client, keys, "Archive") == (len(written) == 2)
    Archive.roll_seconds = 0.05
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["a", "b"]


async def test_records_with_which_workers_died_do_not_wait_for_the_end_of_a_file(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """They are tried in small groups, one after another. Each group is written at once, into a file of its own."""
    Archive = archive(tmp_path, roll_seconds=3600.0, max_attempts=5)
    add(redis_client, keys, *map(str, range(20)))
    stream = keys.stream("logs")
    redis_client.xgroup_create(stream, "Archive", id="0")
    redis_client.xreadgroup("Archive", "dead", {stream: ">"})
    # As other workers do when two workers have died.
    values = ["Archive", "other", "", "dead", 0, 2, 1000]
    stream_script("reclaim", answer=list).run(redis_client, GroupKeys(stream, "Archive").for_scripts, values)
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
        written = lines(tmp_path)
    assert sorted(map(len, written)) == [1, 2, 4, 5, 8]
    assert {name for each in written for name in each} == set(map(str, range(20)))
    await assert_no_files_noted(redis_client, keys)


async def test_records_with_the_same_line_are_all_written(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Also when each is a file, and all files end in the same second."""
    Archive = archive(tmp_path, batch_size=1, roll_records=1, transform=lambda self, record: {"message": "same"})
    add(redis_client, keys, *"abcde")
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert lines(tmp_path) == [["same"]] * 5


async def test_an_outage_of_the_storage_is_waited_for(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is one file, although an attempt that failed may have created it."""
    Archive = archive(tmp_path, roll_seconds=0.05)
    create, calls = LocalStorage.create, list[str]()

    def fail_after(self: LocalStorage, path: str, body: bytes) -> bool:
        calls.append(path)
        is_new = create(self, path, body)
        if len(calls) < 4:
            raise OSError("the network is unavailable")
        return is_new

    monkeypatch.setattr(LocalStorage, "create", fail_after)
    add(redis_client, keys, "a", "b", "c")
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert len(set(calls)) == len(lines(tmp_path))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["a", "b", "c"]
    assert not dead_letters(redis_client, keys, "Archive")


@pytest.mark.parametrize("is_there", [True, False], ids=["after it was created", "before it was created"])
async def test_a_worker_that_died_while_it_wrote_doubles_nothing_and_loses_nothing(
    redis_client: redis.Redis,
    async_redis_client: redis.asyncio.Redis,
    keys: Keys,
    tmp_path: Path,
    *,
    is_there: bool,
) -> None:
    """Redis knows which entries are in its file; the storage knows whether there is one."""
    Archive = archive(tmp_path, roll_seconds=0.05)
    ids = add(redis_client, keys, "a", "b", "c")
    key = keys.written_files("logs", "Archive")
    written = WrittenFiles(async_redis_client, key=key, consumer="dead")
    await written.begin(written.new("2026-01-02/of the dead.ndjson.gz"), ids[:2])
    if is_there:
        body = b"".join(b'{"message": "%b"}\n' % name for name in (b"a", b"b"))
        LocalStorage(tmp_path).create("2026-01-02/of the dead.ndjson.gz", gzip.compress(body))
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["a", "b", "c"]


async def test_files_with_the_same_content_are_all_written(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """A transform may leave nothing in which records differ, and files may be written in the same second."""
    Archive = archive(tmp_path, roll_records=1, batch_size=1, transform=lambda self, record: {"message": "same"})
    add(redis_client, keys, *"abcdef")
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert [name for each in lines(tmp_path) for name in each] == ["same"] * 6


async def test_records_that_others_have_taken_over_are_not_written(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that was held up for longer than its lease still has them in a file that it collects."""
    collected: list[str] = []

    def transform(self: Any, record: LogRecord) -> Any:
        collected.append(record.message)
        return {"message": record.message}

    Archive = archive(tmp_path, lease_seconds=0.5, transform=transform)
    taken = add(redis_client, keys, "a", "b")
    stream = keys.stream("logs")
    async with running(Archive) as service:
        await service.ready.wait()
        await wait_until(lambda: sorted(collected) == ["a", "b"])
        redis_client.set(GroupKeys(stream, "Archive").worker_lease("other"), "alive", ex=60)
        redis_client.xclaim(stream, "Archive", "other", 0, taken)
        redis_client.delete(GroupKeys(stream, "Archive").worker_lease(service.consumer))
        await wait_until(lambda: "2 entries in flight are no longer this worker's" in caplog.text)
        add(redis_client, keys, "c")
        await wait_until(lambda: "c" in collected)
    assert [name for each in lines(tmp_path) for name in each] == ["c"]


async def test_a_line_that_cannot_be_made_harms_no_other(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Its record is a dead letter after its attempts; those of its batch are in the file."""

    def transform(self: Any, record: LogRecord) -> Any:
        if record.message == "b":
            raise KeyError("task")
        return {"message": record.message.upper()}

    Archive = archive(tmp_path, roll_seconds=0.05, transform=transform)
    add(redis_client, keys, "a", "b", "c")
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["A", "C"]
    assert dead_letters(redis_client, keys, "Archive") == ["KeyError: 'task'"]


@in_an_outage
@pytest.mark.parametrize("name", ["select", "transform"])
async def test_an_outage_in_select_or_transform_is_waited_for(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, name: str, error: Exception
) -> None:
    """No attempt is counted, also of the records beside it."""
    calls: list[str] = []

    def method(self: Any, record: LogRecord) -> Any:
        calls.append(record.message)
        if len(calls) <= 4:
            raise error
        return {"message": record.message}

    add(redis_client, keys, "a", "b")
    async with running(archive(tmp_path, roll_seconds=0.05, **{name: method})):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["a", "b"]
    assert not dead_letters(redis_client, keys, "Archive")


async def test_a_worker_that_ends_forgets_its_files(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if Redis is slow. Otherwise, all other workers would read their ids for days."""
    forget = WrittenFiles.forget

    async def forget_slowly(self: WrittenFiles, files: Any) -> None:
        await asyncio.sleep(0.3)
        await forget(self, files)

    monkeypatch.setattr(WrittenFiles, "forget", forget_slowly)
    add(redis_client, keys, "a")
    async with running(archive(tmp_path, roll_seconds=0.05)):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert not redis_client.exists(keys.written_files("logs", "Archive"))


async def test_parquet_has_a_column_for_each_name(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """What is nested, or has values of several types, is text."""
    Archive = archive(tmp_path, roll_seconds=0.2, format="parquet")
    add(redis_client, keys, "a", task={"points": 1})
    add(redis_client, keys, "b", task=7)
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    rows = [row for path in files(tmp_path) for row in pyarrow.parquet.read_table(path).to_pylist()]
    assert sorted(row["message"] for row in rows) == ["a", "b"]
    assert {str(row["task"]) for row in rows} == {'{"points":1}', "7"}


async def test_a_record_with_line_breaks_is_one_line(redis_client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    """Any program may append to the stream, and format its JSON as it likes."""
    body = {"level": "INFO", "timestamp": MOMENT, "logger": "t", "message": "a\nb", "unknown": 7}
    redis_client.xadd(keys.stream("logs"), {"record": json.dumps(body, indent=2)})
    add(redis_client, keys, "c")
    async with running(archive(tmp_path, roll_seconds=0.05)):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    assert sorted(name for each in lines(tmp_path) for name in each) == ["a\nb", "c"]


async def test_parquet_harms_no_record_because_of_another(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """One that has no columns is a dead letter; numbers of any size have a column."""
    tasks: dict[str, Any] = {"a": {"n": 2**64 - 1}, "b": 7, "c": {"n": -1}, "d": ["n"], "e": {"n": True}, "f": {}}
    Archive = archive(tmp_path, roll_seconds=0.2, format="parquet", transform=lambda self, record: record.task)
    for name, task in tasks.items():
        add(redis_client, keys, name, task=task)
    async with running(Archive):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    rows = [row for path in files(tmp_path) for row in pyarrow.parquet.read_table(path).to_pylist()]
    assert len(rows) == 4
    assert {"18446744073709551615", "-1"} <= {str(row["n"]) for row in rows if "n" in row}
    assert len(dead_letters(redis_client, keys, "Archive")) == 2


async def test_what_a_worker_logs_of_a_record_is_no_record(
    redis_client: redis.Redis, redis_server: RedisServer, keys: Keys, tmp_path: Path
) -> None:
    """In a project that sends all records, a record about a failed one would fail, too, and so on without end."""

    def transform(self: Any, record: LogRecord) -> Any:
        logging.getLogger("realtime.publisher").warning("in the thread of a sink")
        raise KeyError("task")

    handler = RedisStreamHandler(redis_url=redis_server.url, key_prefix=keys.prefix)
    Archive = archive(tmp_path, roll_seconds=0.05, transform=transform)
    add(redis_client, keys, "a")
    logging.getLogger().addHandler(handler)
    try:
        async with running(Archive):
            await wait_until(lambda: dead_letters(redis_client, keys, "Archive"))
            await asyncio.to_thread(handler.flush)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    added: Any = redis_client.xinfo_stream(keys.stream("logs"))
    assert added["entries-added"] == 1


# Declarations ---------------------------------------------------------------------------------------------------------


def test_two_sinks_of_a_stream_cannot_have_one_name(tmp_path: Path) -> None:
    """They would share one consumer group."""
    archive(tmp_path)
    with pytest.raises(ValueError, match="two sinks of the stream logs have the name 'Archive': set `name` of one"):
        archive(tmp_path)


def test_a_class_without_a_url_is_no_sink() -> None:
    """It is a common base of sinks."""

    class Base(NdjsonSink):
        roll_seconds = 1.0

    assert all_sinks() == ()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ContentSink, "select"), (ContentSink, "key"), (NdjsonSink, "select"), (NdjsonSink, "transform")],
)
def test_what_is_called_in_a_thread_cannot_be_async(kind: type[Sink], name: str) -> None:
    """Its coroutine would be true, and never run."""

    async def method(self: Any, record: LogRecord) -> Any:
        return True

    with pytest.raises(TypeError, match=rf"Mine\.{name}\(\) is async, but it is called in a thread"):
        type("Mine", (kind,), {name: method})


@pytest.mark.parametrize(
    ("kind", "members", "message"),
    [
        (NdjsonSink, {"format": "ndjson.zip"}, r"format 'ndjson.zip', which does not exist; formats: 'ndjson.gz', "),
        (NdjsonSink, {"queues": "orders"}, r"Mine.queues is a str: write a tuple, \('orders',\)"),
        (ContentSink, {"queues": "orders"}, r"Mine.queues is a str: write a tuple, \('orders',\)"),
        (ContentSink, {"kinds": "meta"}, r"Mine.kinds is a str: write a tuple, \('meta',\)"),
        (ContentSink, {"kinds": ()}, "Mine has no kinds: name its files"),
        (ContentSink, {"kinds": None}, "Mine has no kinds: name its files"),
        (ContentSink, {"key": ContentSink.key}, r"Mine has no key\(\): a ContentSink must define it"),
        (ContentSink, {"transform": ContentSink.transform}, r"Mine has no transform\(\): a ContentSink must define it"),
    ],
)
def test_a_wrong_declaration_is_refused(
    tmp_path: Path, kind: type[Sink], members: dict[str, Any], message: str
) -> None:
    """When its class is made: otherwise, each record would fail. A base for others may be incomplete."""
    right: dict[str, Any] = {}
    if kind is ContentSink:
        right = {"kinds": ("meta",), "key": lambda self, record: "a", "transform": lambda self, record, fetched: {}}
    base = type("Base", (kind,), {**right, **members})
    for bases, own in (((kind,), {**right, **members}), ((base,), {})):
        with pytest.raises((TypeError, ValueError), match=message):
            type("Mine", bases, {"url": tmp_path, **own})
    assert all_sinks() == ()
    type("Mine", (kind,), {"url": tmp_path, **right})
    assert [sink.name for sink in all_sinks()] == ["Mine"]


def test_a_content_sink_without_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Mine has no kinds: name its files"):
        type("Mine", (ContentSink,), {"url": tmp_path})


async def test_who_has_run_a_service_is_no_sink() -> None:
    """Its log records are sent again."""
    service = SinkService([])
    service.stop()
    await service.run()
    assert not is_in_sink.get()


async def test_trimming_waits_for_the_sinks_that_run_elsewhere(
    redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """A record that one of them has not read stays on the stream."""
    One, Other = archive(tmp_path / "one", roll_seconds=0.05), games(tmp_path / "other")
    add(redis_client, keys, "a", "b")
    async with running(One):
        await wait_until(lambda: is_finished(redis_client, keys, "Archive"))
    async with running(Other):
        await wait_until(lambda: is_finished(redis_client, keys, "Games"))
    assert sorted(Other.cleaned) == ["a", "b"]
