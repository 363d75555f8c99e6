"""
What the holder of the relays' lease does again and again, whatever fails: releasing what is due, publishing what was
left in the outbox, refilling the stream.

Owns when each is done and what follows a failure. Does not own any of the three (schedule, outbox, recovery).
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

# The most events of one step; while there are so many, the next round begins at once.
SWEEP_LIMIT = 100
# Twice the longest wait of who tries the database again.
GRACE_SECONDS = 10.0


class Sweeper:
    """
    Runs the sweep in rounds.

    Args:
        redis_outage, database_outage: The states of Redis and the database, shared by all their users in the process so
            that an outage is logged once.
        interval_seconds: The pause between two rounds.
        truce_seconds: How long after an outage of the database the stream is not refilled. Claims may have lapsed in
            the outage although bots have the providers' answers: the bots record these first.

    Attributes:
        defect_count: How many steps have failed for other reasons than an outage of Redis or the database.
    """

    def __init__(
        self,
        *,
        redis_outage: Outage,
        database_outage: Outage,
        interval_seconds: float,
        truce_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.defect_count = 0
        self._redis_observer = redis_outage.observer()
        self._database_observer = database_outage.observer()
        self._interval_seconds = interval_seconds
        self._truce_seconds = truce_seconds
        # On the monotonic clock.
        self._refill_from = 0.0
        # By step, since it worked last: how often it has failed with an error of each class.
        self._failures: dict[str, Counter[type[Exception]]] = {}

    async def run(self) -> None:
        """
        For ever: a round, and a pause.

        Guarantees:
            Only cancelling ends it. Redis and the database being away is waited for.
        """
        try:
            while True:
                if not await self.sweep():
                    await asyncio.sleep(self._interval_seconds)
        finally:
            self._leave()

    async def sweep(self) -> bool:
        """One round. Whether there is more to do at once."""
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
            self._refill_from = time.monotonic() + self._truce_seconds
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
        Its answer; 0 if it is defective.

        A defect here concerns what was left behind. Ending the process for it would take ingress and relay with it,
        which serve everybody, and the next holder of the lease would meet the same rows and entries, and so the next.
        """
        try:
            # Not in the thread in which all other database work of the process queues up.
            answer: int = await database_sync_to_async(function, thread_sensitive=False)()
        except (StreamUnavailable, *DATABASE_UNAVAILABLE):
            raise
        except Exception as error:
            self.defect_count += 1
            failures = self._failures.setdefault(name, Counter())
            failures[type(error)] += 1
            if failures[type(error)] == 1:
                logger.exception("%s fails: trying again in every round until it works", name)
            return 0
        if name in self._failures:
            logger.warning("%s works again, after %d failures", name, self._failures.pop(name).total())
        return answer
