"""
A clock that jumps, for one process of a site under fault.

Owns the two clocks by which the project's Python decides when something is due: Django's timezone.now() and
time.time(). Does not own the monotonic clock, by which all waits go and which never jumps, nor Redis and database,
which are processes of their own.
"""

import datetime
import time
from pathlib import Path
from typing import Any

from django.utils import timezone

__all__ = ["follow"]


def follow(path: Path) -> None:
    """From now on this process's clocks are off by the number of seconds in the file, as soon as it is there."""
    real_time = time.time

    def shift_seconds() -> float:
        try:
            return float(path.read_text() or 0)
        except FileNotFoundError:
            return 0.0

    class ShiftedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=shift_seconds())

    time.time = lambda: real_time() + shift_seconds()
    timezone.datetime = ShiftedDatetime  # type: ignore[attr-defined]
