"""
Clocks and the conversion of times: the database's clock decides what is due.

Owns the expression for the database's time, and the conversion between aware datetimes and the values of columns. The
database's clock decides because several machines claim the same rows: each machine's own clock may be wrong or jump.
Times that are only shown come from the clock of the process.

With USE_TZ off, columns hold naive times in TIME_ZONE. All calculations use aware times in either case.
"""

import datetime
from typing import Any

from django.conf import settings
from django.db.models.expressions import Combinable
from django.db.models.functions import Now
from django.utils import timezone

__all__ = ["database_time", "moment_of", "now", "stored"]

# SQLite's time has milliseconds, rounded down, but columns have microseconds. With this added, a time that was just
# written is never later than the database's time.
_RESOLUTION = datetime.timedelta(milliseconds=1)


class _LocalNow(Now):
    """The current local time, for USE_TZ off. On SQLite, Django's Now() is in UTC even then."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW', 'localtime')"
        return self.as_sql(compiler, connection, template=template, **context)


def database_time(seconds_from_now: float = 0.0) -> Combinable:
    """The database's time when the statement runs, plus some seconds; for queries and updates."""
    current = Now() if settings.USE_TZ else _LocalNow()
    return current + (datetime.timedelta(seconds=seconds_from_now) + _RESOLUTION)


def now() -> datetime.datetime:
    """The process's time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def moment_of(value: datetime.datetime) -> datetime.datetime:
    """The value of a column as an aware datetime in UTC."""
    if timezone.is_naive(value):
        value = timezone.make_aware(value, timezone.get_default_timezone())
    return value.astimezone(datetime.UTC)


def stored(moment: datetime.datetime) -> datetime.datetime:
    """
    A datetime as the value of a column.

    With USE_TZ off, the two repeated hours at the end of summer time become the same hour.
    """
    if settings.USE_TZ or timezone.is_naive(moment):
        return moment
    # Without the fold, because a value that is read back has none.
    return timezone.make_naive(moment, timezone.get_default_timezone()).replace(fold=0)
