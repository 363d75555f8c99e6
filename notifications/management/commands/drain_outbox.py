"""`manage.py drain_outbox`: publishes now what waits for the sweep."""

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from notifications.events import outbox, schedule
from notifications.management.errors import setup_errors
from realtime.exceptions import StreamUnavailable
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import HelpFormatter

# Events published between two steps of the bar.
STEP = 100


class Command(EscapingCommand):
    """Prints how many events were published, and how many are left; exits with 1 if some are."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Publishes now what is in the outbox: events that are committed and not yet on the stream, because
Redis was away or the process that made them died, and events whose time to be told has come.

A relay does so by itself every two seconds. Use this where none runs, before one is switched off
for long, or to see why something stays in the outbox. Running it twice, or beside a relay, tells
nobody twice. Events that wait for a later time are left to wait."""
    epilog = """\
examples:
  manage.py drain_outbox
  manage.py drain_outbox --json
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        count = released = 0
        try:
            while step := schedule.release(STEP, publish=False):
                released += step
            total = outbox.count_overdue(include_recent=True)
            with progress(options.get("stderr") or sys.stderr, "events", count=total) as advance:
                while published := outbox.sweep(STEP, include_recent=True):
                    count += published
                    advance("events", published)
            left = outbox.count_overdue(include_recent=True)
        except (StreamUnavailable, DatabaseError) as error:
            raise CommandError(f"{count} events published, then: {error}") from error
        if options["as_json"]:
            self.stdout.write(json.dumps({"published_count": count, "released_count": released, "left_count": left}))
        else:
            self.stdout.write(f"{count} published, {released} of them because their time had come; {left} left")
        if left:
            raise CommandError(f"{left} events cannot be published: the log says why")
