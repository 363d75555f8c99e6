"""
Schedules: the moments, called ticks, at which a periodic task runs.

Owns cron expressions, intervals, and what happens when clocks are changed. Does not own which tasks are periodic
(periodic_tasks) nor which ticks were enqueued (scheduler).
"""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from realtime.extras import extra
from realtime.tasks.django_api import InvalidTask
from realtime.tasks.record import EPOCH

__all__ = ["CronSchedule", "IntervalSchedule", "Schedule"]

# How far back to search for the latest tick: one step after another, until there is one.
_LOOK_BACK = tuple(timedelta(hours=hours) for hours in (1, 24, 24 * 32, 24 * 366, 24 * 366 * 9))
# More than any time zone turns its clocks back.
_TURNED_BACK = timedelta(hours=4)
# The shortest interval. Cron cannot express less than a minute.
SHORTEST_INTERVAL_SECONDS = 1.0


class Schedule(Protocol):
    """When a periodic task runs."""

    # Two schedules with the same text have the same ticks. Redis stores it, so that a changed schedule is noticed.
    text: str

    def following(self, moment: datetime) -> datetime | None:
        """The first tick after a moment, in UTC; None if there is none."""

    def latest(self, moment: datetime) -> datetime | None:
        """The last tick not after a moment, in UTC; None if there is none within nine years."""


class IntervalSchedule:
    """
    A tick whenever the time since the start of 1970 (UTC) is a multiple of the interval. So the ticks do not depend on
    time zones, nor on when workers start: an interval of 3600 ticks at each full hour of UTC.

    Raises:
        InvalidTask: The interval is not a number, is less than a second, or is more than about nine years.
    """

    def __init__(self, seconds: float) -> None:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not SHORTEST_INTERVAL_SECONDS <= seconds <= _LOOK_BACK[-1].total_seconds():
            raise InvalidTask(f"every_seconds is {seconds!r}: it must be a number of seconds from 1 to nine years.")
        self._interval_ms = round(seconds * 1000)
        self.text = f"every {seconds:.15g} s"

    def following(self, moment: datetime) -> datetime | None:
        return _at(self._count(moment) * self._interval_ms + self._interval_ms)

    def latest(self, moment: datetime) -> datetime | None:
        return _at(self._count(moment) * self._interval_ms)

    def _count(self, moment: datetime) -> int:
        return (moment - EPOCH) // timedelta(milliseconds=self._interval_ms)


class CronSchedule:
    """
    The ticks of a cron expression of five fields in a time zone, by the rules of Debian's cron.

    When clocks are turned forward, a tick at a time that does not exist, such as 02:30, comes right after the change,
    at 03:00. When clocks are turned back, a tick at a time that exists twice comes the first time only. An
    expression whose minute or hour begins with `*` follows the time that passes: `*/30 * * * *` ticks each 30 minutes,
    in the repeated hour too.

    Raises:
        InvalidTask: The expression or the time zone is not valid; says why.
        ExtraMissing: The library for cron expressions is not installed.
    """

    def __init__(self, expression: str, time_zone: str) -> None:
        with extra("tasks"):
            from cronsim import CronSim, CronSimError
        self._simulate = CronSim
        if not isinstance(expression, str) or len(expression.split()) != 5:
            raise InvalidTask(
                f"cron is {expression!r}: it must have five fields, the minute, the hour, the day of the month, the "
                'month and the day of the week, for example "0 3 * * *".'
            )
        try:
            self._zone = zoneinfo.ZoneInfo(time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, TypeError, ValueError, OSError) as error:
            raise InvalidTask(f'there is no time zone {time_zone!r}: name one like "Europe/Zurich".') from error
        self._expression = " ".join(expression.split())
        try:
            CronSim(self._expression, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise InvalidTask(f"cron is {expression!r}, which is not valid: {error}.") from error
        if self.following(datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise InvalidTask(f"cron is {expression!r}: there is no such day.")
        self.text = f"{self._expression} {time_zone}"

    def following(self, moment: datetime) -> datetime | None:
        return next(self._after(moment), None)

    def latest(self, moment: datetime) -> datetime | None:
        for duration in _LOOK_BACK:
            found = self.following(moment - duration)
            if found is not None and found <= moment:
                return self._last_between(found, moment)
        return None

    def _last_between(self, tick: datetime, moment: datetime) -> datetime:
        """The last tick from `tick` to a moment, by bisection: there may be thousands."""
        end = moment
        while (next_tick := self.following(tick)) is not None and next_tick <= moment:
            middle = tick + (end - tick) / 2
            found = self.following(middle)
            if found is not None and found <= moment:
                tick = found
            else:
                tick, end = next_tick, middle
        return tick

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """The ticks after a moment, in order."""
        start = moment.astimezone(self._zone)
        if start.fold:
            # CronSim reads a time that exists twice as the first one, and would give ticks that have passed.
            start = (moment - _TURNED_BACK).astimezone(self._zone)
        for tick in self._simulate(self._expression, start):
            tick = tick.astimezone(UTC)
            if tick > moment:
                yield tick
                moment = tick


def _at(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)
