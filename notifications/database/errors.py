"""
Errors that mean that the database is unavailable: it cannot be used now, but may be later.

Owns which errors these are, and how they are reported to the stream worker. Does not own trying again (the callers).
The errors of Redis are in `realtime.redis.outage.REDIS_ERRORS`.
"""

import contextlib
from collections.abc import Iterator

from django.db import InterfaceError, OperationalError

from realtime.exceptions import Unavailable

__all__ = ["DATABASE_UNAVAILABLE", "outages"]

# What Django raises when the database cannot be reached, is locked, or has closed the connection.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError)


@contextlib.contextmanager
def outages(*errors: type[Exception]) -> Iterator[None]:
    """Turns these errors into `Unavailable`, so that the stream worker calls its handler again until it succeeds."""
    try:
        yield
    except errors as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
