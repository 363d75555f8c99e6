"""
Appends log records that programs publish on Redis channels to the stream.

Owns checking, refusing, appending and counting them. Does not own the form of a record (record), the subscription
(pubsub.multiplexer) nor which process listens (redis.lease).

Redis pub/sub delivers at most once: a record that is published while no process listens is lost, and PUBLISH returns 0.
"""

import asyncio
import functools
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import redis.asyncio

from realtime.exceptions import StreamFull, StreamUnavailable, SubscriberTooSlow, SubscriptionClosed, SubscriptionGap
from realtime.logs.record import encode, read_published
from realtime.logs.stream import GUARD_SECONDS, RECORD_FIELD, RECORD_LIMIT_BYTES
from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Subscription
from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys
from realtime.redis.outage import Outage
from realtime.statistics import register, unregister
from realtime.streams.append import aappend_entries
from realtime.untrusted.text import LimitedLog, printable

__all__ = ["Intake"]

logger = logging.getLogger(__name__)

# The most records of a channel that wait while Redis is slow or the stream is full. If more arrive, the oldest are
# dropped and counted.
HIGH_WATER_MARK = 16_384
# The most records that are appended in one call.
BATCH_RECORDS = 500
# When it stops, it has this time to append the records that it has received.
STOP_SECONDS = 3.0
# The most characters of a refused record, and of the reason, in the log.
EXCERPT_LIMIT = 200


class Intake:
    """
    Listens on channels, and appends what it receives.

    Args:
        redis: A client for short commands (`clients.async_publisher`).
        names: The names of keys and channels.
        stream: The stream to append to.
        stream_limit: The most entries of the stream; while it has that many, records wait.
        channels: The Redis channels to listen on. A record without a `queue` gets the name of its channel as queue.
        outage: The state of Redis, shared by all its users in the process.

    Guarantees:
        The records of a channel are appended in their order, each at most once. A record that is received but not
        appended was refused or dropped, which is counted and logged, or was waiting when `run` ended.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        *,
        names: Keys,
        stream: str,
        stream_limit: int,
        channels: Sequence[str],
        outage: Outage,
    ) -> None:
        self._redis, self._names, self._stream, self._stream_limit = redis, names, stream, stream_limit
        self._channels, self._outage = channels, outage
        # What became of the records: how many were "accepted", "refused" and "dropped".
        self._counts: Counter[str] = Counter()
        self._log = LimitedLog(logger)
        # How long it waits between attempts while the stream is full.
        self._backoff = Backoff()
        register(self, "log intake")

    def statistics(self) -> dict[str, int]:
        """
        What became of the records, for `realtime.statistics`.

        "accepted" are on the stream, "refused" are no log records, "dropped" were more than could wait.
        """
        return dict(self._counts)

    async def run(self, multiplexer: Multiplexer) -> None:
        """
        Listen until the multiplexer stops or this is cancelled. Can be called once. A malformed record is refused and
        ends nothing.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for channel in self._channels:
                    tasks.create_task(self._listen(multiplexer, channel), name=f"intake of {channel}")
        finally:
            self._log.flush()
            unregister(self)

    async def _listen(self, multiplexer: Multiplexer, channel: str) -> None:
        name = self._names.channel(channel)
        subscription = multiplexer.subscribe(name, high_water_mark=HIGH_WATER_MARK)
        work: asyncio.Task[None] | None = None
        try:
            async with subscription:
                logger.info("listening for log records on the Redis channel %s", name)
                work = asyncio.create_task(self._take_in(subscription, channel), name=f"taking in {channel}")
                # If this is cancelled, the subscription ends. The task goes on with the records that it has received,
                # because no other process has them.
                await asyncio.wait([work])
        finally:
            if work is not None:
                await asyncio.wait([work], timeout=STOP_SECONDS)
                if not work.done():
                    logger.warning(
                        "log records that were published on %s are lost: Redis takes none, or the stream is full", name
                    )
                    work.cancel()
                    await asyncio.wait([work])
        await work

    async def _take_in(self, subscription: Subscription, channel: str) -> None:
        """Append what the subscription receives, until it has ended and holds nothing more."""
        name, bodies, is_closed = self._names.channel(channel), list[bytes](), False
        while not is_closed:
            try:
                while not bodies or (subscription.held_count and len(bodies) < BATCH_RECORDS):
                    bodies.append((await subscription.receive()).data)
            except SubscriptionClosed:
                is_closed = True
            except SubscriberTooSlow as error:
                self._counts["dropped"] += error.dropped_count
                self._log.warning("dropped", "log records on %s were lost: %s", name, error)
            except SubscriptionGap:
                self._log.warning("gap", "the subscription to %s was interrupted: records may be lost", name)
            await self._append([record for body in bodies if (record := self._read(body, channel)) is not None])
            bodies.clear()

    def _read(self, body: bytes, channel: str) -> bytes | None:
        """Check a record, and return its JSON for the stream; None if it is refused."""
        try:
            if len(body) > RECORD_LIMIT_BYTES:
                raise ValueError(f"it has {len(body)} bytes, the limit is {RECORD_LIMIT_BYTES}")
            record = read_published(body)
            return encode(record if record.queue else msgspec.structs.replace(record, queue=channel))
        except (ValueError, RecursionError) as error:
            self._counts["refused"] += 1
            reason, excerpt = printable(str(error), limit=EXCERPT_LIMIT), printable(body, limit=EXCERPT_LIMIT)
            self._log.warning("refused", "refused a log record on %s (%s): %s", channel, reason, excerpt)
            return None

    async def _append(self, records: Sequence[bytes]) -> None:
        if not records:
            return
        # Each attempt has the same guard, so the batch is appended once.
        append = functools.partial(
            aappend_entries,
            self._redis,
            self._names.stream(self._stream),
            self._names.stream_guard(self._stream, secrets.token_hex(8)),
            [{RECORD_FIELD: record} for record in records],
            guard_seconds=GUARD_SECONDS,
            length_limit=self._stream_limit,
        )
        await self._until_appended(append)
        self._counts["accepted"] += len(records)

    async def _until_appended(self, append: Callable[[], Awaitable[object]]) -> None:
        """Wait while Redis is unavailable, and while the stream is full, which is no outage of Redis."""

        async def has_room() -> bool:
            try:
                await append()
            except StreamFull:
                return False
            return True

        failures = 0
        while not await self._outage.until_done(has_room, errors=(StreamUnavailable,)):
            if not failures:
                logger.warning(
                    "the stream %s is full, it has %d entries: published records wait. Start run_log_sink for all "
                    "sinks, or more of these processes: entries leave the stream when all sinks have finished them",
                    self._stream,
                    self._stream_limit,
                )
            await asyncio.sleep(self._backoff.delay_seconds(failures))
            failures += 1
        if failures:
            logger.warning("the stream %s takes records again", self._stream)
