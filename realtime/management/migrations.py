"""Whether the database has the tables of an app. Owns the error; does not own which commands need it."""

from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

__all__ = ["check_migrations"]

# The most migrations that the text names.
_NAMED = 3


def check_migrations(label: str, database: str) -> None:
    """
    Check that a database has the tables that an app needs. It does nothing if the database is unavailable.

    Args:
        label: Of the app.
        database: The name of the database in DATABASES.

    Raises:
        CommandError: Migrations of this app, or of apps that it depends on, are not applied.
    """
    try:
        executor = MigrationExecutor(connections[database])
        plan = executor.migration_plan([node for node in executor.loader.graph.leaf_nodes() if node[0] == label])
    except DatabaseError:
        return
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan[:_NAMED])
        more = f" and {len(plan) - _NAMED} more" if len(plan) > _NAMED else ""
        raise CommandError(f"the database lacks migrations ({names}{more}): run `manage.py migrate`, then this again")
