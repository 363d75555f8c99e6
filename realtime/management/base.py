"""
The base class of all commands.

Owns printing that never fails, whatever the encoding of the standard output. Does not own what a command does.
"""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from realtime.untrusted.text import escape_unencodable

__all__ = ["EscapingCommand"]


class EscapingCommand(BaseCommand):
    """A command that prints an escape for each character that the encoding of the standard output lacks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # Before anything is printed in this process, including --help.
        escape_unencodable(sys.stdout)
        super().__init__(*args, **options)
