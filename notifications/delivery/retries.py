"""
How many times a delivery is tried, and when.

Owns the retry schedule of each transport, from the settings, and what is put before the answer of the last attempt.
Does not own what counts as an attempt (bot) or storing when the next one is due (records).
"""

import itertools
import re
from dataclasses import dataclass

from notifications import conf
from realtime.redis.backoff import Backoff

__all__ = ["RetrySchedule", "given_up", "schedule_of", "without_given_up"]

# The part of each wait that is not random. So there is a known lower bound for the time that all attempts cover.
SURE_PART = 0.5
_GIVEN_UP = re.compile(r"given up after \d+ attempts: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySchedule:
    """The attempts of a delivery on one transport."""

    max_attempts: int
    backoff: Backoff

    def reaches_seconds(self) -> list[tuple[float, float]]:
        """For each attempt, the earliest and the latest time at which it is made, in seconds after the first one."""
        waits = [self.backoff.longest_seconds(attempt) for attempt in range(self.max_attempts - 1)]
        latest = itertools.accumulate(waits, initial=0.0)
        return [(self.backoff.sure_part * seconds, seconds) for seconds in latest]


def schedule_of(transport: str) -> RetrySchedule:
    """The schedule of a transport, by its entry in the settings or else by the settings for all transports."""
    settings = conf.get_settings()
    entry = settings.transports.get(transport) or conf.TransportEntry(backend="")
    return RetrySchedule(
        max_attempts=entry.max_attempts or settings.delivery_max_attempts,
        backoff=Backoff(
            base_seconds=entry.retry_seconds or settings.delivery_retry_seconds,
            cap_seconds=entry.retry_limit_seconds or settings.delivery_retry_limit_seconds,
            sure_part=SURE_PART,
        ),
    )


def given_up(answer: str, *, attempts: int) -> str:
    """The answer of the last attempt, as it is recorded."""
    return f"given up after {attempts} attempts: {answer}"


def without_given_up(answer: str) -> str:
    """A recorded answer as the provider gave it, so that the same answers are equal whatever the number of attempts."""
    return _GIVEN_UP.sub("", answer, count=1)
