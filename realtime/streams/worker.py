"""
StreamWorker: handles the entries of a Redis Stream as one of any number of workers of a consumer group. It is also the
first half of an entry's way: from Redis into the queue of entries in flight.

Owns the worker's life, reading, and renewing its lease. Does not own the handling of an entry (attempts), the commands
to Redis (group) nor the work itself (the handler).
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence

import redis.asyncio

from realtime.redis.backoff import Backoff
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.statistics import register, unregister
from realtime.streams.attempts import LONGEST_WAIT_SECONDS, Attempts
from realtime.streams.entry import Entry, Handler, Redelivery, WorkerStatistics
from realtime.streams.group import ConsumerGroup
from realtime.streams.in_flight import InFlight
from realtime.streams.keys import GroupKeys, WaitingList
from realtime.streams.lease import WorkerLease
from realtime.streams.maintenance import CHECKS_IN_A_LEASE, Maintenance
from realtime.streams.wakeup import Wakeup

__all__ = ["StreamWorker"]

logger = logging.getLogger(__name__)

# Between two calls that found nothing, although something is due: it may be held up by the limit of parked entries.
SHORTEST_WAIT_SECONDS = 0.05
# An entry with which this many workers have died is a suspect, and tried alone: its handler may kill the process.
SUSPECT_DEATHS = 2


class StreamWorker:
    """
    One worker of a consumer group.

    Args:
        reader: A client for blocking reads (`clients.async_reader`).
        stream_key: The stream. It and its groups are created if they do not exist, and created again if deleted.
        group: The consumer group: each entry is handled by one of its workers.
        handler: Called with 1 to `batch_size` entries, those of one key oldest first; when it returns, they are done.
            It may raise `Unavailable` (called again until it works, no attempt counted), `PermanentError` (dead letter
            at once), `Retry` (the next attempt comes after the given time), `EntriesFailed` (an error for each entry
            that failed; all others are done) or any other error (the next attempt comes after `backoff`). A batch that
            fails with another error than `EntriesFailed` is tried entry by entry. An entry that fails alone is tried
            again up to `max_attempts`; then it is a dead letter. The handler may get entries again that it has handled
            already: also those that are behind a failed one of their key.
        redis: A client for short commands (`clients.async_publisher`).
        dead_letter_key: The stream of dead letters; by default `Keys.dead_letters`, where operators look.
        order_field: Entries with the same value of this field are handled in order and one at a time, by whichever
            workers of the group; entries without the field in any order. The same for all workers of a group.
        groups: All groups of the stream: trimming never removes an entry that one of them has not finished.
        batch_size: The most entries that one call of the handler gets.
        concurrency: The most calls of the handler at a time. At most `concurrency * batch_size` entries are being
            handled or waiting for it, and as many again are waiting for their ack.
        lease_seconds: How long a worker may be silent before others take its entries. The lease is renewed at every
            quarter, so a handler may take longer, but it must not block the event loop for that long.
        block_seconds: The longest single wait for new entries.
        max_attempts: How often an entry is tried. An attempt counts when the entry is handed out, so those of workers
            that died count too. With 1, all entries that a worker held when it died become dead letters.
        max_delayed: The most parked entries of the group; at this limit, no new entries are read.
        claim_interval_seconds: The longest wait between two rounds of maintenance: reclaiming the entries of dead
            workers, trimming the stream, and repairing stuck keys. There are at least six rounds in a lease.
        backoff: The waits between attempts.
        consumer: This worker's name; by default host-pid-random.
        outage: The state of Redis, shared by all its users in the process so that an outage is logged once.
        registry_key: `Keys.streams()`, so that `manage.py stream_status` shows the stream.
        waiting_list: A waiting list in front of the stream, whose items are appended to it when this worker has room.
        room: Called with the number of entries that wait or are being handled; returns how many more may be read. By
            default up to `concurrency * batch_size` entries are unfinished, and more are read when half of them are.
        suspect_seconds: If given, entries with which several workers died are tried one by one: each when the one
            before has ended, or has run for this long. By default they are tried in growing groups.
        on_stop: Called when the worker stops and waits for its handlers. Long handlers may then end early, and raise
            `Unavailable` to leave their entries to other workers without an attempt being counted.
        on_acked: Called with entries when Redis has confirmed their ack. No worker gets them again. Entries that failed
            or became dead letters are not reported. It is a plain function, called on the event loop, so it must not
            block. If it raises, this is logged, and the entries are acked all the same.

    Guarantees:
        At least once: an entry is acked after the handler returned, or in one step with becoming a dead letter. If a
        worker dies, the others get its entries after `lease_seconds`. An entry that kills its workers becomes a dead
        letter and, if there are two attempts or more, no other entry does because of it.
        The entries of each key in order, as described in `realtime.streams`. Outages of Redis are waited for.
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
        waiting_list: WaitingList | None = None,
        room: Callable[[int], int] | None = None,
        suspect_seconds: float | None = None,
        on_stop: Callable[[], None] | None = None,
        on_acked: Callable[[Sequence[Entry]], None] | None = None,
    ) -> None:
        self.consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease_seconds = lease_seconds
        self._block_seconds = block_seconds
        self._max_attempts = max_attempts
        self._max_delayed = max_delayed
        # Below max_attempts, so that the last attempt never begins by being handed out.
        self._suspect_deaths = max(1, min(SUSPECT_DEATHS, max_attempts - 1))
        backoff = backoff or Backoff()
        outage = outage or Outage("Redis")
        # Each task that calls Redis repeatedly reports its failures and successes by an observer of its own.
        self._reader_observer, self._lease_observer = outage.observer(), outage.observer()
        self._lease = WorkerLease(lease_seconds)
        self._group = ConsumerGroup(
            reader=reader,
            redis=redis,
            keys=GroupKeys(stream_key, group),
            consumer=self.consumer,
            groups=groups,
            order_field=order_field,
            dead_letter_key=dead_letter_key,
            registry_key=registry_key,
            waiting_list=waiting_list,
        )
        self._wakeup = Wakeup(self._group, block_seconds=block_seconds)
        self._in_flight = InFlight()
        self._attempts = Attempts(
            self._group,
            handler,
            in_flight=self._in_flight,
            lease=self._lease,
            wakeup=self._wakeup,
            outage=outage,
            batch_size=batch_size,
            concurrency=concurrency,
            max_attempts=max_attempts,
            backoff=backoff,
            room=room,
            suspect_seconds=suspect_seconds,
            on_stop=on_stop,
            on_acked=on_acked,
        )
        self._maintenance = Maintenance(
            self._group,
            wakeup=self._wakeup,
            outage=outage,
            lease_seconds=lease_seconds,
            interval_seconds=claim_interval_seconds,
            longest_wait_seconds=max(LONGEST_WAIT_SECONDS, backoff.cap_seconds),
        )
        self._parked_count = 0
        # When, by the loop's clock, this worker next compares its entries with those that Redis assigns to it.
        self._compare_at = 0.0
        self._reader_task: asyncio.Task[None] | None = None
        self._deadline_seconds = 0.0
        self._stopping = False
        self._ready = asyncio.Event()
        self._finished = asyncio.Event()

    @property
    def unfinished_count(self) -> int:
        """How many entries wait for a handler, or are in one."""
        return self._in_flight.unfinished_count

    def statistics(self) -> WorkerStatistics:
        """What this worker has done, and how many entries it holds now."""
        attempts, maintenance = self._attempts, self._maintenance
        return WorkerStatistics(
            in_flight_count=len(self._in_flight),
            handled_count=attempts.handled_count,
            retried_count=attempts.retried_count,
            dead_count=attempts.dead_count,
            parked_count=self._parked_count,
            claimed_count=maintenance.claimed_count,
            lost_count=attempts.lost_count,
            vanished_count=maintenance.vanished_count,
            repaired_count=maintenance.repaired_count,
            trimmed_count=maintenance.trimmed_count,
        )

    async def still_held(self, ids: Iterable[bytes]) -> set[bytes]:
        """
        For a handler that took long: those of its entries that are still this worker's.

        Waits until the worker holds its lease. Other workers may have finished the others. If the worker stops without
        its lease, there are none.
        """
        return await self._attempts.still_held(ids)

    def finish_early(self, entries: Sequence[Entry]) -> None:
        """
        Ack these entries of a handler now, although its call goes on with others. What the call returns or raises later
        is not about them. Only for entries without a key.
        """
        self._attempts.finish_early(entries)

    @property
    def ending_count(self) -> int:
        """How many entries are handled, and Redis has not confirmed their end yet."""
        return self._in_flight.ending_count

    def begin_end(self, entries: Sequence[Entry]) -> None:
        """
        For a handler that acks entries in Redis on its own: call it before these are sent, and `acked_early` after it.

        Between the two calls, the entries do not count as unfinished, and are not lost if Redis does not know them.
        """
        self._attempts.begin_end(entries)

    def acked_early(self, entries: Sequence[Entry]) -> None:
        """As `finish_early`, for entries that the handler has acked in Redis on its own."""
        self._attempts.acked_early(entries)

    def leave_early(self, entries: Sequence[Entry]) -> None:
        """As `finish_early`, but without an ack: these entries are another worker's now, which acks them."""
        self._attempts.leave_early(entries)

    def ask_for_room(self) -> None:
        """Call `room` again if the worker waits for room: there may be some although none of its entries has ended."""
        self._attempts.ask_for_room()

    async def wait_ready(self) -> None:
        """Wait until the group exists and reading begins."""
        await self._ready.wait()

    async def run(self) -> None:
        """
        Work until `stop()`. Can be called once.

        Raises:
            ExceptionGroup: A defect of this module. Neither handlers nor Redis end the worker.
        """
        register(self, self._group.group, starts_pushing=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                name = self._group.group
                self._attempts.start(tasks)
                self._reader_task = tasks.create_task(self._read(), name=f"{name}: reader")
                wakeup = tasks.create_task(self._wakeup.run(), name=f"{name}: wakeup")
                keepers = [
                    tasks.create_task(self._renew_lease(), name=f"{name}: lease"),
                    tasks.create_task(self._maintain(), name=f"{name}: maintenance"),
                ]
                if self._stopping:
                    self._reader_task.cancel()
                await asyncio.wait([self._reader_task])
                wakeup.cancel()
                self._lease.close()
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
        Stop reading, finish and ack the entries that are in a handler, and leave the others to other workers.

        Args:
            deadline_seconds: Handlers that take longer are cancelled, and their entries left to other workers.

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
                self._wakeup.clear()
                if not self._lease.token:
                    await self._recover()
                    self._ready.set()
                elif asyncio.get_running_loop().time() >= self._compare_at and await self._has_unknown_entries():
                    continue
                await self._read_once()
            except REDIS_ERRORS as error:
                # The failed call may have been handed entries: `recover` returns them.
                self._lease.invalidate()
                self._maintenance.redis_failed()
                await self._reader_observer.wait(error, failures, asked_at=asked_at)
                failures += 1
            else:
                failures = 0

    async def _read_once(self) -> None:
        """Take entries, or wait for some."""
        room = self._attempts.room()
        if room <= 0:
            await self._wait(self._block_seconds)
            return
        asked_at, began_at = asyncio.get_running_loop().time(), time.monotonic()
        result = await self._group.take(
            self._lease.token,
            self._lease_seconds,
            room,
            limit=self._max_delayed,
            suspect_deaths=self._suspect_deaths,
            max_attempts=self._max_attempts,
        )
        if result is None:
            self._lease.invalidate()
            return
        self._lease.renewed(asked_at)
        self._reader_observer.worked(asked_at=began_at)
        self._parked_count += result.parked_count
        if result.unreadable_count:
            self._attempts.count_unreadable(result.unreadable_count)
        if result.new or result.redelivered:
            # No key has entries in both.
            self._attempt(result.redelivered, result.new)
        elif not result.parked_count:
            if not result.is_full:
                self._wakeup.watch(result.last_id)
            due_seconds = self._block_seconds if result.next_due_seconds is None else result.next_due_seconds
            await self._wait(min(self._block_seconds, max(due_seconds, SHORTEST_WAIT_SECONDS)))

    async def _wait(self, seconds: float) -> None:
        until_compared = self._compare_at - asyncio.get_running_loop().time()
        await self._wakeup.wait(max(0.0, min(seconds, until_compared)))

    def _attempt(self, redelivered: Iterable[Redelivery], new: Iterable[Entry] = ()) -> None:
        begun, suspects = list[Entry](), list[Entry]()
        for entry, is_begun in redelivered:
            (begun if is_begun else suspects).append(entry)
        suspects.sort(key=lambda entry: entry.attempt)
        self._attempts.take([*begun, *new], suspects)

    async def _recover(self) -> None:
        """
        Start a new lease, and ask Redis which entries this worker holds.

        Entries that the worker does not know were handed out in a lost reply; those that Redis does not know are lost.
        """
        asked_at, began_at = asyncio.get_running_loop().time(), time.monotonic()
        token = self._lease.new_token()
        with self._in_flight.noting_removed() as ended:
            known = set(self._in_flight.ids)
            held = await self._group.recover(token, self._lease_seconds)
        self._attempts.lose(known - {entry.id for entry, _ in held} - ended)
        # An entry that was lost, and is still in a handler, is this worker's again.
        self._in_flight.hold(entry for entry, _ in held if entry.id in self._in_flight)
        self._lease.recovered(token, asked_at)
        self._compare_at = asked_at + self._lease_seconds / CHECKS_IN_A_LEASE
        self._reader_observer.worked(asked_at=began_at)
        unknown = [each for each in held if each.entry.id not in self._in_flight and each.entry.id not in ended]
        self._attempt(each for each in unknown if each.entry.fields)
        self._maintenance.count_vanished(sum(not each.entry.fields for each in unknown))

    async def _has_unknown_entries(self) -> bool:
        """
        Whether Redis assigns entries to this worker that it does not know.

        No worker would ever finish these. So the lease is invalidated, and the next recovery returns them.
        """
        with self._in_flight.noting_removed() as ended:
            held = await self._group.holdings()
        self._compare_at = asyncio.get_running_loop().time() + self._lease_seconds / CHECKS_IN_A_LEASE
        if unknown := {id for id in held if id not in self._in_flight} - ended:
            self._maintenance.count_forgotten(len(unknown))
            self._lease.invalidate()
        return bool(unknown)

    # Lease and maintenance --------------------------------------------------------------------------------------------

    async def _renew_lease(self) -> None:
        failures = 0
        while True:
            if not failures:
                await asyncio.sleep(self._lease_seconds / 4)
            token, asked_at = self._lease.token, asyncio.get_running_loop().time()
            if not token:
                # The lease is over. The reader will start another one.
                self._lease_observer.leave()
                failures = 0
                continue
            began_at = time.monotonic()
            try:
                is_ours = await self._group.renew(token, self._lease_seconds)
            except REDIS_ERRORS as error:
                self._maintenance.redis_failed()
                await self._lease_observer.wait(error, failures, asked_at=began_at)
                failures += 1
                continue
            self._lease_observer.worked(asked_at=began_at)
            failures = 0
            if is_ours:
                self._lease.renewed(asked_at)
            elif self._lease.token == token:
                self._lease.invalidate()
                self._wakeup.wake()

    async def _maintain(self) -> None:
        await self._ready.wait()
        await self._maintenance.run()

    async def _leave(self) -> None:
        try:
            # Including entries that a read was handed just when it was cancelled.
            async with asyncio.timeout(2.0):
                left_count = await self._group.leave(self._attempts.unbegun())
        except REDIS_ERRORS as error:
            self._reader_observer.failed(error)
            return
        if left_count:
            logger.warning("%d entries of the group %s are left to other workers", left_count, self._group.group)
