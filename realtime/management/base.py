"""
The base class of all commands.

Owns printing that never fails, whatever the encoding of the standard output, and mistakes in the project's setup as one
line. Does not own what a command does.
"""

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from realtime.untrusted.text import escape_unencodable

__all__ = ["EscapingCommand"]


class EscapingCommand(BaseCommand):
    """
    A command that prints an escape for each character that the encoding of the standard output lacks. If the system
    checks cannot run because the project is not set up correctly, it ends with one line.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        # Before anything is printed in this process, including --help.
        escape_unencodable(sys.stdout)
        super().__init__(*args, **options)

    def check(self, *args: Any, **options: Any) -> None:
        """As Django's. The checks load the project's URLs, which import its views."""
        try:
            super().check(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
