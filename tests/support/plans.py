"""How the database answers a query: its plan, on SQLite and on PostgreSQL."""

from collections.abc import Sequence

from django.db import connection

__all__ = ["plan"]


def plan(sql: str) -> Sequence[str]:
    """The steps of a query's plan."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            return [step for *_, step in cursor.fetchall()]
        # A server with few rows reads a table as a whole, because that is quicker. Here it may not.
        cursor.execute("SET enable_seqscan = off")
        try:
            cursor.execute(f"EXPLAIN {sql}")
            return [step for (step,) in cursor.fetchall()]
        finally:
            cursor.execute("RESET enable_seqscan")
