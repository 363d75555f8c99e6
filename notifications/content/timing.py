"""
Times: when an event is published, when a digest goes out, when quiet hours end.

Owns the calculations, in the time zone of a user where that matters. Does not own tables or clocks: `now` is an
argument.
"""

import datetime
import zoneinfo
from collections.abc import Mapping
from typing import Any, Literal

from django.conf import settings

from notifications.database.clock import moment_of
from notifications.exceptions import InvalidField

__all__ = ["PERIODS", "Period", "check_deliver_after", "check_fallback", "find_zone", "quiet_end", "window_end"]

type Period = Literal["hourly", "daily"]
PERIODS: tuple[Period, ...] = ("hourly", "daily")
# A longer wait is most likely a mistake in the unit.
_LONGEST = datetime.timedelta(days=3660)


def check_deliver_after(value: Any, now: datetime.datetime) -> datetime.datetime | None:
    """
    When an event is to be published.

    Args:
        value: A timedelta from now, an aware datetime, or None for now. With USE_TZ off, a naive datetime is in
            TIME_ZONE, as everywhere in such a project.

    Returns:
        The time in UTC; None for now, and for a time in the past.

    Raises:
        InvalidField: The value has another type, or is more than ten years away.
    """
    if value is None:
        return None
    if isinstance(value, datetime.timedelta):
        wait = value
    elif isinstance(value, datetime.datetime):
        if value.tzinfo is None and settings.USE_TZ:
            raise InvalidField(field="deliver_after", problem="has no time zone: give an aware datetime")
        wait = moment_of(value) - now
    else:
        raise InvalidField(field="deliver_after", problem="is neither a timedelta nor a datetime")
    if wait > _LONGEST:
        raise InvalidField(field="deliver_after", problem="is more than ten years away: check the unit")
    return now + wait if wait > datetime.timedelta(0) else None


def check_fallback(value: Any, transports: Mapping[str, Any]) -> dict[str, float] | None:
    """
    The fallback of one call as it is stored: transport → seconds; None if there is none.

    Raises:
        InvalidField: A transport is unknown, or a wait is not a timedelta from 0 to ten years.
    """
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise InvalidField(field="fallback", problem='is not a mapping: use {"email": timedelta(minutes=15)}')
    for name, wait in value.items():
        if name not in transports:
            raise InvalidField(field="fallback", problem=f"names {name!r}; transports are: {', '.join(transports)}")
        if not isinstance(wait, datetime.timedelta) or not datetime.timedelta(0) <= wait <= _LONGEST:
            raise InvalidField(field="fallback", problem=f"of {name} is not a timedelta from 0 to ten years")
    return {name: wait.total_seconds() for name, wait in value.items()}


def find_zone(name: str) -> zoneinfo.ZoneInfo | None:
    """The time zone with this name, such as "Europe/Berlin"; None if this machine does not have it."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # The name becomes part of a path. The name of a directory, or a name that is too long, raises OSError.
        return None


def window_end(now: datetime.datetime, period: Period, zone: datetime.tzinfo, *, hour: int = 0) -> datetime.datetime:
    """
    When the digest that is open at `now` goes out: at the next full hour, or at the next `hour` o'clock in `zone`.

    Guarantees:
        The result is later than `now`, and in UTC.
    """
    if period == "hourly":
        start = now.astimezone(datetime.UTC).replace(minute=0, second=0, microsecond=0)
        return start + datetime.timedelta(hours=1)
    return _next(now, datetime.time(hour), zone)


def quiet_end(
    now: datetime.datetime, starts: datetime.time, ends: datetime.time, zone: datetime.tzinfo
) -> datetime.datetime | None:
    """When the quiet hours at `now` end, in UTC; None outside quiet hours. Two equal times mean no quiet hours."""

    def is_quiet(moment: datetime.datetime) -> bool:
        time = moment.astimezone(zone).time()
        return starts <= time < ends if starts <= ends else time >= starts or time < ends

    if not is_quiet(now):
        return None
    # When clocks go back, the end may occur twice that night. When they go forward, it may not occur at all: then it is
    # the time that it would have been. If every candidate is itself in quiet hours, the caller asks again at the last.
    found = [_next(now, ends.replace(fold=fold), zone) for fold in (0, 1)]
    return min((end for end in found if not is_quiet(end)), default=max(found))


def _next(now: datetime.datetime, time: datetime.time, zone: datetime.tzinfo) -> datetime.datetime:
    """The first moment after `now` at which it is `time` in `zone`. The `fold` of `time` selects a repeated hour."""
    day = now.astimezone(zone).date()
    for days in range(3):
        found = datetime.datetime.combine(day + datetime.timedelta(days=days), time, zone).astimezone(datetime.UTC)
        if found > now:
            return found
    raise AssertionError("every time of day occurs within three days")
