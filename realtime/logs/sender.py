"""
Sends records to a Redis Stream from a thread of its own, in batches.

Owns the queue between the program and Redis, its limits, and what happens while Redis takes nothing. Does not own the
form of a record (record), the files (spill) nor the client of Redis (handler).
"""

import contextlib
import multiprocessing.util
import os
import queue
import random
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from realtime.logs.spill import Spill, SpillFull

__all__ = ["Sender", "SenderLimits"]

# The limits of a batch. A Lua script appends it, and Redis does nothing else meanwhile.
BATCH_RECORDS = 500
BATCH_BYTES = 262_144
# The limit of the random wait after the first failed attempt. It doubles with each further one, up to the second value.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 5.0
# How often records are spilled while Redis takes none.
SPILL_SECONDS = 0.25
# How often the thread looks for spill files of other processes, which may have died.
LOOK_SECONDS = 60.0
# How long `close` waits for the thread to finish what it does with the queue or the disk.
TAKE_OVER_SECONDS = 0.5
# The shortest time between two lines of one kind on the standard error.
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLimits:
    """
    The limits of a sender.

    Attributes:
        queue_records, queue_bytes, gather_seconds, exit_seconds: As in RedisStreamHandler.
    """

    queue_records: int
    queue_bytes: int
    gather_seconds: float
    exit_seconds: float


