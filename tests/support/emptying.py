"""
Empties the database after a test with transactions, in a tenth of the time of Django's `flush`.

`flush` truncates all tables, and then writes the content types and permissions of all models anew, which takes longer
than many tests. Here these keep their rows. If a test has changed them, `flush` runs.
"""

from typing import Any

from django.core.management.color import no_style
from django.db import connections, transaction
from django.test import TransactionTestCase

__all__ = ["Emptying"]

# What migrations write and tests only read.
KEPT = ("auth_permission", "django_content_type")
# PostgreSQL truncates a table in 3 ms, and deletes a few rows in much less. But deleted rows keep their room, so after
# a test with more rows than this, the tables are truncated too.
MANY = 1000


class Emptying:
    """
    Takes the place of Django's own emptying, once the database has been made: `with Emptying(connections): ...`.

    An update of a content type or permission is not noticed, only one that is added or deleted.

    Args:
        names: The aliases of the databases.
    """

    def __init__(self, names: Any) -> None:
        self._flush = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]
        self._kept = {name: _state_of_kept(name) for name in names}

    def __enter__(self) -> None:
        emptying = self

        def empty(test: Any) -> None:
            emptying._empty(test)

        TransactionTestCase._fixture_teardown = empty  # type: ignore[attr-defined]

    def __exit__(self, *error: object) -> None:
        TransactionTestCase._fixture_teardown = self._flush  # type: ignore[attr-defined]

    def _empty(self, test: Any) -> None:
        names = test._databases_names(include_mirrors=False)
        if any(self._kept.get(name) != _state_of_kept(name) for name in names):
            self._flush(test)
            self._kept.update({name: _state_of_kept(name) for name in names})
            return
        for name in names:
            connection = connections[name]
            tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
            others = [table for table in tables if table not in KEPT]
            count = 0
            # Foreign keys are checked at the end of the transaction, so any order will do.
            with transaction.atomic(using=name), connection.cursor() as cursor:
                for table in others:
                    cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")  # noqa: S608 - our own names
                    count += cursor.rowcount
            if count > MANY:
                connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), others))


def _state_of_kept(name: str) -> tuple[Any, ...]:
    """A value that changes when a row is added or deleted."""
    with connections[name].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT COUNT(*), MAX(id) FROM {table}" for table in KEPT))  # noqa: S608
        return tuple(cursor.fetchall())
