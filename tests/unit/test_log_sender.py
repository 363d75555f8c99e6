"""The thread that sends log records, without Redis: failures of the disk, and the end of the process."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from realtime.logs import RedisStreamHandler
from realtime.logs.sender import Sender, SenderLimits
from realtime.logs.spill import Spill
from tests.support.waiting import is_done_within, wait_until_sync

LIMITS = SenderLimits(queue_records=1_000, queue_bytes=1 << 20, gather_seconds=0.01, exit_seconds=0.2)
# Names of spill files.
FIRST, SECOND = "1700000000000000001-1-aaaaaaaa", "1700000000000000002-1-aaaaaaaa"
type MakeSender = Callable[..., Sender]


class Stream:
    """Stands for Redis: keeps each batch once."""

    def __init__(self) -> None:
        self.batches: dict[str, list[bytes]] = {}
        self.calls: list[str] = []
        self.is_away = False

    def append(self, guard: str, records: Sequence[bytes]) -> None:
        self.calls.append(guard)
        if self.is_away:
            raise ConnectionError("away")
        self.batches.setdefault(guard, [*records])

    @property
    def records(self) -> list[bytes]:
        return [record for batch in self.batches.values() for record in batch]


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def make_sender(stream: Stream) -> Iterator[MakeSender]:
    """Makes senders that are closed at the end of the test."""
    senders: list[Sender] = []

    def make(spill: Spill | None = None) -> Sender:
        senders.append(Sender(stream.append, spill=spill, limits=LIMITS, name="test"))
        return senders[-1]

    yield make
    stream.is_away = False
    for sender in senders:
        sender.close()


@pytest.mark.parametrize("is_spilled", [False, True], ids=["in memory", "spilled"])
def test_records_that_come_after_a_lost_reply_are_not_lost(
    make_sender: MakeSender, stream: Stream, tmp_path: Path, *, is_spilled: bool
) -> None:
    """The batch may be on the stream already. If it got more records, its guard would keep them off the stream."""
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20) if is_spilled else None)

    def append(guard: str, records: Sequence[bytes]) -> None:
        stream.append(guard, records)
        if len(stream.calls) == 1:
            sender.put(b"two")
            raise ConnectionError("the reply is lost")

    sender._append = append
    sender.put(b"one")
    wait_until_sync(lambda: stream.records == [b"one", b"two"])


def test_a_spill_directory_that_cannot_be_read_holds_up_no_record(
    make_sender: MakeSender, stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record is sent. The standard error says what is wrong with the directory."""
    (tmp_path / "spilled").write_text("in the way")
    sender = make_sender(Spill(tmp_path / "spilled", limit_bytes=1 << 20))
    sender.put(b"one")
    wait_until_sync(lambda: stream.records == [b"one"])
    assert "spilled" in capsys.readouterr().err


def test_a_spill_file_that_cannot_be_read_holds_up_no_record(
    make_sender: MakeSender, stream: Stream, tmp_path: Path
) -> None:
    """The other files are sent, too."""
    (tmp_path / f"{FIRST}.ndjson").mkdir()
    (tmp_path / f"{SECOND}.ndjson").write_bytes(b"spilled\n")
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20))
    sender.put(b"one")
    wait_until_sync(lambda: stream.records == [b"spilled", b"one"])