class Sender:
    """
    A queue of records, and the thread that sends them. The first record or `send_spilled` starts the thread.

    Args:
        append: Called as `append(guard, records)`; appends a batch to the stream, once for each guard. Any error means
            that Redis did not confirm it.
        spill: Where batches are written that Redis does not take. Without it, records wait in the queue.
        limits: What may wait, and for how long.
        name: Begins each line on the standard error.
        on_end: Called by the thread when it ends, to close what only `append` uses.

    Guarantees:
        `put` never waits and never raises. The records of a process are appended in the order of the calls. Each is
        appended once, unless an outage lasts longer than the guard of its batch: then perhaps twice. A forked child has
        an empty queue and its own thread.
    """

    def __init__(
        self,
        append: Callable[[str, Sequence[bytes]], object],
        *,
        spill: Spill | None,
        limits: SenderLimits,
        name: str,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._append, self._spill, self._limits, self._name, self._on_end = append, spill, limits, name, on_end
        self._reset()
        if hasattr(os, "register_at_fork"):
            # The interpreter keeps this function for ever, so the function must not keep the sender.
            reset = weakref.WeakMethod(self._reset)
            os.register_at_fork(after_in_child=lambda: (found := reset()) and found())

    def _reset(self) -> None:
        """Set the state of a new process: a forked child has none of its parent's records, and no thread."""
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Changed only by `put` and `refuse`: the records and bytes that were queued, the records that had no room, and
        # those that were refused for another reason.
        self._queued_count = self._queued_bytes = self._refused_count = self._unfit_count = 0
        # Changed only by the thread, and by `close` when it has taken over: what was taken from the queue, and what
        # became of it.
        self._taken_count = self._taken_bytes = 0
        self._sent_count = self._spilled_count = self._replayed_count = 0
        # Written by `close` alone: the records that it gave up, and whether it has. What the thread still does with
        # them is not counted again.
        self._lost_count, self._is_given_up = 0, False
        # Set by `close` when it spills the records itself. The thread then takes no more of them.
        self._is_taken_over = False
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # Set while `flush` waits: the thread then does not gather records.
        self._is_urgent = threading.Event()
        # Held by whoever takes records from the queue or uses the disk, but not while Redis is waited for.
        self._taking = threading.Lock()
        # Notified after each step of the thread. Held while a batch is counted.
        self._progress = threading.Condition()
        # Records that are taken from the queue, and neither sent nor spilled.
        self._batch: _Batch | None = None
        # Whether this process has spilled records that are not sent, and when to look for files of other processes.
        self._has_spilled, self._next_look_at = False, 0.0
        # Spill files that were sent, but could not be removed.
        self._replayed: set[str] = set()
        # The attempts that failed in a row, and when the next one is due.
        self._failures, self._retry_at = 0, 0.0
        self._reports = _Reports(self._name)
        # How many refused records were reported on the standard error.
        self._reported_count = 0

    # For the program that logs ----------------------------------------------------------------------------------------

    @property
    def thread_ident(self) -> int | None:
        """The thread that sends. What it logs itself must not be sent: each record would cause another one."""
        return None if self._thread is None else self._thread.ident

    @property
    def waiting_count(self) -> int:
        """How many queued records are neither sent nor spilled."""
        return self._queued_count - self._sent_count - self._spilled_count - self._lost_count

    def statistics(self) -> dict[str, int]:
        """
        What became of the records, for `realtime.statistics`.

        "queued" = "sent" + "spilled" + "lost" + those that wait. "refused" had no room in the queue or were too large,
        "lost" were in it when `close` gave up; the batch that is then being sent may arrive. "replayed" were read from
        spill files, also of other processes, and sent.
        """
        return {
            "queued": self._queued_count,
            "sent": self._sent_count,
            "spilled": self._spilled_count,
            "replayed": self._replayed_count,
            "refused": self._refused_count + self._unfit_count,
            "lost": self._lost_count,
        }

    def put(self, record: bytes) -> None:
        """Queue a record; drop and count it if the queue is full. Called by one thread at a time."""
        if (
            self._is_closed
            or self._queued_count - self._taken_count >= self._limits.queue_records
            or self._queued_bytes - self._taken_bytes + len(record) > self._limits.queue_bytes
        ):
            self._refused_count += 1
            if self._is_closed:
                # The thread that reports dropped records may have ended.
                self._reports.write("closed", "a record was dropped: the handler is closed")
            return
        self._queued_count += 1
        self._queued_bytes += len(record)
        self._queue.put(record)
        if self._thread is None:
            self._start()

    def send_spilled(self) -> None:
        """Start the thread, which sends spill files, if there is a directory. Never called while `put` is."""
        if self._spill is not None and self._thread is None and not self._is_closed:
            self._start()

    def refuse(self, reason: str) -> None:
        """Count a record that is not queued, and report the reason. Called by one thread at a time."""
        self._unfit_count += 1
        self._reports.write("unfit", f"a record was dropped: {reason}")

    def flush(self, *, seconds: float | None = None) -> bool:
        """
        Wait until all records that were queued before are sent or spilled.

        Args:
            seconds: The longest wait; `exit_seconds` by default.

        Returns:
            False if some are not.
        """
        if seconds is None:
            seconds = self._limits.exit_seconds
        if self._thread is None or threading.get_ident() == self._thread.ident:
            return not self.waiting_count
        target = self._queued_count
        self._is_urgent.set()
        # Wake the thread if it waits for a record.
        self._queue.put(None)
        with self._progress:
            return self._progress.wait_for(lambda: self._queued_count - self.waiting_count >= target, seconds)

    def close(self) -> None:
        """
        Send or spill what is queued, within `exit_seconds`, and end the thread. Idempotent.

        A thread that hangs, for example because a name server does not answer, does neither in time. Then this spills
        the records itself. What cannot be spilled is lost, and counted.
        """
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + self._limits.exit_seconds
        if self._thread is not None:
            self.flush()
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._report_refused()
        if self._spill is not None and self.waiting_count:
            self._take_over(self._spill)
        with self._progress:
            self._lost_count, self._is_given_up = self.waiting_count, True
        if lost := self._lost_count:
            self._reports.write("lost", f"{lost} records are lost: Redis did not take them in time")

    def _take_over(self, spill: Spill) -> None:
        """
        Spill what the thread has left: the batch that it sends, under the same guard, and what is queued.

        If the thread itself hangs on the disk, this does nothing: it would hang, too.
        """
        self._is_taken_over = True
        # Wake the thread if it waits for a record.
        self._queue.put(None)
        if self._taking.acquire(timeout=TAKE_OVER_SECONDS):
            try:
                while self._spill_batch(spill):
                    pass
            finally:
                self._taking.release()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log records to Redis", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is ending, or the system has no threads left. The next record tries again.
            self._thread = None
            return
        if multiprocessing.parent_process() is not None:
            # A process that multiprocessing has forked ends without `logging.shutdown`. This finalizer runs last, after
            # others that may log.
            multiprocessing.util.Finalize(None, self.flush, exitpriority=-1_000)

    # The thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._wait()
                self._step()
            except Exception as error:
                # A defect of this module. The records wait and are tried again.
                self._fail(error)
            with self._progress:
                self._progress.notify_all()
            if not self.waiting_count:
                self._is_urgent.clear()
            if self._is_closed and (self._is_taken_over or not self.waiting_count):
                self._on_end()
                return

    def _wait(self) -> None:
        """Wait for a record and gather more for its batch. After a failed attempt, wait until the next one."""
        now = time.monotonic()
        if self._failures:
            time.sleep(min(max(0.0, self._retry_at - now), SPILL_SECONDS))
            return
        timeout = None if self._spill is None else max(0.0, self._next_look_at - now)
        with self._taking, contextlib.suppress(queue.Empty):
            if not self._is_taken_over:
                self._take(self._queue.get(timeout=timeout))
        self._is_urgent.wait(self._limits.gather_seconds)

    def _take(self, record: bytes | None) -> None:
        if record is None:
            return
        self._taken_count += 1
        self._taken_bytes += len(record)
        if self._batch is None:
            self._batch = _Batch()
        self._batch.add(record)

    def _next_batch(self) -> "_Batch | None":
        """The batch that failed before, or a new one. Called with `_taking` held."""
        with contextlib.suppress(queue.Empty):
            while self._batch is None or not self._batch.is_full:
                self._take(self._queue.get_nowait())
        return self._batch

    def _step(self) -> None:
        """Send everything that is queued. While Redis takes nothing, spill it."""
        if time.monotonic() >= self._retry_at:
            try:
                self._send()
            except Exception as error:
                self._fail(error)
            else:
                self._succeed()
        if self._failures and self._spill is not None:
            self._spill_queued(self._spill)
        self._report_refused()

    def _send(self) -> None:
        if self._spill is not None and (self._has_spilled or time.monotonic() >= self._next_look_at):
            # Spilled records are older than queued ones.
            self._replay(self._spill)
        while (batch := self._batch_to_send()) is not None:
            self._append(batch.guard, batch.records)
            with self._taking, self._progress:
                # Otherwise `close` has spilled it.
                if self._batch is batch:
                    self._batch = None
                    if not self._is_given_up:
                        self._sent_count += len(batch.records)

    def _batch_to_send(self) -> "_Batch | None":
        with self._taking:
            batch = None if self._is_taken_over else self._next_batch()
            if batch is not None:
                batch.is_tried = True
            return batch

    def _replay(self, spill: Spill) -> None:
        """Send the spill files, oldest first. One that cannot be read or removed stays, and holds up nothing else."""
        guards = self._on_disk(spill.guards) or []
        self._replayed.intersection_update(guards)
        for guard in guards:
            if guard not in self._replayed and (records := self._on_disk(spill.read, guard)) is not None:
                if records:
                    self._append(guard, records)
                self._replayed.add(guard)
                self._on_disk(spill.remove, guard)
                self._replayed_count += len(records)
        self._on_disk(spill.tidy)
        self._has_spilled, self._next_look_at = False, time.monotonic() + LOOK_SECONDS

    def _on_disk[T](self, call: Callable[..., T], *arguments: Any) -> T | None:
        """The result of a call for spill files. None if the disk fails: this is reported, and holds up nothing else."""
        try:
            with self._taking:
                return call(*arguments)
        except OSError as error:
            self._reports.write("disk", f"spill files cannot be read or removed: {error}")
            return None

    def _spill_queued(self, spill: Spill) -> None:
        is_spilled = True
        while is_spilled:
            with self._taking:
                is_spilled = not self._is_taken_over and self._spill_batch(spill)

    def _spill_batch(self, spill: Spill) -> bool:
        """Spill the next batch. Called with `_taking` held. Returns False if there is none, or the disk takes none."""
        if (batch := self._next_batch()) is None:
            return False
        try:
            spill.write(batch.guard, batch.records)
        except (SpillFull, OSError) as error:
            self._reports.write("spill", f"records cannot be spilled, and wait in memory: {error}")
            return False
        with self._progress:
            self._has_spilled, self._batch = True, None
            if not self._is_given_up:
                self._spilled_count += len(batch.records)
        return True

    def _fail(self, error: Exception) -> None:
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(self._failures, 10))
        self._retry_at = time.monotonic() + random.SystemRandom().uniform(0, wait)
        self._failures += 1
        if self._failures == 1:
            where = "are spilled to the disk" if self._spill is not None else "wait in memory"
            self._reports.write("outage", f"{type(error).__name__}: {error}. Records {where} until Redis takes them")

    def _succeed(self) -> None:
        if self._failures and not self._is_taken_over:
            self._reports.write("end", "Redis takes records again")
        self._failures = 0

    def _report_refused(self) -> None:
        count = self._refused_count - self._reported_count
        if count and self._reports.write("refused", f"{count} records were dropped: the queue is full"):
            self._reported_count += count


class _Batch:
    """Records that are sent or spilled together."""

    def __init__(self) -> None:
        # Also the name of a spill file. It begins with the time, because files are sent in the order of their names.
        self.guard = f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.records: list[bytes] = []
        self._bytes = 0
        # Whether Redis may have appended it. Then no record is added: Redis appends nothing more under the same guard.
        self.is_tried = False

    def add(self, record: bytes) -> None:
        self.records.append(record)
        self._bytes += len(record)

    @property
    def is_full(self) -> bool:
        return self.is_tried or len(self.records) >= BATCH_RECORDS or self._bytes >= BATCH_BYTES


class _Reports:
    """Lines on the standard error, where `logging` too reports the errors of handlers."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Kind → when its last line was written, by the monotonic clock.
        self._written_at: dict[str, float] = {}

    def write(self, kind: str, text: str) -> bool:
        """Write a line unless the last one of its kind is newer than REPORT_SECONDS. Returns whether it was written."""
        now = time.monotonic()
        if now - self._written_at.get(kind, -REPORT_SECONDS) < REPORT_SECONDS:
            return False
        self._written_at[kind] = now
        with contextlib.suppress(Exception):
            print(f"{self._name}: {text}", file=sys.stderr, flush=True)  # noqa: T201
        return True
