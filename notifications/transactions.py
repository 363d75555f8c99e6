"""
Transactions that are going to write.

Owns how they begin, so that two at once on SQLite wait for each other and neither fails. Does not own what is written.
"""

import contextlib
from collections.abc import Iterator

from django.db import connections, transaction

from notifications.models import Event

__all__ = ["LOCKING_MODES", "write_transaction"]

# Of SQLite's ways to begin a transaction, those that take the write lock at once.
LOCKING_MODES = frozenset({"IMMEDIATE", "EXCLUSIVE"})
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
    with transaction.atomic(using=database):
        connection = connections[database]
        if connection.vendor == "sqlite":
            mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
            if mode.upper() not in LOCKING_MODES:
                with connection.cursor() as cursor:
                    cursor.execute(_LOCK)
        yield
