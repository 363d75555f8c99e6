"""A database engine that says it is MariaDB: what Django's own says, which needs a driver that compiles."""

from django.db.backends.sqlite3 import base

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(base.DatabaseWrapper):
    """SQLite under another name."""

    vendor = "mysql"
