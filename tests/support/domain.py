"""People to notify, what of it is on the stream, and what it costs."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import redis
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection

from realtime.redis.keys import Keys

__all__ = ["entries_on_stream", "lock_waiters", "make_users", "recipients_on_stream", "rows_read"]


def make_users(count: int = 1, prefix: str = "user") -> list[User]:
    """`count` saved users: user1, user2, …"""
    names = (f"{prefix}{number}" for number in range(1, count + 1))
    return get_user_model().objects.bulk_create(User(username=name, password="!") for name in names)


def entries_on_stream(client: redis.Redis, keys: Keys) -> list[dict[str, Any]]:
    """The entries of the stream, in order: `n`, `u` as written and `e` decoded."""
    entries = client.xrange(keys.stream("notifications"))
    return [
        {"n": fields[b"n"].decode(), "u": fields[b"u"].decode(), "e": json.loads(fields[b"e"])} for _, fields in entries
    ]


def recipients_on_stream(client: redis.Redis, keys: Keys) -> list[int]:
    """The user ids of the stream's entries, in order."""
    return [int(entry["u"]) for entry in entries_on_stream(client, keys)]


def lock_waiters() -> int:
    """How many connections to PostgreSQL wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def rows_read(time_field: str) -> Iterator[list[int]]:
    """How many rows each query gives that looks for events by a time of theirs."""
    counts: list[int] = []

    def count(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and f'"notifications_event"."{time_field}" <' in sql:
            with connection.cursor() as cursor:
                connection.execute_wrappers.remove(count)
                cursor.execute(f"SELECT COUNT(*) FROM ({sql}) AS found", parameters)  # noqa: S608 - what Django wrote
                counts.append(cursor.fetchone()[0])
                connection.execute_wrappers.append(count)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(count):
        yield counts
