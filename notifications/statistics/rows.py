"""
The figures of a period that come from rows: those of the last hour, day or month.

Owns which part of a period is counted from the rows themselves and which is taken from counted hours. Does not own
counting (tally) and the counted hours (hours).
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from django.db import router
from django.db.models import TextField
from django.db.models.functions import Cast

from notifications.database import clock
from notifications.database.clock import moment_of, stored
from notifications.models import CountedHour, Notification
from notifications.statistics.figures import Funnel, KindFigures, Period, Point, Rows, TransportFigures
from notifications.statistics.hours import hour_of, hours_from
from notifications.statistics.periods import HOUR, MINUTE, starts_of
from notifications.statistics.tally import FUNNEL, OUTCOMES, Part, Tally, add_up, count_rows, decode_hour, find_newest

__all__ = ["KINDS_SHOWN", "LIVE_LIMIT", "read_rows"]

# At most this many notifications, and as many deliveries, are counted while the dashboard is read: 0.1 s.
LIVE_LIMIT = 10_000
KINDS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hours:
    """What is taken from counted hours."""

    tallies: Mapping[datetime.datetime, Tally]
    counted_at: datetime.datetime | None
    # Whether all of them have been counted.
    is_complete: bool


def read_rows(period: Period, now: datetime.datetime | None = None) -> Rows:
    """
    Count what was created in a period, and how far it has come.

    "hour" is the last 60 minutes (by minute), "day" the last 24 hours (UTC, by hour), "month" the last 30 days (UTC, by
    day), each with the present one. Rows that another machine's clock dated in the future count for the last point.

    Args:
        now: The present time by default.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        All rows of a period are counted now if it has at most LIVE_LIMIT notifications and LIVE_LIMIT deliveries.
        Otherwise only those of the present hour, and of the hour before it, are counted now, if there are at most as
        many of them; the rest is taken from the counted hours. Such an "hour" begins with the previous hour, so it is
        up to two hours long: `since` says so. The cost does not depend on the size of the tables.
    """
    now = clock.now() if now is None else moment_of(now)
    starts = starts_of(period, now)
    if period == "hour":
        starts = _in_columns(starts)
    limit = find_newest(_database(), LIVE_LIMIT + 1)
    if _is_after(starts[0], limit):
        tally = count_rows(_database(), starts)
        return _compose(starts, tally, counted_at=now, is_complete=True)
    if period == "hour":
        starts = _minutes_from(hour_of(now) - HOUR, now)
    return _read_counted(period, starts, now, limit)


def _minutes_from(since: datetime.datetime, now: datetime.datetime) -> list[datetime.datetime]:
    return [since + number * MINUTE for number in range(int((now - since) / MINUTE) + 1)]


def _in_columns(starts: Sequence[datetime.datetime]) -> list[datetime.datetime]:
    """
    Leave out starts whose value in a column is later than that of the last start.

    With USE_TZ off, there are such in the second pass of the hour that is repeated at the end of summer time.
    """
    last = stored(starts[-1])
    return [start for start in starts if stored(start) <= last]


def _is_after(moment: datetime.datetime, limit: datetime.datetime | None) -> bool:
    """Whether the rows from this moment on are few enough: all are newer than `limit`, compared as in columns."""
    return limit is None or stored(moment) > stored(limit)


def _read_counted(
    period: Period, starts: Sequence[datetime.datetime], now: datetime.datetime, limit: datetime.datetime | None
) -> Rows:
    """Take the older hours from the counted hours, and count the newest from their rows, if these are few enough."""
    live_starts = hours_from(hour_of(now) - HOUR, now)
    while live_starts and not _is_after(live_starts[0], limit):
        del live_starts[0]
    has_minutes = period == "hour"
    hours = hours_from(starts[0], now)
    tally = Tally(parts=[Part() for _ in starts])
    found = _read_hours([hour for hour in hours if hour not in live_starts], has_minutes=has_minutes)
    tallies = dict(found.tallies)
    if live_starts:
        parts = _minutes_from(live_starts[0], now) if has_minutes else live_starts
        tallies[live_starts[0]] = count_rows(_database(), parts)
    tally.kinds = add_up(each.kinds for each in tallies.values())
    for hour, each in tallies.items():
        for number, part in enumerate(each.parts):
            start = hour + number * (MINUTE if has_minutes else HOUR)
            tally.parts[_index_of(start, starts)].add(part)
    return _compose(starts, tally, counted_at=found.counted_at or now, is_complete=found.is_complete)


def _index_of(start: datetime.datetime, starts: Sequence[datetime.datetime]) -> int:
    """The point to which a minute or an hour belongs."""
    return min(len(starts) - 1, int((start - starts[0]) / (starts[1] - starts[0])))


def _read_hours(hours: Sequence[datetime.datetime], *, has_minutes: bool) -> _Hours:
    if not hours:
        return _Hours(tallies={}, counted_at=None, is_complete=True)
    wanted = {stored(hour): hour for hour in hours}
    rows = CountedHour.objects.using(_database()).filter(start__gte=min(wanted), start__lte=max(wanted)).order_by()
    tallies, counted_at = {}, []
    # As text, because Django's JSONField takes three times as long as msgspec.
    for start, counted, figures in rows.values_list("start", "counted_at", Cast("figures", TextField())):
        if (hour := wanted.get(start)) is not None:
            tallies[hour] = decode_hour(msgspec.json.decode(figures), minutes=has_minutes)
            counted_at.append(moment_of(counted))
    return _Hours(tallies=tallies, counted_at=min(counted_at, default=None), is_complete=len(tallies) == len(wanted))


def _compose(
    starts: Sequence[datetime.datetime], tally: Tally, *, counted_at: datetime.datetime, is_complete: bool
) -> Rows:
    whole = tally.whole()
    largest = sorted(tally.kinds.items(), key=lambda item: (-item[1][0], item[0]))[:KINDS_SHOWN]
    return Rows(
        since=starts[0],
        counted_at=counted_at,
        is_complete=is_complete,
        funnel=_funnel(whole.funnel),
        points=tuple(
            Point(start=start, funnel=_funnel(part.funnel), transports=_transports(part.transports))
            for start, part in zip(starts, tally.parts, strict=True)
        ),
        kinds=tuple(KindFigures(kind=kind, funnel=_funnel(counts)) for kind, counts in largest),
        transports=tuple(_transports(whole.transports).values()),
    )


def _funnel(counts: Sequence[int]) -> Funnel:
    return Funnel(**dict(zip(FUNNEL, counts, strict=True)))


def _transports(counts: Mapping[str, Sequence[int]]) -> dict[str, TransportFigures]:
    return {
        name: TransportFigures(transport=name, **dict(zip(OUTCOMES, counts[name], strict=True)))
        for name in sorted(counts)
    }


def _database() -> str:
    # The database of the lists that the figures link to.
    return router.db_for_read(Notification)
