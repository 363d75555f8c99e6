"""Errors of commands in one line that says what to do, instead of a traceback. Owns these texts."""

import contextlib
from collections.abc import Iterator

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor

from notifications import conf
from notifications.models import Event
from realtime import conf as realtime_conf

__all__ = ["check_migrations", "setup_errors"]

# The most migrations that the text names.
_NAMED = 3


@contextlib.contextmanager
def setup_errors() -> Iterator[None]:
    """
    Turns errors in the project's setup into one line. It reads REALTIME and NOTIFICATIONS first.

    Raises:
        CommandError: A setting is wrong, or the database failed and lacks migrations.
    """
    try:
        # Before anything is written: a wrong setting would make publishing fail, and that would look like an outage.
        realtime_conf.get_settings()
        conf.get_settings()
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    except (DatabaseError, CommandError) as error:
        if isinstance(error, DatabaseError) or isinstance(error.__cause__, DatabaseError):
            check_migrations()
        raise


def check_migrations() -> None:
    """
    Check that the database has the tables that this version needs. It does nothing if the database is unavailable.

    Raises:
        CommandError: Migrations of this app, or of apps that it depends on, are not applied.
    """
    connection = connections[router.db_for_write(Event)]
    try:
        executor = MigrationExecutor(connection)
        label = Event._meta.app_label
        plan = executor.migration_plan([node for node in executor.loader.graph.leaf_nodes() if node[0] == label])
    except DatabaseError:
        return
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan[:_NAMED])
        more = f" and {len(plan) - _NAMED} more" if len(plan) > _NAMED else ""
        raise CommandError(f"the database lacks migrations ({names}{more}): run `manage.py migrate`, then this again")
