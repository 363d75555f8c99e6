"""
The entries that a worker holds, and the calls of its handler.

Owns what is in hand, the slots in which handlers run, and the order of attempts. Does not own what follows a failure
(failures), reading nor the worker's life (worker).
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from realtime.exceptions import Unavailable
from realtime.redis.backoff import Backoff
from realtime.redis.outage import Observer, Outage
from realtime.streams.entry import Entry, Handler
from realtime.streams.failures import Failures
from realtime.streams.group import ConsumerGroup
from realtime.streams.hand import Hand
from realtime.streams.queue import EntryQueue
from realtime.streams.session import Session

__all__ = ["ENTRIES_IN_A_ROW", "Attempts"]

logger = logging.getLogger(__name__)

# After so many entries whose handlers never waited, others get a turn: the reader and the acks, so that Redis works at
# the same time as handlers, and the lease.
ENTRIES_IN_A_ROW = 50


class Attempts:
    """
    Args:
        group: Where entries are acked, put back and buried.
        handler: Called with each batch.
        session: Whether the worker has its lease.
        ring: Called when the worker should look for entries.
        outage: The state of Redis, shared by all its users in the process.
        batch_size, concurrency, max_attempts, backoff, on_stop: As in StreamWorker.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        handler: Handler,
        *,
        session: Session,
        ring: Callable[[], None],
        outage: Outage,
        batch_size: int,
        concurrency: int,
        max_attempts: int,
        backoff: Backoff,
        on_stop: Callable[[], None] | None,
    ) -> None:
        self.handled_count = 0
        self.lost_count = 0
        self._group = group
        self._handler = handler
        self._session = session
        self._ring = ring
        self._outage = outage
        self._handler_outage = Outage(f"a service that the group {group.group} needs")
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._on_stop = on_stop
        # Every entry in hand; at most as many as StreamWorker promises.
        self.hand = Hand()
        # Of those: what no handler has yet.
        self._queue = EntryQueue()
        self.failures = Failures(
            group,
            hand=self.hand,
            queue=self._queue,
            session=session,
            ring=ring,
            drop=self._drop,
            outage=outage,
            max_attempts=max_attempts,
            backoff=backoff,
        )
        # What Redis handed out again before it confirmed that it had been put back, and what comes behind it, by the id
        # of the first of each key; and whether that is a suspect.
        self._again: dict[bytes, tuple[list[Entry], bool]] = {}
        # Of those: what a handler was called with in vain, and no attempt is to be counted for.
        self._given_back: list[Entry] = []
        # Finished entries for the next call of `finish`, all of them held.
        self._unacked: list[Entry] = []
        self._finished = asyncio.Event()
        # One slot for each handler call at a time.
        self._slots = asyncio.Semaphore(concurrency)
        # Tasks that run batches one after another, and the one that runs suspects: entries whose handler may have
        # killed its process are tried one at a time, so that no other of them falls with one.
        self._runners: set[asyncio.Task[None]] = set()
        self._suspect_runner: asyncio.Task[None] | None = None
        # Whether the newest runner has not begun yet.
        self._is_starting = False
        # Whether the worker waits until there is room.
        self._is_full = False
        # Entries that were handled since others had a turn.
        self._in_a_row_count = 0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        # Owns every attempt; there from start() on.
        self._tasks: asyncio.TaskGroup

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """From now on attempts are tasks of `tasks`."""
        self._tasks = tasks

    def room(self) -> int:
        """How many entries may be read now; the worker is rung for when there are none and that changes."""
        free_slots = self._concurrency - math.ceil(self.hand.unfinished_count / self._batch_size)
        # What is finished and not yet acked may be as much again: beyond, a slow Redis holds up reading.
        room = min(free_slots * self._batch_size, 2 * self._concurrency * self._batch_size - len(self.hand))
        self._is_full = room <= 0
        return room

    def take(self, entries: Sequence[Entry], suspects: Iterable[Entry] = ()) -> None:
        """
        Attempt entries whose attempt has begun by their being handed out, and suspects, whose attempt has not.

        Of one key they come oldest first, and there are no suspects and others of one key in one call.
        """
        suspects = list(suspects)
        if not self.hand.is_free_of([*entries, *suspects]):
            entries = self._without_known(entries, are_suspects=False)
            suspects = self._without_known(suspects, are_suspects=True)
        self.hand.hold(entries)
        self._queue.put(entries)
        self.hand.hold(suspects)
        for entry in suspects:
            self._queue.put_suspect(entry)
        self._run()

    def _without_known(self, entries: Sequence[Entry], *, are_suspects: bool) -> list[Entry]:
        """Leave out what is in hand already: it was lost, or went back and came again before that was confirmed."""
        unknown: list[Entry] = []
        waiting: dict[bytes, list[Entry]] = {}
        for entry in entries:
            if entry.key in waiting:
                waiting[entry.key].append(entry)
            elif self.hand.has_ending(entry.id):
                waiting[entry.key] = [entry]
                self._again[entry.id] = waiting[entry.key], are_suspects
            elif entry.id in self.hand:
                self.hand.hold([entry])
            else:
                unknown.append(entry)
        return unknown

    def lose(self, ids: Iterable[bytes]) -> None:
        """Redis says that these entries are not this worker's: say so, and begin no attempt with them."""
        lost = self.hand.lose(ids)
        if not lost:
            return
        self.lost_count += len(lost)
        logger.warning(
            "%d entries in hand are no longer this worker's in the group %s and may be handled twice: "
            "was it held up for longer than the lease, or Redis wiped?",
            len(lost),
            self._group.group,
        )
        self._drop(self._queue.remove(lost))

    async def drain(self, deadline_seconds: float) -> None:
        """Begin no further attempt, finish those that run; what is not done by the deadline is cancelled."""
        self._stopping.set()
        self._session.wake()
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
                while self.hand.is_ending:
                    self._changed.clear()
                    await self._changed.wait()

    def unbegun(self) -> list[Entry]:
        """Entries in hand of which an attempt was counted and none has begun, or none that is to count."""
        return [*self._queue.unbegun(), *self._given_back]

    async def ack_finished(self) -> None:
        """For ever: ack what handlers finish; what finishes while one ack is on its way goes together in the next."""
        while True:
            await self._finished.wait()
            self._finished.clear()
            entries, self._unacked = self._unacked, []
            came_due = await self._outage.until_done(self._group.finish, entries)
            self._drop([entry.id for entry in entries], is_done=True)
            self.handled_count += len(entries)
            if came_due:
                self._ring()

    # Attempts --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # One at a time, each started by the one before it: a handler that never waits needs no second.
        if self._queue.has_ready and not self._is_starting and len(self._runners) < self._concurrency:
            self._is_starting = True
            task = self._tasks.create_task(self._run_batches(), name=f"{self._group.group}: handler")
            self._runners.add(task)
        if self._queue.has_suspects and self._suspect_runner is None:
            self._suspect_runner = self._tasks.create_task(self._run_suspects(), name=f"{self._group.group}: suspects")

    async def _run_batches(self) -> None:
        self._is_starting = False
        try:
            while self._queue.has_ready:
                async with self._slots:
                    if not self._session.is_held:
                        await self._session.wait_held(self._stopping)
                    if self._stopping.is_set():
                        return
                    if batch := self._queue.next_batch(self._batch_size):
                        self._run()
                        if (error := await self._try(batch)) is not None:
                            await self._try_again(batch, error)
                        self._queue.done(batch)
                        self._in_a_row_count += len(batch)
                if self._in_a_row_count >= ENTRIES_IN_A_ROW:
                    self._in_a_row_count = 0
                    await asyncio.sleep(0)
        finally:
            # At once: a callback of the task would come after a read that found its runner still there.
            if (task := asyncio.current_task()) is not None:
                self._runners.discard(task)

    async def _run_suspects(self) -> None:
        try:
            while self._queue.has_suspects:
                async with self._slots:
                    await self._session.wait_held(self._stopping)
                    if self._stopping.is_set():
                        return
                    if (entry := self._queue.next_suspect()) is not None:
                        await self._attempt_suspect(entry)
                        self._queue.done([entry])
                        self._run()
        finally:
            self._suspect_runner = None

    async def _attempt_suspect(self, entry: Entry) -> None:
        if entry.attempt >= self._max_attempts:
            await self.failures.give_up(
                entry, "unfinished", "no attempt came to an end: its handler may end the process"
            )
        elif await self._outage.until_done(self._group.begin_attempt, entry):
            batch = [msgspec.structs.replace(entry, attempt=entry.attempt + 1)]
            if (error := await self._try(batch)) is not None:
                await self._try_again(batch, error)
        else:
            self.lose([entry.id])
            self._drop([entry.id])
            self._session.end()
            self._ring()

    async def _try_again(self, batch: list[Entry], error: Exception) -> None:
        """A batch failed: call the handler with each entry of it, those of one key still in order."""
        if len(batch) > 1:
            rest = batch
            while rest:
                entry, *rest = rest
                if self.hand.has_lost(entry.id):
                    self._drop([entry.id])
                elif self._stopping.is_set():
                    self._given_back.append(entry)
                elif (own_error := await self._try([entry])) is not None:
                    followers = [each for each in rest if each.key == entry.key]
                    if await self.failures.put_away(entry, own_error, followers):
                        rest = [each for each in rest if each.key != entry.key]
        else:
            await self.failures.put_away(batch[0], error, [])

    async def _try(self, batch: Sequence[Entry]) -> Exception | None:
        """Call the handler until it does not raise `Unavailable`. Return its error, or None if it returned."""
        failures = 0
        # Made by the first failure: most calls do not fail, and this is run for each of them.
        observer: Observer | None = None
        try:
            while True:
                if failures or not self._session.is_held:
                    batch = await self._still_held(batch)
                    if not batch:
                        return None
                try:
                    await self._handler(batch)
                except Unavailable as error:
                    observer = observer or self._handler_outage.observer()
                    # When the worker stops, a handler may also raise this to give back what it has not begun.
                    if not self._stopping.is_set():
                        observer.failed(error)
                    await self._pause(self._backoff.delay_seconds(failures))
                    failures += 1
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    return RuntimeError(f"the handler raised {error!r} though nobody cancelled it")
                except Exception as error:
                    return error
                else:
                    if self._handler_outage.is_on:
                        (observer or self._handler_outage.observer()).worked()
                    self._finish(batch)
                    return None
        finally:
            if observer is not None:
                observer.leave()

    async def _still_held(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """Wait until an attempt may begin; what is still this worker's then, or nothing if it stops."""
        await self._session.wait_held(self._stopping)
        self._drop([entry.id for entry in batch if self.hand.has_lost(entry.id)])
        batch = [entry for entry in batch if entry.id in self.hand]
        if self._stopping.is_set():
            # They are left to others.
            self._given_back += batch
            return []
        return batch

    # Ends ------------------------------------------------------------------------------------------------------------

    def _finish(self, batch: Sequence[Entry]) -> None:
        self.hand.begin_end([entry.id for entry in batch])
        self._unacked += batch
        self._finished.set()
        # Not for each that ends: a call of Redis for a single entry costs as much as one for many.
        if self._is_full and 2 * self.hand.unfinished_count <= self._concurrency * self._batch_size:
            self._is_full = False
            self._ring()

    def _drop(self, ids: Sequence[bytes], is_done: bool = False) -> None:
        self.hand.drop(ids)
        self._changed.set()
        if self._again:
            for entries, are_suspects in [self._again.pop(id) for id in ids if id in self._again]:
                left = entries[is_done:]
                self.take(() if are_suspects else left, left if are_suspects else ())
                if is_done:
                    # Redis may have delivered the entry again after it was acked: ack it once more, but count it once.
                    self.handled_count -= 1
                    self.hand.hold(entries[:1])
                    self._finish(entries[:1])
        if self._is_full:
            self._is_full = False
            self._ring()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the worker stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
