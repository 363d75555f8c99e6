"""What all commands have in common: their output fails for no letter. Owns nothing else."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from realtime.foreign_text import escape_unencodable

__all__ = ["EscapingCommand"]


class EscapingCommand(BaseCommand):
    """A command that prints an escape for what the encoding of the standard output lacks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # Before --help is printed, and whoever else prints in this process.
        escape_unencodable(sys.stdout)
        super().__init__(*args, **options)
