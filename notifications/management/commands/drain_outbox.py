"""`manage.py drain_outbox`: publishes the outbox now. Owns the command line and the output."""

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

# Events between two steps of the progress bar.
STEP = 100


class Command(EscapingCommand):
    """Prints how many events were published and how many are left. Exits with 1 if any are left."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Publishes the outbox now: events that are committed but not on the stream, because Redis was
unavailable or the process that wrote them died. It also publishes scheduled events that are due.

A relay does this every two seconds. Use the command if no relay runs, before you stop the last one
for a longer time, or to see why an event stays in the outbox. Running it twice, or while a relay
runs, notifies nobody twice. Scheduled events that are not due stay scheduled."""
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
            self.stdout.write(f"{count} published, {released} of them scheduled; {left} left")
        if left:
            raise CommandError(f"{left} events cannot be published: the log says why")
