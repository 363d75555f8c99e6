"""
The clock by which it is decided what is due: the database's.

Owns the expression for its time. Several machines claim the same rows; each has a clock of its own, which may be wrong
or jump, and the database is one. Times that are only shown are the process's own.
"""

import datetime

from django.db.models.expressions import Combinable
from django.db.models.functions import Now

__all__ = ["database_time"]

# SQLite tells milliseconds, cut off: what was written a moment before, with microseconds, is not later than its now.
_RESOLUTION = datetime.timedelta(milliseconds=1)


def database_time(seconds_from_now: float = 0.0) -> Combinable:
    """The database's time when the statement runs, and so many seconds more; for queries and updates."""
    return Now() + (datetime.timedelta(seconds=seconds_from_now) + _RESOLUTION)
