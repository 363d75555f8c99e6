"""
Transactions that write.

Owns how they begin, so that concurrent ones on SQLite wait for each other instead of failing, and whether they had to
wait. Does not own what is written.
"""

import contextlib
import math
import time
from collections.abc import Iterator

from django.db import connections, transaction

__all__ = ["LOCKING_MODES", "is_contended", "write_transaction"]

# The transaction modes of SQLite that take the write lock at the beginning.
LOCKING_MODES = frozenset({"IMMEDIATE", "EXCLUSIVE"})
# If beginning a transaction takes this long, it had to wait for the lock: SQLite sleeps for at least a millisecond.
WAITED_SECONDS = 0.001
# How long a database counts as contended after a transaction had to wait.
CONTENDED_SECONDS = 0.5
# Database alias → when a transaction of this process last had to wait for the lock, by the monotonic clock.
_waited_at: dict[str, float] = {}
# Takes the write lock without changing a row. SQLite has this table in each database with an AUTOINCREMENT column, and
# Django's AutoField is such a column.
_LOCK = "UPDATE sqlite_sequence SET seq = seq WHERE 0"


@contextlib.contextmanager
def write_transaction(database: str) -> Iterator[None]:
    """
    Like `transaction.atomic(using=database)`, for a block that reads before it writes.

    On SQLite with Django's default options, a transaction that has read cannot wait for another writer: its first write
    fails at once with "database is locked". So this transaction begins with a write, which waits up to `timeout`.

    Guarantees:
        The same holds inside a transaction of the caller that has already written, or has not read yet. If it has only
        read, it may still fail: the `transaction_mode` in the database's OPTIONS helps (notifications.W001).
    """
    connection = connections[database]
    # Opening a connection may take longer than WAITED_SECONDS.
    connection.ensure_connection()
    asked_at = time.monotonic()
    with transaction.atomic(using=database):
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
    Whether a transaction of this process recently had to wait for another writer. Then others wait, too.

    It is only true on SQLite, which has one writer at a time. A machine that was suspended may look contended.
    """
    return time.monotonic() - _waited_at.get(database, -math.inf) < CONTENDED_SECONDS