def test_a_spill_file_that_cannot_be_removed_is_sent_once(
    make_sender: MakeSender, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may own the directory. The file stays, and would be sent again whenever its guard has expired."""

    def refuse(self: Spill, guard: str) -> None:
        raise PermissionError(guard)

    monkeypatch.setattr(Spill, "remove", refuse)
    (tmp_path / f"{FIRST}.ndjson").write_bytes(b"spilled\n")
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20))
    sender.put(b"one")
    wait_until_sync(lambda: stream.records == [b"spilled", b"one"])
    sender._next_look_at = 0.0
    sender.put(b"two")
    wait_until_sync(lambda: stream.records == [b"spilled", b"one", b"two"])
    assert stream.calls.count(FIRST) == 1
    sender.flush(seconds=1)


def test_other_files_in_the_spill_directory_stay(make_sender: MakeSender, stream: Stream, tmp_path: Path) -> None:
    """They are not records. They are neither sent nor deleted."""
    for name in ("customers.ndjson", "2026-01-02.ndjson"):
        (tmp_path / name).write_bytes(b'{"name": "Ada"}\n')
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20))
    sender.put(b"one")
    sender.flush(seconds=2)
    assert stream.records == [b"one"]
    assert len([*tmp_path.iterdir()]) == 2


def test_a_record_after_the_end_is_dropped_counted_and_reported(
    make_sender: MakeSender, capsys: pytest.CaptureFixture[str]
) -> None:
    """A logger may have a handler that a new configuration has closed."""
    sender = make_sender()
    sender.put(b"one")
    sender.close()
    sender.put(b"two")
    assert sender.statistics()["refused"] == 1
    assert "closed" in capsys.readouterr().err


def test_the_end_does_not_wait_for_a_record_of_the_thread(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """`logging` holds the lock of a handler while it flushes it, and a library that the thread uses may log."""
    handler = RedisStreamHandler(exit_seconds=30)
    logger = logging.getLogger("tests.sender")
    logger.addHandler(handler)

    def log_and_append(guard: str, records: Sequence[bytes]) -> None:
        logger.warning("from the thread")
        stream.append(guard, records)

    monkeypatch.setattr(handler._sender, "_append", log_and_append)
    try:
        logger.warning("hello")
        before = time.monotonic()
        logging.shutdown([weakref.ref(handler)])
        assert time.monotonic() - before < 20
        assert len(stream.records) == 1
    finally:
        logger.removeHandler(handler)


def test_the_end_takes_no_longer_than_it_may(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor kills a process that takes too long to end."""
    stream.is_away = True
    handlers: list[RedisStreamHandler] = []

    def end() -> None:
        handler = RedisStreamHandler(exit_seconds=1)
        handlers.append(handler)
        monkeypatch.setattr(handler._sender, "_append", stream.append)
        handler.handle(logging.makeLogRecord({"msg": "hello"}))
        logging.shutdown([weakref.ref(handler)])

    assert is_done_within(1.7, end)
    stream.is_away = False
    wait_until_sync(lambda: not any(handler._sender.waiting_count for handler in handlers))


def test_what_arrives_after_the_end_is_counted_once(make_sender: MakeSender, stream: Stream) -> None:
    """`close` has counted it as lost when Redis answers at last."""
    sender, may_answer = make_sender(), threading.Event()

    def append_late(guard: str, records: Sequence[bytes]) -> None:
        may_answer.wait(10)
        stream.append(guard, records)

    sender._append = append_late
    sender.put(b"one")
    sender.close()
    may_answer.set()
    assert sender._thread is not None
    sender._thread.join(10)
    assert stream.records == [b"one"]
    counted = sender.statistics()
    assert (counted["queued"], counted["sent"], counted["lost"]) == (1, 0, 1)
    assert sender.waiting_count == 0


def read_spilled(directory: Path) -> dict[str, list[bytes]]:
    """The batches in spill files, by guard, oldest first."""
    return {path.stem: path.read_bytes().splitlines() for path in sorted(directory.glob("*.ndjson"))}


def let_hang(sender: Sender, stream: Stream) -> tuple[threading.Event, threading.Event]:
    """Let each append wait. Returns an event that says that one waits, and one that lets it go on."""
    hangs, may_go_on = threading.Event(), threading.Event()

    def append_late(guard: str, records: Sequence[bytes]) -> None:
        records = [*records]
        hangs.set()
        may_go_on.wait(10)
        stream.append(guard, records)

    sender._append = append_late
    return hangs, may_go_on


def test_the_end_spills_what_a_thread_that_hangs_has_left(
    make_sender: MakeSender, stream: Stream, tmp_path: Path
) -> None:
    """A name server may not answer. The batch keeps its guard: if it arrives after all, it arrives once."""
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20))
    hangs, may_go_on = let_hang(sender, stream)
    sender.put(b"one")
    assert hangs.wait(10)
    sender.put(b"two")
    sender.put(b"three")
    sender.close()
    assert [*read_spilled(tmp_path).values()] == [[b"one"], [b"two", b"three"]]
    counted = {"queued": 3, "sent": 0, "spilled": 3, "replayed": 0, "refused": 0, "lost": 0}
    assert sender.statistics() == counted
    may_go_on.set()
    assert sender._thread is not None
    sender._thread.join(10)
    assert not sender._thread.is_alive()
    assert stream.records == [b"one"]
    assert sender.statistics() == counted
    make_sender(Spill(tmp_path, limit_bytes=1 << 20)).put(b"four")
    wait_until_sync(lambda: stream.records == [b"one", b"two", b"three", b"four"])


