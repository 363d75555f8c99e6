"""
Clocks: the database's, by which it is decided what is due, and how a moment becomes a value of a column and back.

Owns the expression for the database's time, and the only place that knows of USE_TZ. Several machines claim the same
rows; each has a clock of its own, which may be wrong or jump, and the database is one. Times that are only shown are
the process's own.

With USE_TZ off, columns hold naive times of TIME_ZONE. What is reckoned with is aware in either case.
"""

import datetime
from typing import Any

from django.conf import settings
from django.db.models.expressions import Combinable
from django.db.models.functions import Now
from django.utils import timezone

__all__ = ["database_time", "moment_of", "now", "stored"]

# SQLite tells milliseconds, cut off: what was written a moment before, with microseconds, is not later than its now.
_RESOLUTION = datetime.timedelta(milliseconds=1)


class _LocalNow(Now):
    """Where columns hold local times: Django's is UTC on SQLite whatever USE_TZ says."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW', 'localtime')"
        return self.as_sql(compiler, connection, template=template, **context)


def database_time(seconds_from_now: float = 0.0) -> Combinable:
    """The database's time when the statement runs, and so many seconds more; for queries and updates."""
    present = Now() if settings.USE_TZ else _LocalNow()
    return present + (datetime.timedelta(seconds=seconds_from_now) + _RESOLUTION)


def now() -> datetime.datetime:
    """The process's time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def moment_of(value: datetime.datetime) -> datetime.datetime:
    """The moment that a column's value means, in UTC."""
    if timezone.is_naive(value):
        value = timezone.make_aware(value, timezone.get_default_timezone())
    return value.astimezone(datetime.UTC)


def stored(moment: datetime.datetime) -> datetime.datetime:
    """A moment as a column takes it. With USE_TZ off, the hour that a night has twice is one."""
    if settings.USE_TZ or timezone.is_naive(moment):
        return moment
    # As it is read back.
    return timezone.make_naive(moment, timezone.get_default_timezone()).replace(fold=0)
