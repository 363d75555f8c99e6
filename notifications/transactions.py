"""
Transactions that are going to write.

Owns how they begin, so that two at once on SQLite wait for each other and neither fails, and knowing that they wait.
Does not own what is written.
"""

import contextlib
import math
import time
from collections.abc import Iterator

from django.db import connections, transaction

from notifications.models import Event

__all__ = ["LOCKING_MODES", "is_contended", "write_transaction"]

# Of SQLite's ways to begin a transaction, those that take the write lock at once.
LOCKING_MODES = frozenset({"IMMEDIATE", "EXCLUSIVE"})
# Who finds SQLite's lock taken sleeps for a millisecond at least, and then longer and longer.
WAITED_SECONDS = 0.001
# Writers are taken to be in each other's way for so long after one of them had to wait.
CONTENDED_SECONDS = 0.5
# By database: when one of this process's transactions last had to wait for the lock, on the monotonic clock.
_waited_at: dict[str, float] = {}
# Changes no row, and takes the lock all the same.
_LOCK = f"UPDATE {Event._meta.db_table} SET id = id WHERE 0"  # noqa: S608 - a name of our own


@contextlib.contextmanager
def write_transaction(database: str) -> Iterator[None]:
    """
    As `transaction.atomic(using=database)`, for a block that reads before it writes.

    On SQLite with Django's default options a transaction that has read may no longer wait for another writer: it fails
    with "database is locked" at once. This one begins with a write, and waits for its turn up to `timeout`.

    Guarantees:
        Within a transaction of the caller's that has written, or has done nothing yet, likewise. One that has only read
        may still fail: `transaction_mode` in the database's OPTIONS is for that (notifications.W001).
    """
    asked_at = time.monotonic()
    with transaction.atomic(using=database):
        connection = connections[database]
        if connection.vendor == "sqlite":
            mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
            if mode.upper() not in LOCKING_MODES:
                with connection.cursor() as cursor:
                    cursor.execute(_LOCK)
            if (now := time.monotonic()) - asked_at >= WAITED_SECONDS:
                _waited_at[database] = now
        yield


def is_contended(database: str) -> bool:
    """
    Whether a transaction of this process had to wait for another writer lately: then others have to wait for it too.

    Only on SQLite, where one writes at a time. A machine that stood still looks like it.
    """
    return time.monotonic() - _waited_at.get(database, -math.inf) < CONTENDED_SECONDS
