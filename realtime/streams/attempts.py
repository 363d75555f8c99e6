"""
The second half of an entry's way: from the queue of entries in flight through the handler, and then to its ack, to its
backlog for another attempt, or to the dead letters.

Owns the calls of the handler, and what follows their success or failure. Does not own reading nor the worker's life
(worker).
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from realtime.exceptions import EntriesFailed, PermanentError, Retry, Unavailable
from realtime.redis.backoff import Backoff
from realtime.redis.batcher import Batcher
from realtime.redis.outage import Observer, Outage
from realtime.streams.entry import Entry, Handler, Parking
from realtime.streams.group import ConsumerGroup
from realtime.streams.in_flight import InFlight
from realtime.streams.lease import WorkerLease
from realtime.streams.wakeup import Wakeup
from realtime.untrusted.text import printable

__all__ = ["ENTRIES_IN_A_ROW", "LONGEST_WAIT_SECONDS", "Attempts"]

logger = logging.getLogger(__name__)

# After this many entries whose handlers never waited, other tasks get a turn: reading, acks and the lease.
ENTRIES_IN_A_ROW = 50
# The waits that a handler asks for with Retry are lengthened by a random part of up to this share.
SPREAD = 0.1
# The most characters of an error that are logged and stored.
TEXT_LIMIT = 2000
# The longest wait that a handler can ask for: later entries of the key wait as well.
RETRY_LIMIT_SECONDS = 7 * 86_400.0
# The same with the spread: no entry is ever due later than this.
LONGEST_WAIT_SECONDS = RETRY_LIMIT_SECONDS * (1 + SPREAD)


class _Failure(NamedTuple):
    """A call of the handler that failed, with the entries that it was called with."""

    batch: Sequence[Entry]
    error: Exception


class Attempts:
    """
    Args:
        group: The group's commands.
        handler: Called with each batch.
        in_flight: The entries of this worker.
        lease: Whether attempts may begin.
        wakeup: Wakes the worker when it should look for entries.
        outage: The state of Redis, shared by all its users in the process.
        batch_size, concurrency, max_attempts, backoff, room, suspect_seconds, on_stop, on_acked: As in StreamWorker.

    Attributes:
        handled_count, retried_count, dead_count, lost_count: As in WorkerStatistics.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        handler: Handler,
        *,
        in_flight: InFlight,
        lease: WorkerLease,
        wakeup: Wakeup,
        outage: Outage,
        batch_size: int,
        concurrency: int,
        max_attempts: int,
        backoff: Backoff,
        room: Callable[[int], int] | None = None,
        suspect_seconds: float | None = None,
        on_stop: Callable[[], None] | None,
        on_acked: Callable[[Sequence[Entry]], None] | None,
    ) -> None:
        self.handled_count = 0
        self.retried_count = 0
        self.dead_count = 0
        self.lost_count = 0
        self._group = group
        self._handler = handler
        self._in_flight = in_flight
        self._lease = lease
        self._wakeup = wakeup
        self._outage = outage
        self._handler_outage = Outage(f"a service that the group {group.group} needs")
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._room_for, self._on_stop, self._on_acked = room, on_stop, on_acked
        self._suspect_seconds = suspect_seconds
        # Entries that were finished, or left to another worker, before the end of their handler's call.
        self._finished_early: set[bytes] = set()
        # Entries whose handler raised Unavailable while the worker stopped: their attempt is not to be counted.
        self._given_back: list[Entry] = []
        # One slot for each concurrent call of the handler.
        self._slots = asyncio.Semaphore(concurrency)
        # Tasks that handle batches one after another, and the one that handles suspects.
        self._runners: set[asyncio.Task[None]] = set()
        self._suspect_runner: asyncio.Task[None] | None = None
        # Whether the newest runner has not begun yet.
        self._is_starting = False
        # Whether the worker waits until there is room.
        self._is_full = False
        # Entries handled since other tasks had a turn.
        self._in_a_row_count = 0
        # Set when an end was confirmed.
        self._confirmed = asyncio.Event()
        self._stopping = asyncio.Event()
        # Owns every task of an attempt, and acks finished entries; both exist from start() on.
        self._tasks: asyncio.TaskGroup
        self._acks: Batcher[Entry, None]

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """From now on attempts are tasks of `tasks`."""
        self._tasks = tasks
        self._acks = Batcher(self._ack, name=f"{self._group.group}: acks", create_task=tasks.create_task)

    def room(self) -> int:
        """How many entries may be read now. If none may, the worker is woken when that changes."""
        if self._room_for is not None:
            room = self._room_for(self._in_flight.unfinished_count)
            self._is_full = room <= 0
            return room
        free_slots = self._concurrency - math.ceil(self._in_flight.unfinished_count / self._batch_size)
        # As many again may wait for their ack. Beyond that, a slow Redis slows down reading.
        room = min(free_slots * self._batch_size, 2 * self._concurrency * self._batch_size - len(self._in_flight))
        self._is_full = room <= 0
        return room

    def take(self, entries: Sequence[Entry], suspects: Sequence[Entry] = ()) -> None:
        """Attempt entries that Redis has handed out; the arguments are those of `InFlight.add`."""
        self._in_flight.add(entries, suspects)
        self._run()

    def lose(self, ids: Iterable[bytes]) -> None:
        """According to Redis, these entries are not this worker's: log it, and begin no attempt with them."""
        lost = self._in_flight.lose(ids)
        if not lost:
            return
        self.lost_count += len(lost)
        logger.warning(
            "%d entries in flight are no longer this worker's in the group %s and may be handled twice: "
            "was it held up for longer than the lease, or Redis wiped?",
            len(lost),
            self._group.group,
        )
        self._remove(self._in_flight.withdraw(lost))

    def finish_early(self, entries: Sequence[Entry]) -> None:
        """Ack entries now, while their handler still runs with others. As in StreamWorker."""
        held = [entry for entry in entries if entry.id in self._in_flight]
        self._finished_early.update(entry.id for entry in held)
        self._in_flight.done(held)
        self._finish(held)

    def begin_end(self, entries: Sequence[Entry]) -> None:
        """The handler sends the end of these entries to Redis itself. As in StreamWorker."""
        self._in_flight.begin_end([entry.id for entry in entries if entry.id in self._in_flight])
        self.ask_for_room()

    def acked_early(self, entries: Sequence[Entry]) -> None:
        """Count and forget entries of a handler that still runs with others, because Redis has acked them."""
        held = [entry for entry in entries if entry.id in self._in_flight]
        self._finished_early.update(entry.id for entry in held)
        self._in_flight.done(held)
        self._count_acked(held)

    def leave_early(self, entries: Sequence[Entry]) -> None:
        """Forget entries that another worker has now, while their handler runs with others. As in StreamWorker."""
        held = [entry for entry in entries if entry.id in self._in_flight]
        self._finished_early.update(entry.id for entry in held)
        self._in_flight.done(held)
        self._remove([entry.id for entry in held])

    def ask_for_room(self) -> None:
        """Wake the worker if it waits for room, and there is room now."""
        if self._is_full and self._has_room_again():
            self._is_full = False
            self._wakeup.wake()

    def count_unreadable(self, count: int) -> None:
        """Count and log parked entries that could not be read, and that Redis has made dead letters."""
        self.dead_count += count
        logger.error(
            "%d parked entries of the group %s could not be read and are dead letters: "
            "did another program write to %s?",
            count,
            self._group.group,
            self._group.keys.parked,
        )

    async def drain(self, deadline_seconds: float) -> None:
        """Begin no further attempt and finish those that run. Handlers that still run at the deadline are cancelled."""
        self._stopping.set()
        self._lease.wake()
        if self._on_stop is not None:
            self._on_stop()
        running = {*self._runners, *([self._suspect_runner] if self._suspect_runner else [])}
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        if running:
            _, late = await asyncio.wait(running, timeout=deadline_seconds)
            for task in late:
                task.cancel()
            if late:
                logger.warning("%d handlers of the group %s were cut off by the deadline", len(late), self._group.group)
                await asyncio.wait(late)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._in_flight.ending_count:
                    self._confirmed.clear()
                    await self._confirmed.wait()
        self._acks.stop()

    def unbegun(self) -> list[Entry]:
        """Entries in flight whose attempt was counted, and has not begun or is not to count."""
        return [*self._in_flight.unbegun(), *self._given_back]

    async def still_held(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of these entries in handlers that are still this worker's; none if it stops without its lease."""
        await self._lease.wait_held(self._stopping)
        if not self._lease.is_held:
            return set()
        return {id for id in ids if id in self._in_flight and not self._in_flight.has_lost(id)}

    # Attempts --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Each runner starts the next one, if it is needed: handlers that never wait need only one.
        if self._in_flight.has_ready and not self._is_starting and len(self._runners) < self._concurrency:
            self._is_starting = True
            task = self._tasks.create_task(self._run_batches(), name=f"{self._group.group}: handler")
            self._runners.add(task)
        if self._in_flight.has_suspects and self._suspect_runner is None:
            self._suspect_runner = self._tasks.create_task(self._run_suspects(), name=f"{self._group.group}: suspects")

    async def _run_batches(self) -> None:
        self._is_starting = False
        try:
            while self._in_flight.has_ready:
                async with self._slots:
                    if not self._lease.is_held:
                        await self._lease.wait_held(self._stopping)
                    if self._stopping.is_set():
                        return
                    if batch := self._in_flight.next_batch(self._batch_size):
                        self._run()
                        if (failure := await self._try(batch)) is not None:
                            await self._fail_batch(*failure)
                        self._in_flight.done(batch)
                        self._in_a_row_count += len(batch)
                if self._in_a_row_count >= ENTRIES_IN_A_ROW:
                    self._in_a_row_count = 0
                    await asyncio.sleep(0)
        finally:
            # A done callback of the task would be too late: a read may return before it and still find this runner.
            if (task := asyncio.current_task()) is not None:
                self._runners.discard(task)

    async def _run_suspects(self) -> None:
        """
        Try suspects: the first one alone, then two, four and so on, as long as none of them fails or ends the process.
        With `suspect_seconds`: one by one.

        The last attempt of a suspect is always alone. So no entry becomes a dead letter because of another one, and
        thousands of entries whose workers were killed by chance are not tried one by one.
        """
        if self._suspect_seconds is not None:
            await self._run_suspects_alone(self._suspect_seconds)
            return
        size = 1
        try:
            while self._in_flight.has_suspects:
                async with self._slots:
                    await self._lease.wait_held(self._stopping)
                    if self._stopping.is_set():
                        return
                    if suspects := self._in_flight.next_suspects(size, alone_from=self._max_attempts - 1):
                        is_success = await self._attempt_suspects(suspects)
                        size = min(2 * size, self._batch_size) if is_success else 1
                        self._in_flight.done(suspects)
                        self._run()
        finally:
            self._suspect_runner = None

    async def _run_suspects_alone(self, seconds: float) -> None:
        """Try suspects one by one. Each begins when the one before has ended, or has run for this many seconds."""
        try:
            while self._in_flight.has_suspects:
                await self._lease.wait_held(self._stopping)
                if self._stopping.is_set():
                    return
                if suspects := self._in_flight.next_suspects(1, alone_from=0):
                    name = f"{self._group.group}: suspect"
                    runner = self._tasks.create_task(self._run_suspect(suspects), name=name)
                    self._runners.add(runner)
                    runner.add_done_callback(self._runners.discard)
                    await asyncio.wait([runner], timeout=seconds)
        finally:
            self._suspect_runner = None

    async def _run_suspect(self, suspects: Sequence[Entry]) -> None:
        async with self._slots:
            await self._attempt_suspects(suspects)
            self._in_flight.done(suspects)
            self._run()

    async def _attempt_suspects(self, suspects: Sequence[Entry]) -> bool:
        """Try suspects of different keys together. Returns whether none of them failed."""
        if suspects[0].attempt >= self._max_attempts:
            (entry,) = suspects
            await self._give_up(entry, "unfinished", "no attempt came to an end: its handler may end the process")
            return False
        begun = await self._outage.until_done(self._group.begin_attempts, suspects)
        if lost := [entry.id for entry in suspects if entry.id not in begun]:
            self.lose(lost)
            self._remove(lost)
            self._ask_redis()
        batch = [
            msgspec.structs.replace(entry, attempt=entry.attempt + 1, is_suspect=True)
            for entry in suspects
            if entry.id in begun
        ]
        failure = await self._try(batch) if batch else None
        if failure is not None:
            await self._fail_batch(*failure)
        return failure is None

    async def _fail_batch(self, batch: Sequence[Entry], error: Exception) -> None:
        """A batch failed: finish its entries that are done, and try or fail the others, those of one key in order."""
        if len(batch) == 1:
            await self._fail(batch[0], error, [])
            return
        errors = _errors_of(batch, error)
        rest = self._finish_done(batch, errors)
        while rest:
            entry, *rest = rest
            if self._in_flight.has_lost(entry.id):
                self._remove([entry.id])
                continue
            if entry.id not in errors:
                # An older entry of its key failed, and has become a dead letter.
                self._finish([entry])
                continue
            own_error = errors[entry.id]
            if own_error is None:
                if self._stopping.is_set():
                    self._given_back.append(entry)
                elif (failure := await self._try([entry])) is not None:
                    own_error = failure.error
            if own_error is not None:
                followers = [each for each in rest if each.key == entry.key]
                if await self._fail(entry, own_error, followers):
                    rest = [each for each in rest if each.key != entry.key]

    def _finish_done(self, batch: Sequence[Entry], errors: Mapping[bytes, Exception | None]) -> list[Entry]:
        """Finish the entries before the first one of their key that failed. Returns the others."""
        done: list[Entry] = []
        rest: list[Entry] = []
        failed_keys: set[bytes] = set()
        for entry in batch:
            if entry.id in errors:
                failed_keys.add(entry.key)
            (rest if entry.key in failed_keys else done).append(entry)
        if done:
            self._finish(done)
        return rest

    async def _try(self, batch: Sequence[Entry]) -> _Failure | None:
        """Call the handler until it does not raise `Unavailable`. Return its failure, or None if there is none."""
        failures = 0
        # Created by the first failure: this code runs for each batch, and most batches do not fail.
        observer: Observer | None = None
        try:
            while True:
                if failures or not self._lease.is_held:
                    batch = await self._still_held(batch)
                    if not batch:
                        return None
                try:
                    await self._handler(batch)
                except asyncio.CancelledError as cancelled:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    error: Exception | None = RuntimeError(
                        f"the handler raised {cancelled!r} though nobody cancelled it"
                    )
                except Exception as raised:
                    error = _meaning_of(raised, batch)
                else:
                    error = None
                if self._finished_early:
                    batch = self._without_finished(batch)
                if error is None:
                    if self._handler_outage.is_on:
                        (observer or self._handler_outage.observer()).worked()
                    self._finish(batch)
                    return None
                if not isinstance(error, Unavailable):
                    return _Failure(batch, error)
                observer = observer or self._handler_outage.observer()
                # When the worker stops, a handler may also raise this to give back entries that it has not begun.
                if not self._stopping.is_set():
                    observer.failed(error)
                await self._pause(self._backoff.delay_seconds(failures))
                failures += 1
        finally:
            if observer is not None:
                observer.leave()

    def _without_finished(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """The entries of a call that were neither finished nor left early."""
        rest = [entry for entry in batch if entry.id not in self._finished_early]
        self._finished_early.difference_update(entry.id for entry in batch)
        return rest

    async def _still_held(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """Wait until an attempt may begin. Returns the entries that are still this worker's, or none if it stops."""
        await self._lease.wait_held(self._stopping)
        self._remove([entry.id for entry in batch if self._in_flight.has_lost(entry.id)])
        batch = [entry for entry in batch if entry.id in self._in_flight]
        if self._stopping.is_set():
            # They are left to other workers.
            self._given_back += batch
            return []
        return batch

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the worker stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # Success ---------------------------------------------------------------------------------------------------------

    def _finish(self, batch: Sequence[Entry]) -> None:
        self._in_flight.begin_end([entry.id for entry in batch])
        self._acks.add(batch)
        self.ask_for_room()

    def _has_room_again(self) -> bool:
        unfinished_count = self._in_flight.unfinished_count
        if self._room_for is not None:
            return self._room_for(unfinished_count) > 0
        # Not for each entry that ends: reading a single entry costs Redis as much as reading many.
        return 2 * unfinished_count <= self._concurrency * self._batch_size

    async def _ack(self, entries: list[Entry]) -> None:
        came_due = await self._outage.until_done(self._group.finish, entries)
        self._count_acked(entries)
        if came_due:
            self._wakeup.wake()

    def _count_acked(self, entries: Sequence[Entry]) -> None:
        """Redis has confirmed the ack of these entries."""
        self.handled_count += len(entries)
        again = self._remove([entry.id for entry in entries], is_acked=True)
        if self._on_acked is not None:
            self._report_acked(entries, {entry.id for entry in again})

    def _report_acked(self, entries: Sequence[Entry], again: set[bytes]) -> None:
        acked = [entry for entry in entries if entry.id not in again] if again else entries
        if self._on_acked is None or not acked:
            return
        try:
            self._on_acked(acked)
        except Exception:
            # The entries are acked all the same, and the worker goes on.
            logger.exception("on_acked of the group %s failed for %d entries", self._group.group, len(acked))

    def _remove(self, ids: Sequence[bytes], *, is_acked: bool = False) -> list[Entry]:
        """Redis has confirmed the end of these entries, or they are lost. Returns those that must be acked again."""
        has_redelivered = self._in_flight.has_redelivered
        again = self._in_flight.remove(ids, is_acked=is_acked)
        self._confirmed.set()
        if has_redelivered:
            self._run()
        if again:
            # They were handled once, and are counted when they are acked again.
            self.handled_count -= len(again)
            self._finish(again)
        if self._is_full:
            self._is_full = False
            self._wakeup.wake()
        return again

    # Failure ---------------------------------------------------------------------------------------------------------

    async def _fail(self, entry: Entry, error: Exception, followers: Sequence[Entry]) -> bool:
        """
        Park an entry that failed alone for another attempt, or give it up.

        Args:
            followers: Entries of its key in the same batch that have not been tried alone.

        Returns:
            True if all in-flight entries of the key were parked with it.
        """
        # Errors may quote untrusted text.
        text = printable(f"{type(error).__name__}: {error}", limit=TEXT_LIMIT)
        if isinstance(error, PermanentError):
            await self._give_up(entry, "rejected", printable(str(error.reason), limit=TEXT_LIMIT))
            return False
        if entry.attempt >= self._max_attempts:
            await self._give_up(entry, "failed", text, error)
            return False
        delay_seconds = self._delay_seconds(entry, error)
        logger.warning(
            "entry %s of the group %s failed in attempt %d of %d, the next one is in %.1f s: %s",
            entry.id.decode(),
            self._group.group,
            entry.attempt,
            self._max_attempts,
            delay_seconds,
            text,
            # A handler raises Retry on purpose: its traceback is of no use.
            exc_info=None if isinstance(error, Retry) else error,
        )
        self.retried_count += 1
        parkings = [Parking(each, each.attempt - 1, 0.0) for each in followers]
        await self._park(entry.key, [Parking(entry, entry.attempt, delay_seconds), *parkings])
        return True

    async def _park(self, key: bytes, parkings: list[Parking]) -> None:
        """Park entries, and all that wait behind them in flight."""
        while True:
            parkings += (Parking(each, attempts, 0.0) for each, attempts in self._in_flight.take_followers(key))
            ids = [parking.entry.id for parking in parkings]
            self._in_flight.begin_end(ids)
            recovery_count = self._lease.recovery_count
            if is_moved := await self._outage.until_done(self._group.park, key, parkings):
                break
            # Redis knows of more entries or of another attempt: a reply or the lease was lost.
            self._ask_redis()
            if is_moved is False:
                break
            if not await self._lease.wait_recovered(recovery_count):
                return
        self._remove(ids)
        self._wakeup.wake()

    async def _give_up(self, entry: Entry, reason: str, error: str, cause: Exception | None = None) -> None:
        """Move an entry to the dead letters."""
        self._in_flight.begin_end([entry.id])
        came_due = await self._outage.until_done(self._group.dead_letter, entry, reason, error)
        if came_due is None:
            self._remove([entry.id])
            self._ask_redis()
            return
        self.dead_count += 1
        self._remove([entry.id], is_acked=True)
        logger.error(
            "entry %s of the group %s is a dead letter after %d attempts (%s): %.200s",
            entry.id.decode(),
            self._group.group,
            entry.attempt,
            reason,
            error,
            exc_info=cause,
        )
        if came_due:
            self._wakeup.wake()

    def _ask_redis(self) -> None:
        """Let the worker ask Redis which entries it holds."""
        self._lease.invalidate()
        self._wakeup.wake()

    def _delay_seconds(self, entry: Entry, error: Exception) -> float:
        if isinstance(error, Retry) and not math.isnan(error.after_seconds):
            after_seconds = min(max(0.0, error.after_seconds), RETRY_LIMIT_SECONDS)
            return after_seconds * (1 + random.uniform(0, SPREAD))  # noqa: S311 - spreads load, keeps no secret
        return self._backoff.delay_seconds(entry.attempt - 1)


def _meaning_of(error: Exception, batch: Sequence[Entry]) -> Exception | None:
    """The error that a call of the handler counts as: of a single entry its own, and None if no entry failed."""
    if not isinstance(error, EntriesFailed):
        return error
    if unknown := error.errors.keys() - {entry.id for entry in batch}:
        # The handler is wrong about its batch. Acking the others could lose the entries that it means.
        wrong = ValueError(f"the handler named a failed entry that is not in its batch: {unknown.pop()!r}")
        wrong.__cause__ = error
        return wrong
    if not error.errors:
        return None
    return error.errors[batch[0].id] if len(batch) == 1 else error


def _errors_of(batch: Sequence[Entry], error: Exception) -> Mapping[bytes, Exception | None]:
    """The entries of a batch that failed, each with its error, or with None if it is to be tried alone."""
    if not isinstance(error, EntriesFailed):
        return dict.fromkeys(entry.id for entry in batch)
    return {id: None if isinstance(each, Unavailable) else each for id, each in error.errors.items()}
