"""
The periods that the dashboard can show, and their points.

Owns when each point begins. Does not own what is counted in it (rows, counters).
"""

import datetime

from notifications.statistics.figures import Period

__all__ = ["DAY", "EPOCH", "HOUR", "MINUTE", "point_length", "starts_of"]

MINUTE, HOUR, DAY = datetime.timedelta(minutes=1), datetime.timedelta(hours=1), datetime.timedelta(days=1)
# The length of a point, and how many there are. The last one is still running.
_POINTS: dict[Period, tuple[datetime.timedelta, int]] = {"hour": (MINUTE, 60), "day": (HOUR, 24), "month": (DAY, 30)}
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


def point_length(period: Period) -> datetime.timedelta:
    """The length of the points of a period."""
    return _POINTS[period][0]


def starts_of(period: Period, now: datetime.datetime) -> list[datetime.datetime]:
    """When each point (UTC) of the period that ends at `now` begins, oldest first."""
    step, count = _POINTS[period]
    last = now - (now - EPOCH) % step
    return [last - number * step for number in reversed(range(count))]
