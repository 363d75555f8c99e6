"""
Transactions that are going to write.

Owns how they begin, so that concurrent ones on SQLite wait for each other and none fails, and knowing whether they had
to wait. Does not own what is written.
"""

import contextlib
import math
import time
from collections.abc import Iterator

from django.db import connections, transaction

__all__ = ["LOCKING_MODES", "is_contended", "write_transaction"]

# Of SQLite's ways to begin a transaction, those that take the write lock at once.
LOCKING_MODES = frozenset({"IMMEDIATE", "EXCLUSIVE"})
# A beginning that takes this long has waited for the lock: SQLite then sleeps at least a millisecond.
WAITED_SECONDS = 0.001
# How long a database counts as contended after a transaction had to wait.
CONTENDED_SECONDS = 0.5
# Database alias → when a transaction of this process last had to wait for the lock, by the monotonic clock.
_waited_at: dict[str, float] = {}
# Changes no row, and takes the lock all the same. SQLite has this table in each database with an AUTOINCREMENT column,
# which is what Django makes of an AutoField.
_LOCK = "UPDATE sqlite_sequence SET seq = seq WHERE 0"


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
    Whether a transaction of this process has had to wait for another writer lately. Others then wait for it, too.

    It is only ever true on SQLite, which has one writer at a time. A machine that was suspended may look contended.
    """
    return time.monotonic() - _waited_at.get(database, -math.inf) < CONTENDED_SECONDS
