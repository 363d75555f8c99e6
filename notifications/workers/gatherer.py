"""
Gathers statistics in the background: counts rows by the hour, copies the counters of processes to the database, and
publishes the live numbers of the dashboard.

Owns when each step runs, and what follows a failure. Does not own the steps (statistics). Only the holder of the
relays' lease runs it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from channels.db import database_sync_to_async

from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.statistics.hours import HourCounter
from notifications.statistics.live import publish_live
from notifications.statistics.rollup import Rollup
from realtime.exceptions import StreamUnavailable

__all__ = ["Gatherer"]

logger = logging.getLogger(__name__)

# Between two rounds of counting and copying.
INTERVAL_SECONDS = 5.0
# Between two publications of the live numbers, while somebody looks at them.
LIVE_SECONDS = 1.0


class Gatherer:
    """
    Args:
        interval_seconds: The pause between two rounds of counting and copying.
        live_seconds: The pause between two publications of the live numbers, while somebody looks at a dashboard.
            Otherwise they are published once a round, to find out whether somebody does.

    Attributes:
        round_count: How many rounds have worked.
        defect_count: How many steps have failed for a reason other than an outage.
    """

    def __init__(self, *, interval_seconds: float = INTERVAL_SECONDS, live_seconds: float = LIVE_SECONDS) -> None:
        self.round_count = self.defect_count = 0
        self._interval_seconds, self._live_seconds = interval_seconds, live_seconds
        self._counter, self._rollup = HourCounter(), Rollup()
        # The names of the steps that have failed for a reason other than an outage.
        self._defective: set[str] = set()

    async def run(self) -> None:
        """
        Run rounds, with a pause after each, until it is cancelled.

        Guarantees:
            No failure ends it: statistics never stop the relay.
        """
        while True:
            await self.gather()
            end = time.monotonic() + self._interval_seconds
            while (seconds := end - time.monotonic()) > 0:
                is_watched = await self._step("publishing the live numbers", publish_live)
                await asyncio.sleep(min(seconds, self._live_seconds) if is_watched else seconds)

    async def gather(self) -> None:
        """Run one round of counting and copying."""
        # An outage of Redis does not keep hours from being counted.
        counted = await self._step("counting the rows of hours", self._counter.count_due)
        copied = await self._step("copying the counters of processes", self._rollup.copy)
        self.round_count += None not in (counted, copied)

    async def _step(self, name: str, step: Callable[[], int]) -> int | None:
        """Run a step. Returns its result; None if it failed. The first defect of each step is logged."""
        try:
            result: int = await database_sync_to_async(step, thread_sensitive=False)()
        except (StreamUnavailable, *DATABASE_UNAVAILABLE):
            # The sweep logs the outage.
            return None
        except Exception:
            self.defect_count += 1
            if name not in self._defective:
                self._defective.add(name)
                logger.exception("%s failed: it is tried again in every round", name)
            return None
        return result
