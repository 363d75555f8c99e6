"""
StreamWorker: handles the entries of a Redis Stream as one of any number of workers of a consumer group.

Owns the worker's life, reading and leases. Does not own what becomes of an entry (attempts), Redis commands (group) nor
what the work is (the handler).
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Container, Iterable

import redis.asyncio

from realtime.backoff import Backoff
from realtime.outage import REDIS_ERRORS, Outage
from realtime.streams.attempts import Attempts
from realtime.streams.entry import Entry, Handler, WorkerStatistics
from realtime.streams.group import ConsumerGroup, Taken

__all__ = ["StreamWorker"]

logger = logging.getLogger(__name__)

# From this many begun attempts on, an entry of a dead worker is tried alone: its handler may be what kills.
SUSPECT_ATTEMPTS = 2
# A consumer that holds nothing and is silent for this many leases is forgotten.
SILENT_LEASES = 10


class StreamWorker:
    """
    One worker of a consumer group.

    Args:
        reader: A client for blocking reads (`connections.async_reader`).
        stream_key: The stream. It and its groups are made if they are not there, and made again if they vanish.
        group: The consumer group: each entry is handled by one of its workers.
        handler: Called with 1 to `batch_size` entries, oldest first; when it returns, they are done. It may raise
            `Unavailable` (called again until it works, no attempt counted), `EntryRejected` (dead letter at once) or
            anything else (a batch is then tried entry by entry; an entry that fails alone is tried again later, up to
            `max_attempts`, then it is a dead letter). It must bear being called again with what it did already.
        redis: A client for short commands (`connections.async_publisher`).
        dead_letter_key: The stream of what is given up, with the stream's hash tag.
        groups: All groups of the stream: trimming never removes what one of them has not finished.
        batch_size: The most entries that one call of the handler gets.
        concurrency: The most calls of the handler at a time. One keeps the order of the stream, but for retries.
        lease_seconds: How long a worker may be silent before others claim what it holds. Renewed at every quarter, so a
            handler may take longer; one that blocks the event loop for so long may not.
        block_seconds: The longest single wait for new entries.
        max_attempts: How often an entry is tried. An attempt counts when Redis hands the entry out, so those of workers
            that died count too. With 1, all entries that a worker held when it died are given up.
        max_delayed: The most entries between two attempts; while there are so many, nothing new is read.
        claim_interval_seconds: How often to look for what dead workers left, for dead consumers and for what to trim.
        backoff: The waits between attempts.
        consumer: This worker's name; by default host-pid-random.
        outage: How Redis fares, shared by several users of one Redis so that its absence is said once.

    Guarantees:
        At least once: an entry is acked after the handler returned, or in one step with its becoming a dead letter. A
        worker that dies leaves its entries to the others, which claim them after `lease_seconds`. Entries that kill
        their worker end as dead letters and, if there are two attempts or more, take no other entry with them.
        In hand are at most `concurrency * batch_size` entries and `max_delayed` more.
        Redis being away is waited for, without end.
    """

    def __init__(
        self,
        reader: redis.asyncio.Redis,
        stream_key: str,
        group: str,
        handler: Handler,
        *,
        redis: redis.asyncio.Redis,
        dead_letter_key: str,
        groups: Iterable[str] = (),
        batch_size: int = 100,
        concurrency: int = 1,
        lease_seconds: float = 30.0,
        block_seconds: float = 5.0,
        max_attempts: int = 5,
        max_delayed: int = 1000,
        claim_interval_seconds: float = 5.0,
        backoff: Backoff | None = None,
        consumer: str | None = None,
        outage: Outage | None = None,
    ) -> None:
        self.consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease_seconds = lease_seconds
        self._block_seconds = block_seconds
        self._claim_interval_seconds = claim_interval_seconds
        # Below max_attempts, so that a last attempt never begins merely by being handed out.
        self._suspect_attempts = min(SUSPECT_ATTEMPTS, max_attempts - 1)
        self._outage = outage or Outage("Redis")
        self._group = ConsumerGroup(
            reader=reader,
            redis=redis,
            stream_key=stream_key,
            group=group,
            consumer=self.consumer,
            groups=groups,
            dead_letter_key=dead_letter_key,
        )
        self._attempts = Attempts(
            self._group,
            handler,
            outage=self._outage,
            batch_size=batch_size,
            concurrency=concurrency,
            max_attempts=max_attempts,
            max_delayed=max_delayed,
            backoff=backoff or Backoff(),
        )
        self._claimed_count = 0
        self._vanished_count = 0
        self._trimmed_count = 0
        # From where the own pending list must be read; None when it has been, since the last error.
        self._own_from: bytes | None = b"-"
        self._next_claim = 0.0
        self._reader_task: asyncio.Task[None] | None = None
        self._deadline_seconds = 0.0
        self._stopping = False
        self._ready = asyncio.Event()
        self._finished = asyncio.Event()

    def statistics(self) -> WorkerStatistics:
        """What this worker has done and holds now."""
        attempts = self._attempts
        return WorkerStatistics(
            in_flight_count=len(attempts.hand),
            delayed_count=attempts.delayed_count,
            handled_count=attempts.handled_count,
            retried_count=attempts.retried_count,
            dead_count=attempts.dead_count,
            claimed_count=self._claimed_count,
            lost_count=attempts.lost_count,
            vanished_count=self._vanished_count,
            trimmed_count=self._trimmed_count,
        )

    async def wait_ready(self) -> None:
        """Wait until the group exists and reading begins."""
        await self._ready.wait()

    async def run(self) -> None:
        """
        Work until `stop()`; once in the life of a worker.

        Raises:
            ExceptionGroup: A defect of this module. Neither handlers nor Redis end the worker.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                name = self._group.group
                self._attempts.start(tasks)
                self._reader_task = tasks.create_task(self._read(), name=f"{name}: reader")
                keepers = [
                    tasks.create_task(self._attempts.ack_finished(), name=f"{name}: acks"),
                    tasks.create_task(self._renew_leases(), name=f"{name}: leases"),
                    tasks.create_task(self._keep_house(), name=f"{name}: house"),
                ]
                if self._stopping:
                    self._reader_task.cancel()
                await asyncio.wait([self._reader_task])
                await self._attempts.drain(self._deadline_seconds)
                for task in keepers:
                    task.cancel()
            if self._ready.is_set():
                await self._leave()
        finally:
            self._finished.set()

    async def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """
        Stop reading, finish what is in a handler, ack it, and leave the rest to others.

        Args:
            deadline_seconds: Handlers that take longer are cancelled; what they had is claimed by others.

        Guarantees:
            Returns when `run()` is over (at once if it was never called). May be called again, also at the same time.
        """
        if not self._stopping:
            self._stopping = True
            self._deadline_seconds = deadline_seconds
            if self._reader_task is not None:
                self._reader_task.cancel()
        if self._reader_task is not None:
            await self._finished.wait()

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        failures = 0
        while not self._stopping:
            room = await self._attempts.wait_for_room()
            try:
                if not self._ready.is_set():
                    await self._group.create()
                    self._ready.set()
                await self._read_once(room)
            except REDIS_ERRORS as error:
                # What the failed read was handed is in the own pending list.
                self._own_from = b"-"
                await self._outage.wait(error, failures)
                failures += 1
            else:
                self._outage.over()
                failures = 0

    async def _read_once(self, room: int) -> None:
        """Take entries from where it is their turn: own pending list, dead workers, new ones."""
        clock = asyncio.get_running_loop().time
        if self._own_from is not None:
            with self._attempts.hand.noting_dropped() as ended:
                taken = await self._group.take_own(self._own_from, room, self._suspect_attempts)
            self._own_from = b"(" + taken[-1].entry.id if len(taken) == room else None
            self._take_again(taken, ended)
        elif clock() >= self._next_claim:
            with self._attempts.hand.noting_dropped() as ended:
                taken = await self._group.take_dead(self._lease_seconds, room, self._suspect_attempts)
            if len(taken) < room:
                self._next_claim = clock() + self._claim_interval_seconds
            if taken:
                self._claimed_count += len(taken)
                logger.warning("%d entries of the group %s claimed from silent workers", len(taken), self._group.group)
            self._take_again(taken, ended)
        else:
            # A read that is cancelled by stop() may have been handed entries too: _leave() gives them back.
            block_seconds = min(self._block_seconds, self._next_claim - clock())
            self._attempts.take(await self._group.read_new(room, block_seconds))

    def _take_again(self, taken: Iterable[Taken], ended: Container[bytes]) -> None:
        begun: list[Entry] = []
        suspects: list[Entry] = []
        for entry, is_begun in taken:
            if entry.id in ended:
                continue
            if entry.id in self._attempts.hand:
                self._attempts.hand.hold([entry])
                continue
            if not entry.fields:
                self._vanished_count += 1
                logger.warning("entry %s was deleted before it was handled", entry.id.decode())
            else:
                (begun if is_begun else suspects).append(entry)
        self._attempts.take(begun)
        self._attempts.take_suspects(suspects)

    # Keeping ---------------------------------------------------------------------------------------------------------

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 4)
            if held := self._attempts.hand.leased_ids:
                try:
                    self._attempts.lose(await self._group.keep(held))
                    self._outage.over()
                except REDIS_ERRORS as error:
                    self._outage.begin(error)

    async def _keep_house(self) -> None:
        await self._ready.wait()
        while True:
            try:
                self._trimmed_count += await self._group.trim()
                await self._group.remove_dead_consumers(self._lease_seconds * SILENT_LEASES)
                self._outage.over()
            except REDIS_ERRORS as error:
                self._outage.begin(error)
            await asyncio.sleep(self._claim_interval_seconds)

    async def _leave(self) -> None:
        try:
            # Also what a read was handed just when it was cancelled.
            async with asyncio.timeout(2.0):
                left_count = await self._group.leave(self._lease_seconds)
        except REDIS_ERRORS as error:
            self._outage.begin(error)
            return
        if left_count:
            logger.warning("%d entries of the group %s are left to other workers", left_count, self._group.group)
