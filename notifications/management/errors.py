"""What ends a command in one line that says what to do, instead of a traceback. Owns the words."""

import contextlib
from collections.abc import Iterator

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from notifications import conf
from realtime import conf as realtime_conf

__all__ = ["setup_errors"]


@contextlib.contextmanager
def setup_errors() -> Iterator[None]:
    """
    Within it, what is wrong with how the project is set up is one line; REALTIME and NOTIFICATIONS are read first.

    Raises:
        CommandError: A setting is wrong.
    """
    try:
        # Before anything is written: what a wrong setting keeps from being published looks like Redis being away.
        realtime_conf.get_settings()
        conf.get_settings()
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
