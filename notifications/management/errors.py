"""Errors of commands in one line that says what to do, instead of a traceback. Owns these texts."""

import contextlib
from collections.abc import Iterator

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, router

from notifications import conf
from notifications.models import Event
from realtime import conf as realtime_conf
from realtime.management import migrations

__all__ = ["check_migrations", "setup_errors"]


@contextlib.contextmanager
def setup_errors() -> Iterator[None]:
    """
    Turns errors in the project's setup into one line. First it reads REALTIME and NOTIFICATIONS, and starts or joins
    the embedded server if REALTIME names it.

    Raises:
        CommandError: A setting is wrong, the embedded server does not start, or the database failed and lacks
            migrations.
    """
    try:
        # Before anything is written: a wrong setting would make publishing fail, and that would look like an outage.
        realtime_conf.get_settings()
        conf.get_settings()
        realtime_conf.join_embedded_server()
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
    migrations.check_migrations(Event._meta.app_label, router.db_for_write(Event))
