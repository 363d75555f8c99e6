"""
What a worker does for its whole group: trim the stream, reclaim the entries of dead workers, repair stuck keys.

Owns when each is done, and the counts. Does not own the commands to Redis (group) nor the worker's own entries
(worker).
"""

import asyncio
import logging
import time

from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.streams.group import ConsumerGroup
from realtime.streams.wakeup import Wakeup

__all__ = ["CHECKS_IN_A_LEASE", "Maintenance"]

logger = logging.getLogger(__name__)

# How many times in a lease a worker looks for stuck keys.
CHECKS_IN_A_LEASE = 6


class Maintenance:
    """
    The maintenance of one consumer group by one of its workers.

    Args:
        group: The group.
        wakeup: Wakes the worker when it should look for entries.
        outage: The state of Redis, shared by all its users in the process.
        lease_seconds: As in StreamWorker.
        interval_seconds: The longest wait between two rounds.
        longest_wait_seconds: The longest wait of an entry between two attempts.

    Attributes:
        claimed_count, repaired_count, trimmed_count, vanished_count: As in WorkerStatistics.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        *,
        wakeup: Wakeup,
        outage: Outage,
        lease_seconds: float,
        interval_seconds: float,
        longest_wait_seconds: float,
    ) -> None:
        self.claimed_count = 0
        self.repaired_count = 0
        self.trimmed_count = 0
        self.vanished_count = 0
        self._group = group
        self._wakeup = wakeup
        # Reports this task's failures and successes with Redis.
        self._observer = outage.observer()
        self._lease_seconds = lease_seconds
        self._check_seconds = lease_seconds / CHECKS_IN_A_LEASE
        self._interval_seconds = min(interval_seconds, self._check_seconds)
        self._longest_wait_seconds = longest_wait_seconds
        # Until when no worker counts as dead: after an outage of Redis all leases may have expired, although their
        # holders are alive.
        self._grace_until = 0.0

    async def run(self) -> None:
        """Run one round after another, until cancelled. Outages of Redis are waited for."""
        failures = 0
        while True:
            asked_at = time.monotonic()
            try:
                self.trimmed_count += await self._group.trim()
                if asyncio.get_running_loop().time() >= self._grace_until:
                    await self._reclaim_dead()
                await self._repair()
            except REDIS_ERRORS as error:
                self.redis_failed()
                await self._observer.wait(error, failures, asked_at=asked_at)
                failures += 1
            else:
                self._observer.worked(asked_at=asked_at)
                failures = 0
                await asyncio.sleep(self._interval_seconds)

    def redis_failed(self) -> None:
        """Redis was unavailable: other workers may not have been able to renew their leases."""
        self._grace_until = asyncio.get_running_loop().time() + self._lease_seconds

    def count_vanished(self, count: int) -> None:
        """Count and log entries that a worker held and that were deleted from the stream."""
        if count:
            self.vanished_count += count
            logger.warning("%d entries of the group %s were deleted before they were handled", count, self._group.group)

    def count_forgotten(self, count: int) -> None:
        """Count and log entries that Redis assigns to this worker and that it does not know."""
        self.repaired_count += count
        logger.warning(
            "Redis records %d entries of the group %s for this worker that it does not have: asking for them again",
            count,
            self._group.group,
        )

    async def _repair(self) -> None:
        if count := await self._group.repair(self._check_seconds, self._longest_wait_seconds):
            self.repaired_count += count
            logger.warning(
                "repaired %d stuck keys and entries of the group %s: were keys of Redis deleted, or did its clock jump "
                "back?",
                count,
                self._group.group,
            )
            self._wakeup.wake()

    async def _reclaim_dead(self) -> None:
        for consumer in await self._group.find_dead(self._lease_seconds):
            while (found := await self._group.reclaim(consumer, self._lease_seconds)).moved_count:
                self.claimed_count += found.moved_count
                self.count_vanished(found.vanished_count)
                logger.warning(
                    "%d entries of the group %s claimed from silent workers", found.moved_count, self._group.group
                )
                self._wakeup.wake()
                if found.is_deleted:
                    break
            else:
                self.count_vanished(found.vanished_count)
