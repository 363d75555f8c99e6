"""
Gathers statistics in the background: counts rows by the hour, and copies what processes count to the database.

Owns when each step runs, and what follows a failure. Does not own the steps (statistics). Only the holder of the
relays' lease runs it.
"""

import asyncio
import logging
from collections.abc import Callable

from channels.db import database_sync_to_async

from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.statistics.hours import HourCounter
from notifications.statistics.rollup import Rollup
from realtime.exceptions import StreamUnavailable

__all__ = ["Gatherer"]

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0


class Gatherer:
    """
    Args:
        interval_seconds: The pause between two rounds.

    Attributes:
        round_count: How many rounds have worked.
        defect_count: How many have failed for another reason than an outage of Redis or the database.
    """

    def __init__(self, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self.round_count = self.defect_count = 0
        self._interval_seconds = interval_seconds
        self._steps: tuple[Callable[[], object], ...] = (HourCounter().count_due, Rollup().copy)

    async def run(self) -> None:
        """
        Run rounds, with a pause after each, until it is cancelled.

        Guarantees:
            No failure ends it: statistics never stop the relay.
        """
        while True:
            await self.gather()
            await asyncio.sleep(self._interval_seconds)

    async def gather(self) -> None:
        """Run one round."""
        try:
            for step in self._steps:
                await database_sync_to_async(step, thread_sensitive=False)()
        except (StreamUnavailable, *DATABASE_UNAVAILABLE):
            # The sweep logs the outage.
            return
        except Exception:
            self.defect_count += 1
            if self.defect_count == 1:
                logger.exception("gathering statistics failed: it is tried again in every round")
        else:
            self.round_count += 1
