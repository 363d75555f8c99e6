"""
The sweep: releases scheduled events, publishes the outbox and refills the stream, in one round after another.

Owns when each step runs, and what follows a failure. Does not own the steps (events.schedule, events.outbox, recovery).
Only the holder of the relays' lease runs it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from channels.db import database_sync_to_async

from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.events import outbox, schedule
from notifications.workers import recovery
from realtime.exceptions import StreamUnavailable
from realtime.redis.outage import Outage

__all__ = ["GRACE_SECONDS", "SWEEP_LIMIT", "Sweeper"]

logger = logging.getLogger(__name__)

# The most events of one step. If a step has this many, the next round begins at once.
SWEEP_LIMIT = 100
# Twice the longest wait between two tries of the database.
GRACE_SECONDS = 10.0


class Sweeper:
    """
    Runs the sweep in rounds.

    Args:
        redis_outage, database_outage: The states of Redis and the database. All users in the process share them, so
            that an outage is logged once.
        interval_seconds: The pause between two rounds.
        grace_seconds: How long the stream is not refilled after an outage of the database. Claims may have lapsed in
            the outage although bots have the providers' answers. In this time the bots record these.

    Attributes:
        defect_count: How many steps have failed for other reasons than an outage of Redis or the database.
    """

    def __init__(
        self,
        *,
        redis_outage: Outage,
        database_outage: Outage,
        interval_seconds: float,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.defect_count = 0
        self._redis_observer = redis_outage.observer()
        self._database_observer = database_outage.observer()
        self._interval_seconds = interval_seconds
        self._grace_seconds = grace_seconds
        # The stream is not refilled before this time of the monotonic clock.
        self._refill_from = 0.0
        # Step → how often it has failed with each class of error since it last worked.
        self._failures: dict[str, Counter[type[Exception]]] = {}

    async def run(self) -> None:
        """
        Run rounds, with a pause after each, until it is cancelled.

        Guarantees:
            Outages of Redis and the database do not end it.
        """
        try:
            while True:
                if not await self.sweep():
                    await asyncio.sleep(self._interval_seconds)
        finally:
            self._leave()

    async def sweep(self) -> bool:
        """Run one round. Returns whether the next one should begin at once."""
        asked_at = time.monotonic()
        defect_count = self.defect_count
        try:
            released = await self._step("releasing what is due", lambda: schedule.release(SWEEP_LIMIT))
            count = await self._step("the outbox sweep", lambda: outbox.sweep(SWEEP_LIMIT))
            if time.monotonic() >= self._refill_from:
                await self._step("refilling the stream", recovery.refill)
        except StreamUnavailable as error:
            self._redis_observer.failed(error, asked_at=asked_at)
            return False
        except DATABASE_UNAVAILABLE as error:
            self._database_observer.failed(error, asked_at=asked_at)
            self._refill_from = time.monotonic() + self._grace_seconds
            return False
        if self.defect_count == defect_count:
            self._database_observer.worked(asked_at=asked_at)
            self._redis_observer.worked(asked_at=asked_at)
        else:
            self._leave()
        if count:
            logger.warning("the sweep published %d events that their callers left in the outbox", count)
        return SWEEP_LIMIT in (count, released)

    def _leave(self) -> None:
        self._redis_observer.leave()
        self._database_observer.leave()

    async def _step(self, name: str, function: Callable[[], int]) -> int:
        """
        Run one step. Returns its result; 0 if it fails for another reason than an outage.

        Such a defect is logged and does not end the process: ingress and the relay would end too, and the next holder
        of the lease would find the same rows and fail in the same way.
        """
        try:
            # Not in the thread that the process shares for its other database work.
            answer: int = await database_sync_to_async(function, thread_sensitive=False)()
        except (StreamUnavailable, *DATABASE_UNAVAILABLE):
            raise
        except Exception as error:
            self.defect_count += 1
            failures = self._failures.setdefault(name, Counter())
            failures[type(error)] += 1
            if failures[type(error)] == 1:
                logger.exception("%s failed: it is tried again in every round", name)
            return 0
        if name in self._failures:
            logger.warning("%s works again, after %d failures", name, self._failures.pop(name).total())
        return answer
