"""
StreamWorker: handles the entries of a Redis Stream as one of any number of workers of a consumer group.

Owns the worker's life, reading and its lease. Does not own what becomes of an entry (attempts, failures), Redis
commands (group) nor what the work is (the handler).
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable

import redis.asyncio

from realtime.redis.backoff import Backoff
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.statistics import register, unregister
from realtime.streams.attempts import Attempts
from realtime.streams.bell import Bell
from realtime.streams.entry import Entry, Handler, WorkerStatistics
from realtime.streams.failures import LONGEST_WAIT_SECONDS
from realtime.streams.group import ConsumerGroup
from realtime.streams.group_keys import GroupKeys
from realtime.streams.maintenance import CHECKS_IN_A_LEASE, Maintenance
from realtime.streams.replies import Taken
from realtime.streams.session import Session

__all__ = ["StreamWorker"]

logger = logging.getLogger(__name__)

# An entry that so many workers died with is tried alone: its handler may be what kills.
SUSPECT_DEATHS = 2


class StreamWorker:
    """
    One worker of a consumer group.

    Args:
        reader: A client for blocking reads (`connections.async_reader`).
        stream_key: The stream. It and its groups are made if they are not there, and made again if they vanish.
        group: The consumer group: each entry is handled by one of its workers.
        handler: Called with 1 to `batch_size` entries, those of one key oldest first; when it returns, they are done.
            It may raise `Unavailable` (called again until it works, no attempt counted), `PermanentError` (dead letter
            at once), `Retry` (the next attempt comes when it says) or anything else (the next attempt comes after
            `backoff`). A batch that fails is tried entry by entry; an entry that fails alone is tried again up to
            `max_attempts`, then it is a dead letter. It must bear being called again with what it did already.
        redis: A client for short commands (`connections.async_publisher`).
        dead_letter_key: The stream of what is given up; by default `Keys.dead_letters`, where operators look.
        order_field: Entries with the same value of this field are handled in their order, one at a time, whichever
            workers the group has; those without it in any order. All workers of a group must say the same.
        groups: All groups of the stream: trimming never removes what one of them has not finished.
        batch_size: The most entries that one call of the handler gets.
        concurrency: The most calls of the handler at a time. Being handled or waiting for it are at most
            `concurrency * batch_size` entries, and as many again wait for their ack.
        lease_seconds: How long a worker may be silent before others take what it holds. Renewed at every quarter, so a
            handler may take longer; one that blocks the event loop for so long may not.
        block_seconds: The longest single wait for new entries.
        max_attempts: How often an entry is tried. An attempt counts when the entry is handed out, so those of workers
            that died count too. With 1, all entries that a worker held when it died are given up.
        max_delayed: The most entries of the group that wait in lines; while there are so many, nothing new is read.
        claim_interval_seconds: The longest wait between two rounds of maintenance: reclaiming the entries of dead
            workers, trimming the stream, and repairing stuck keys. There are at least six rounds in a lease.
        backoff: The waits between attempts.
        consumer: This worker's name; by default host-pid-random.
        outage: The state of Redis, shared by all its users in the process so that an outage is logged once.
        registry_key: `Keys.streams()`, which makes the stream known to `manage.py stream_status`.
        on_stop: Called when the worker stops and waits for its handlers: those that take long may come to an end
            sooner, and raise `Unavailable` to leave their entries to others without an attempt being counted.

    Guarantees:
        At least once: an entry is acked after the handler returned, or in one step with its becoming a dead letter. A
        worker that dies leaves its entries to the others, which get them after `lease_seconds`. Entries that kill their
        worker end as dead letters and, if there are two attempts or more, take no other entry with them.
        Order of each key, as `realtime.streams` says. Redis being away is waited for, without end.
    """

    def __init__(
        self,
        reader: redis.asyncio.Redis,
        stream_key: str,
        group: str,
        handler: Handler,
        *,
        redis: redis.asyncio.Redis,
        dead_letter_key: str = "",
        order_field: str = "",
        groups: Iterable[str] = (),
        batch_size: int = 100,
        concurrency: int = 1,
        lease_seconds: float = 30.0,
        block_seconds: float = 5.0,
        max_attempts: int = 5,
        max_delayed: int = 10_000,
        claim_interval_seconds: float = 5.0,
        backoff: Backoff | None = None,
        consumer: str | None = None,
        outage: Outage | None = None,
        registry_key: str = "",
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self.consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease_seconds = lease_seconds
        self._block_seconds = block_seconds
        self._max_attempts = max_attempts
        self._max_delayed = max_delayed
        # Below max_attempts, so that a last attempt never begins merely by being handed out.
        self._suspect_deaths = max(1, min(SUSPECT_DEATHS, max_attempts - 1))
        backoff = backoff or Backoff()
        outage = outage or Outage("Redis")
        # Each task that calls Redis repeatedly reports its failures and successes by an observer of its own.
        self._reader_observer, self._lease_observer = outage.observer(), outage.observer()
        self._session = Session(lease_seconds)
        self._group = ConsumerGroup(
            reader=reader,
            redis=redis,
            keys=GroupKeys(stream_key, group),
            consumer=self.consumer,
            groups=groups,
            order_field=order_field,
            dead_letter_key=dead_letter_key,
            registry_key=registry_key,
        )
        self._bell = Bell(self._group, block_seconds=block_seconds)
        self._attempts = Attempts(
            self._group,
            handler,
            session=self._session,
            ring=self._bell.ring,
            outage=outage,
            batch_size=batch_size,
            concurrency=concurrency,
            max_attempts=max_attempts,
            backoff=backoff,
            on_stop=on_stop,
        )
        self._maintenance = Maintenance(
            self._group,
            ring=self._bell.ring,
            outage=outage,
            lease_seconds=lease_seconds,
            interval_seconds=claim_interval_seconds,
            longest_wait_seconds=max(LONGEST_WAIT_SECONDS, backoff.cap_seconds),
        )
        self._lined_up_count = 0
        # When, by the loop's clock, this worker next compares its entries with those that Redis assigns to it.
        self._compare_at = 0.0
        self._reader_task: asyncio.Task[None] | None = None
        self._deadline_seconds = 0.0
        self._stopping = False
        self._ready = asyncio.Event()
        self._finished = asyncio.Event()

    def statistics(self) -> WorkerStatistics:
        """What this worker has done and holds now."""
        attempts, maintenance = self._attempts, self._maintenance
        return WorkerStatistics(
            in_flight_count=len(attempts.hand),
            handled_count=attempts.handled_count,
            retried_count=attempts.failures.retried_count,
            dead_count=attempts.failures.dead_count,
            lined_up_count=self._lined_up_count,
            claimed_count=maintenance.claimed_count,
            lost_count=attempts.lost_count,
            vanished_count=maintenance.vanished_count,
            mended_count=maintenance.mended_count,
            trimmed_count=maintenance.trimmed_count,
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
        register(self, self._group.group)
        try:
            async with asyncio.TaskGroup() as tasks:
                name = self._group.group
                self._attempts.start(tasks)
                self._reader_task = tasks.create_task(self._read(), name=f"{name}: reader")
                bell = tasks.create_task(self._bell.watch(), name=f"{name}: bell")
                keepers = [
                    tasks.create_task(self._attempts.ack_finished(), name=f"{name}: acks"),
                    tasks.create_task(self._renew_lease(), name=f"{name}: lease"),
                    tasks.create_task(self._maintain(), name=f"{name}: maintenance"),
                ]
                if self._stopping:
                    self._reader_task.cancel()
                await asyncio.wait([self._reader_task])
                bell.cancel()
                self._session.close()
                await self._attempts.drain(self._deadline_seconds)
                for task in keepers:
                    task.cancel()
            if self._ready.is_set():
                await self._leave()
        finally:
            unregister(self)
            self._finished.set()

    async def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """
        Stop reading, finish what is in a handler, ack it, and leave the rest to others.

        Args:
            deadline_seconds: Handlers that take longer are cancelled; what they had is left to others.

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
            asked_at = time.monotonic()
            try:
                if not self._ready.is_set():
                    await self._group.create()
                self._bell.clear()
                if not self._session.name:
                    await self._reconcile()
                    self._ready.set()
                elif asyncio.get_running_loop().time() >= self._compare_at and await self._has_unknown_entries():
                    continue
                await self._read_once()
            except REDIS_ERRORS as error:
                # What the failed call was handed, `own` tells.
                self._session.end()
                self._maintenance.redis_failed()
                await self._reader_observer.wait(error, failures, asked_at=asked_at)
                failures += 1
            else:
                failures = 0

    async def _read_once(self) -> None:
        """Take what there is, or wait for it."""
        room = self._attempts.room()
        if room <= 0:
            await self._wait(self._block_seconds)
            return
        asked_at, began_at = asyncio.get_running_loop().time(), time.monotonic()
        turn = await self._group.take(
            self._session.name,
            self._lease_seconds,
            room,
            limit=self._max_delayed,
            suspect_deaths=self._suspect_deaths,
            max_attempts=self._max_attempts,
        )
        if turn is None:
            self._session.end()
            return
        self._session.renewed(asked_at)
        self._reader_observer.worked(asked_at=began_at)
        self._lined_up_count += turn.lined_up_count
        if turn.unreadable_count:
            self._attempts.failures.say_unreadable(turn.unreadable_count)
        if turn.new or turn.taken:
            # Of one key there are no taken ones beside new ones.
            self._attempt(turn.taken, turn.new)
        elif not turn.lined_up_count:
            if not turn.is_full:
                self._bell.listen(turn.last_id)
            await self._wait(min(self._block_seconds, turn.next_due_seconds or self._block_seconds))

    async def _wait(self, seconds: float) -> None:
        until_compared = self._compare_at - asyncio.get_running_loop().time()
        await self._bell.wait(max(0.0, min(seconds, until_compared)))

    def _attempt(self, taken: Iterable[Taken], new: Iterable[Entry] = ()) -> None:
        begun, suspects = list[Entry](), list[Entry]()
        for entry, is_begun in taken:
            (begun if is_begun else suspects).append(entry)
        suspects.sort(key=lambda entry: entry.attempt)
        self._attempts.take([*begun, *new], suspects)

    async def _reconcile(self) -> None:
        """Ask Redis what this worker holds: what it does not know of was lost on the way, the rest it has lost."""
        asked_at, began_at = asyncio.get_running_loop().time(), time.monotonic()
        name = self._session.begin()
        hand = self._attempts.hand
        with hand.noting_dropped() as ended:
            known = set(hand.ids)
            held = await self._group.own(name, self._lease_seconds)
        told = {entry.id for entry, _ in held}
        self._attempts.lose(known - told - ended)
        # One that was lost, and is in a handler still, is this worker's own again.
        hand.hold(entry for entry, _ in held if entry.id in hand)
        self._session.reconciled(name, asked_at)
        self._compare_at = asked_at + self._lease_seconds / CHECKS_IN_A_LEASE
        self._reader_observer.worked(asked_at=began_at)
        news = [each for each in held if each.entry.id not in hand and each.entry.id not in ended]
        self._attempt(each for each in news if each.entry.fields)
        self._maintenance.say_vanished(sum(not each.entry.fields for each in news))

    async def _has_unknown_entries(self) -> bool:
        """
        Whether Redis assigns entries to this worker that it does not know.

        Nobody would ever finish these. So the session ends, and the next one asks Redis for all of them.
        """
        hand = self._attempts.hand
        with hand.noting_dropped() as ended:
            held = await self._group.holdings()
        self._compare_at = asyncio.get_running_loop().time() + self._lease_seconds / CHECKS_IN_A_LEASE
        if unknown := {id for id in held if id not in hand} - ended:
            self._maintenance.say_forgotten(len(unknown))
            self._session.end()
        return bool(unknown)

    # Keeping ---------------------------------------------------------------------------------------------------------

    async def _renew_lease(self) -> None:
        failures = 0
        while True:
            if not failures:
                await asyncio.sleep(self._lease_seconds / 4)
            name, asked_at = self._session.name, asyncio.get_running_loop().time()
            if not name:
                # There is no session. The reader will begin another one, which acquires the lease.
                self._lease_observer.leave()
                failures = 0
                continue
            began_at = time.monotonic()
            try:
                is_ours = await self._group.renew(name, self._lease_seconds)
            except REDIS_ERRORS as error:
                self._maintenance.redis_failed()
                await self._lease_observer.wait(error, failures, asked_at=began_at)
                failures += 1
                continue
            self._lease_observer.worked(asked_at=began_at)
            failures = 0
            if is_ours:
                self._session.renewed(asked_at)
            elif self._session.name == name:
                self._session.end()
                self._bell.ring()

    async def _maintain(self) -> None:
        await self._ready.wait()
        await self._maintenance.run()

    async def _leave(self) -> None:
        try:
            # Also what a read was handed just when it was cancelled.
            async with asyncio.timeout(2.0):
                left_count = await self._group.leave(self._attempts.unbegun())
        except REDIS_ERRORS as error:
            self._reader_observer.failed(error)
            return
        if left_count:
            logger.warning("%d entries of the group %s are left to other workers", left_count, self._group.group)
