"""
What becomes of the entries that a worker holds: handled, tried again, or given up.

Owns the entries in hand, the slots in which handlers run, and every decision about an attempt. Does not own reading,
leases or the worker's life (worker).
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from realtime.backoff import Backoff
from realtime.exceptions import PermanentError, Unavailable
from realtime.outage import Outage
from realtime.streams.entry import Entry, Handler
from realtime.streams.group import ConsumerGroup
from realtime.streams.hand import Hand

__all__ = ["Attempts"]

logger = logging.getLogger(__name__)


class _GivenBack(Exception):
    """The worker stops while what the handler needs is away: the entries are left to others."""


class Attempts:
    """
    Args:
        group: Where entries are acked and buried.
        handler: Called with each batch.
        outage: Redis; shared by all who use this Redis.
        batch_size, concurrency, max_attempts, max_delayed, backoff: As in StreamWorker.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        handler: Handler,
        *,
        outage: Outage,
        batch_size: int,
        concurrency: int,
        max_attempts: int,
        max_delayed: int,
        backoff: Backoff,
    ) -> None:
        self.handled_count = 0
        self.retried_count = 0
        self.dead_count = 0
        self.lost_count = 0
        self._group = group
        self._handler = handler
        self._outage = outage
        self._handler_outage = Outage(f"what the group {group.group} needs", backoff=backoff)
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._max_delayed = max_delayed
        self._backoff = backoff
        # Every entry in hand; at most as many as StreamWorker promises.
        self.hand = Hand()
        # Finished entries for the next XACK, all of them held.
        self._unacked: list[bytes] = []
        self._finished = asyncio.Event()
        # One slot for each handler call at a time.
        self._slots = asyncio.Semaphore(concurrency)
        # Entries whose handler may have killed its process are tried one at a time, so that no other falls with them.
        self._suspects = asyncio.Lock()
        # Tasks of batches, waiting for a slot or in the handler.
        self._batches: set[asyncio.Task[None]] = set()
        # Tasks of entries that are tried alone, by id: those that wait for their time or slot, and those being tried.
        self._delayed: dict[bytes, asyncio.Task[None]] = {}
        self._alone: dict[bytes, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        # Owns every attempt; there from start() on.
        self._tasks: asyncio.TaskGroup

    @property
    def delayed_count(self) -> int:
        """How many entries wait for their next attempt."""
        return len(self._delayed)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """From now on attempts are tasks of `tasks`."""
        self._tasks = tasks

    async def wait_for_room(self) -> int:
        """Wait until entries may be read, and return how many."""
        while (room := self._room()) <= 0:
            self._changed.clear()
            await self._changed.wait()
        return room

    def take(self, entries: Sequence[Entry]) -> None:
        """Attempt entries whose attempt has begun by their being handed out, in batches."""
        for start in range(0, len(entries), self._batch_size):
            batch = entries[start : start + self._batch_size]
            self.hand.hold(batch)
            task = self._tasks.create_task(self._run_batch(batch), name=f"{self._group.group}: batch")
            self._batches.add(task)
            task.add_done_callback(self._batch_done)

    def take_suspects(self, entries: Iterable[Entry]) -> None:
        """Attempt entries of which several attempts ended nobody knows how: alone, those with the fewest first."""
        for entry in sorted(entries, key=lambda entry: entry.attempt):
            self.hand.hold([entry])
            self._later(entry, self._run_suspect(entry))

    def lose(self, ids: Iterable[bytes]) -> None:
        """Redis says that these entries are not this worker's: say so, and begin no further attempt."""
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
        for id in lost:
            if id in self._delayed:
                self._delayed[id].cancel()
                self._drop([id])

    async def drain(self, deadline_seconds: float) -> None:
        """Begin no attempt that waits, finish those that run; what is not done by the deadline is cancelled."""
        self._stopping.set()
        for task in self._delayed.values():
            task.cancel()
        running = {*self._delayed.values(), *self._batches, *self._alone.values()}
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

    async def ack_finished(self) -> None:
        """For ever: ack what handlers finish; what finishes while one XACK is on its way goes together in the next."""
        while True:
            await self._finished.wait()
            self._finished.clear()
            ids, self._unacked = self._unacked, []
            await self._outage.until_done(self._group.ack, ids)
            self._drop(ids)
            self.handled_count += len(ids)

    # Attempts --------------------------------------------------------------------------------------------------------

    async def _run_batch(self, batch: Sequence[Entry]) -> None:
        async with self._slots:
            await self._attempt(batch)

    async def _run_retry(self, entry: Entry, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        async with self._slots:
            await self._begin_alone(entry)

    async def _run_suspect(self, entry: Entry) -> None:
        if entry.attempt >= self._max_attempts:
            await self._give_up(entry, "unfinished", "no attempt came to an end: its handler may end the process")
            return
        async with self._suspects, self._slots:
            await self._begin_alone(entry)

    async def _begin_alone(self, entry: Entry) -> None:
        self._alone[entry.id] = self._delayed.pop(entry.id)
        entry = msgspec.structs.replace(entry, attempt=entry.attempt + 1)
        if await self._outage.until_done(self._group.begin_attempt, entry):
            await self._attempt([entry])
        else:
            self.lose([entry.id])
            self._drop([entry.id])

    async def _attempt(self, batch: Sequence[Entry]) -> None:
        """Handle a batch and ack it; if that fails, find out which of its entries is at fault."""
        try:
            await self._call(batch)
        except _GivenBack:
            return
        except Exception as error:
            if len(batch) == 1:
                await self._failed(batch[0], error)
                return
            for entry in batch:
                await self._attempt([entry])
        else:
            self._finish(batch)

    async def _call(self, batch: Sequence[Entry]) -> None:
        """Call the handler, again and again while what it needs is away."""
        failures = 0
        while True:
            try:
                await self._handler(batch)
            except Unavailable as error:
                if self._stopping.is_set():
                    raise _GivenBack from error
                self._handler_outage.begin(error)
                await self._pause(self._backoff.delay_seconds(failures))
                failures += 1
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise RuntimeError("the handler raised CancelledError though nobody cancelled it") from error
            else:
                self._handler_outage.over()
                return

    async def _failed(self, entry: Entry, error: Exception) -> None:
        """An entry failed alone: it gets another attempt later, or none."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, PermanentError):
            await self._give_up(entry, "rejected", error.reason)
        elif entry.attempt >= self._max_attempts:
            await self._give_up(entry, "failed", text, error)
        else:
            delay_seconds = self._backoff.delay_seconds(entry.attempt - 1)
            logger.warning(
                "entry %s of the group %s failed in attempt %d of %d, the next one is in %.1f s: %s",
                entry.id.decode(),
                self._group.group,
                entry.attempt,
                self._max_attempts,
                delay_seconds,
                text,
                exc_info=error,
            )
            self.retried_count += 1
            if not self._stopping.is_set():
                self._later(entry, self._run_retry(entry, delay_seconds))

    # Ends ------------------------------------------------------------------------------------------------------------

    def _finish(self, batch: Sequence[Entry]) -> None:
        ids = [entry.id for entry in batch]
        self.hand.begin_end(ids)
        self._unacked += ids
        self._finished.set()

    async def _give_up(self, entry: Entry, reason: str, error: str, cause: Exception | None = None) -> None:
        self.hand.begin_end([entry.id])
        await self._outage.until_done(self._bury, entry, reason, error)
        self._drop([entry.id])
        self.dead_count += 1
        logger.error(
            "entry %s of the group %s is a dead letter after %d attempts (%s): %.200s",
            entry.id.decode(),
            self._group.group,
            entry.attempt,
            reason,
            error,
            exc_info=cause,
        )

    async def _bury(self, entry: Entry, reason: str, error: str) -> None:
        await self._group.bury(entry, reason=reason, error=error)

    def _drop(self, ids: Sequence[bytes]) -> None:
        self.hand.drop(ids)
        self._changed.set()

    # Tools -----------------------------------------------------------------------------------------------------------

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the worker stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _later(self, entry: Entry, attempt: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(attempt, name=f"{self._group.group}: {entry.id.decode()}")
        self._delayed[entry.id] = task
        task.add_done_callback(lambda task: self._alone_done(entry.id, task))

    def _room(self) -> int:
        if len(self._delayed) >= self._max_delayed:
            return 0
        free_slots = self._concurrency - len(self._batches)
        # What is finished and not yet acked counts too: a slow Redis holds up reading.
        in_batches = len(self.hand) - len(self._delayed) - len(self._alone)
        return min(free_slots, self._concurrency - math.ceil(in_batches / self._batch_size)) * self._batch_size

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._changed.set()

    def _alone_done(self, id: bytes, task: asyncio.Task[None]) -> None:
        # Under the same id there may be the task of the next attempt already.
        for place in (self._delayed, self._alone):
            if place.get(id) is task:
                del place[id]
        self._changed.set()