def test_the_end_counts_as_lost_what_it_cannot_spill(make_sender: MakeSender, stream: Stream, tmp_path: Path) -> None:
    """What still arrives is not counted again."""
    sender = make_sender(Spill(tmp_path, limit_bytes=5))
    hangs, may_go_on = let_hang(sender, stream)
    sender.put(b"one")
    assert hangs.wait(10)
    sender.put(b"two")
    sender.close()
    assert [*read_spilled(tmp_path).values()] == [[b"one"]]
    may_go_on.set()
    assert sender._thread is not None
    sender._thread.join(10)
    counted = sender.statistics()
    assert (counted["queued"], counted["sent"], counted["spilled"], counted["lost"]) == (2, 0, 1, 1)


def test_records_without_a_thread_are_spilled_at_the_end(
    make_sender: MakeSender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that has no threads left starts none."""
    sender = make_sender(Spill(tmp_path, limit_bytes=1 << 20))
    monkeypatch.setattr(sender, "_start", lambda: None)
    sender.put(b"one")
    sender.close()
    assert [*read_spilled(tmp_path).values()] == [[b"one"]]
    assert (sender.statistics()["spilled"], sender.statistics()["lost"]) == (1, 0)


def test_the_end_does_not_wait_for_a_disk_that_hangs(make_sender: MakeSender, stream: Stream, tmp_path: Path) -> None:
    """It would never end. A batch that the thread still spills is counted once."""
    hangs, may_go_on = threading.Event(), threading.Event()

    class SlowSpill(Spill):
        def write(self, guard: str, records: Sequence[bytes]) -> None:
            hangs.set()
            may_go_on.wait(30)
            super().write(guard, records)

    stream.is_away = True
    sender = make_sender(SlowSpill(tmp_path, limit_bytes=1 << 20))
    sender.put(b"one")
    assert hangs.wait(10)
    sender.put(b"two")
    sender.close()
    assert not may_go_on.is_set()
    counted = sender.statistics()
    assert (counted["spilled"], counted["lost"]) == (0, 2)
    may_go_on.set()
    assert sender._thread is not None
    sender._thread.join(10)
    assert not sender._thread.is_alive()
    assert [*read_spilled(tmp_path).values()] == [[b"one"]]
    assert sender.statistics() == counted


def test_the_thread_and_the_end_share_the_records(make_sender: MakeSender, stream: Stream, tmp_path: Path) -> None:
    """Whenever the end comes, each record is sent or spilled once, under one guard, and counted."""
    for number in range(40):
        directory, expected = tmp_path / str(number), [b"%d %d" % (number, each) for each in range(300)]
        sender = make_sender(Spill(directory, limit_bytes=1 << 20))
        sender._limits = replace(LIMITS, exit_seconds=0.001 * (number % 20))
        for record in expected:
            sender.put(record)
        stream.is_away = bool(number % 2)
        sender.close()
        assert sender._thread is not None
        sender._thread.join(10)
        batches = {**read_spilled(directory), **stream.batches}
        found = [record for guard in sorted(batches) for record in batches[guard] if record in set(expected)]
        assert found == expected
        counted = sender.statistics()
        assert counted["sent"] + counted["spilled"] == counted["queued"] == 300
