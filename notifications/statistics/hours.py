"""
Counted hours: the figures of each hour (UTC) of the last 31 days, counted in the background again and again.

Owns which hours are due, how much of the time counting may take, and storing the figures. Does not own counting (tally)
nor when a round begins (the caller). One process at a time is enough, but several do no harm.
"""

import datetime
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import router

from notifications.database import clock
from notifications.database.clock import moment_of, stored
from notifications.models import CountedHour, Notification
from notifications.statistics import tally
from notifications.statistics.periods import HOUR

__all__ = ["HOURS_KEPT", "HourCounter", "hour_of", "hours_from"]

logger = logging.getLogger(__name__)

# The present hour is one of them. The period "month" is always within them: 30 days (UTC) with the present day.
HOURS_COUNTED = 31 * 24
# How long the database keeps them, and the hours of counters.
HOURS_KEPT = datetime.timedelta(days=35)
# The newest hours, in which nearly all changes are. Only these are stored with their minutes.
NEWEST_HOURS = 2
# An hour is due again after this time, or after this fraction of the time since its end, whichever is longer.
RECOUNT_SECONDS = 10.0
RECOUNT_PART = 1 / 24
# Sort of hours → the pause after counting some of them, as a multiple of the time that the counting took.
PAUSES = {"newest": 10, "new": 4, "old": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    start: datetime.datetime
    # "newest", "new" (never counted) or "old".
    sort: str


class HourCounter:
    """Counts the hours that are due, a few in each round."""

    def __init__(self) -> None:
        # Sort of hours → when the next of them may be counted, by the monotonic clock.
        self._pauses: dict[str, float] = {}
        # Hours that could not be counted → how many times in a row, and the time of the last failure, by the monotonic
        # clock. They are tried last, the oldest failure first.
        self._failed: dict[datetime.datetime, tuple[int, float]] = {}

    def count_due(self, limit_seconds: float = 0.5, now: datetime.datetime | None = None) -> int:
        """
        Count the most urgent of the hours that are due, and store their figures. Returns how many there were.

        The newest two hours come first, then those that were never counted, the newest first, then those that are the
        most overdue. Hours that are older than 35 days are deleted.

        Args:
            limit_seconds: No further hour is begun after this time.
            now: The present time by default.

        Raises:
            OperationalError, InterfaceError: The database is unavailable.

        Guarantees:
            At most about 1 % of the time goes into counting old hours again, 20 % into counting hours for the first
            time, and 10 % into the newest two. So the newest are counted every ten seconds, as long as counting them
            takes less than a second.
        """
        now = clock.now() if now is None else moment_of(now)
        counted_at = _read_times(now)
        self._failed = {start: failed for start, failed in self._failed.items() if start > now - HOURS_KEPT}
        began_at, costs = time.monotonic(), dict.fromkeys(PAUSES, 0.0)
        rows: list[CountedHour] = []
        empty = _EmptyTimes()
        try:
            for due in sorted(_find_due(counted_at, now), key=self._failed_at):
                hour_began_at = time.monotonic()
                if rows and hour_began_at - began_at >= limit_seconds:
                    break
                # Pauses are compared with the start of the round, so that none ends in the middle of it.
                if began_at >= self._pauses.get(due.sort, began_at):
                    try:
                        rows.append(_count(due, now, empty))
                        self._failed.pop(due.start, None)
                    except Exception as error:
                        self._note_failure(due.start, error)
                        raise
                    finally:
                        costs[due.sort] += time.monotonic() - hour_began_at
        finally:
            # Also after an error, such as the database's time limit for a statement: what was counted is stored, and
            # what took long is not tried again at once.
            for sort, seconds in costs.items():
                if seconds:
                    self._pauses[sort] = time.monotonic() + seconds * PAUSES[sort]
            _store(rows)
        if min(counted_at, default=now) < now - HOURS_KEPT:
            CountedHour.objects.using(_database()).filter(start__lt=stored(now - HOURS_KEPT)).delete()
        return len(rows)

    def _failed_at(self, due: _Due) -> float:
        return self._failed.get(due.start, (0, -math.inf))[1]

    def _note_failure(self, start: datetime.datetime, error: Exception) -> None:
        failures = self._failed.get(start, (0, 0.0))[0] + 1
        self._failed[start] = failures, time.monotonic()
        if failures == 2:
            # The database answered just before each failure, so this is not an outage.
            logger.warning(
                "the notifications of the hour from %s cannot be counted, so statistics show old figures for it or "
                "none: %s: %s (does the database limit the time of a statement?). Counting it is tried again",
                f"{start:%Y-%m-%d %H:%M} UTC",
                type(error).__name__,
                error,
            )


def hour_of(moment: datetime.datetime) -> datetime.datetime:
    """The start of the hour (UTC) in which a moment is."""
    return moment_of(moment).replace(minute=0, second=0, microsecond=0)


def hours_from(since: datetime.datetime, now: datetime.datetime) -> list[datetime.datetime]:
    """
    The starts of all hours from `since` on, up to the one of `now`, oldest first.

    With USE_TZ off, both passes of the hour that is repeated at the end of summer time have the same values in columns.
    Only the second pass is returned.
    """
    last = hour_of(now)
    starts = (since + number * HOUR for number in range(int((last - since) / HOUR) + 1))
    return list({stored(start): start for start in starts}.values())


def _read_times(now: datetime.datetime) -> dict[datetime.datetime, datetime.datetime]:
    """Start → when it was counted, of all hours that are stored."""
    rows = CountedHour.objects.using(_database()).order_by().values_list("start", "counted_at")
    return {moment_of(start): moment_of(counted_at) for start, counted_at in rows}


def _find_due(counted_at: dict[datetime.datetime, datetime.datetime], now: datetime.datetime) -> Iterator[_Due]:
    """The hours that are due, the most urgent first."""
    newest, new, old = [], [], []
    starts = hours_from(hour_of(now) - (HOURS_COUNTED - 1) * HOUR, now)
    for number, start in enumerate(reversed(starts)):
        # The key as it is read: with USE_TZ off, a repeated hour is read as the first of the two.
        last = counted_at.get(moment_of(stored(start)))
        age_seconds = max(0.0, (now - start - HOUR).total_seconds())
        due_seconds = max(RECOUNT_SECONDS, age_seconds * RECOUNT_PART)
        # Negative if the clock went back: then it is due too.
        passed_seconds = None if last is None else (now - last).total_seconds()
        if passed_seconds is not None and 0 <= passed_seconds < due_seconds:
            continue
        if number < NEWEST_HOURS:
            newest.append(start)
        elif passed_seconds is None:
            new.append(start)
        else:
            old.append((passed_seconds / due_seconds, start))
    yield from (_Due(start=start, sort="newest") for start in newest)
    yield from (_Due(start=start, sort="new") for start in new)
    yield from (_Due(start=start, sort="old") for _, start in sorted(old, reverse=True))


class _EmptyTimes:
    """
    Periods that are known to be empty. On a small site most hours lie in one of them, and need no query.

    They are compared as values of columns: with USE_TZ off, the two repeated hours at the end of summer time are one.
    """

    def __init__(self) -> None:
        # When the newest row before each of them, and the oldest one after it, were created; None if there is none.
        self._found: list[tuple[datetime.datetime | None, datetime.datetime | None]] = []

    def has(self, start: datetime.datetime, end: datetime.datetime) -> bool:
        """True if this period is known to be empty. After False, it must be counted."""
        begin, until = stored(start), stored(end)
        return any(
            (before is None or before < begin) and (after is None or until <= after) for before, after in self._found
        )

    def add(self, start: datetime.datetime, end: datetime.datetime) -> None:
        """This period is empty. Remember it, extended to the nearest rows on both sides."""
        before = tally.find_newest(_database(), 1, before=end)
        after = tally.find_oldest(_database(), since=start)
        self._found.append((before and stored(before), after and stored(after)))


def _count(due: _Due, now: datetime.datetime, empty: _EmptyTimes) -> CountedHour:
    starts, end = [due.start], due.start + HOUR
    if due.sort == "newest":
        starts = [due.start + datetime.timedelta(minutes=number) for number in range(60)]
    if empty.has(due.start, end):
        counted = tally.Tally(parts=[tally.Part() for _ in starts])
    else:
        # Rows from the future, by another machine's clock, count for the present hour, as in `rows`.
        counted = tally.count_rows(_database(), starts, None if due.start == hour_of(now) else end)
        if counted.is_empty and due.sort != "newest":
            empty.add(due.start, end)
    figures = tally.encode_hour(counted, has_minutes=len(starts) > 1)
    return CountedHour(start=stored(due.start), counted_at=stored(now), figures=figures)


def _store(rows: list[CountedHour]) -> None:
    if rows:
        # In one order, so that two processes that store at once cannot deadlock.
        CountedHour.objects.using(_database()).bulk_create(
            sorted(rows, key=lambda row: row.start),
            update_conflicts=True,
            unique_fields=["start"],
            update_fields=["counted_at", "figures"],
        )


def _database() -> str:
    # Never a replica: the rows decide, and what was stored must be seen in the next round.
    return router.db_for_write(Notification)
