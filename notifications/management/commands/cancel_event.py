"""
`manage.py cancel_event EVENT…`: cancels scheduled events.

Owns the command line and the output. Does not own cancelling (`services.cancel`).
"""

import argparse
import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router

from notifications.database.clock import moment_of
from notifications.management.errors import setup_errors
from notifications.models import Event, Scheduled
from notifications.services import cancel
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter

LARGEST_ID = 2**63 - 1


class Command(EscapingCommand):
    """Prints a line for each event, or one JSON object with --json. Exits with 1 if an event was already published."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Cancels scheduled events (notify --deliver-after): nobody is notified.

`manage.py notify` prints the id of an event; in code it is the pk of what notify() returns. The
admin's list of events has the filter "scheduled". An event that was already published cannot be
cancelled. Cancelling twice does no harm. The idempotency key of a cancelled event stays in use."""
    epilog = """\
examples:
  manage.py cancel_event 7
  manage.py cancel_event 7 8 9 --json
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("events", nargs="+", type=_event_id, metavar="event", help="the id of an event")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        results: list[dict[str, Any]] = []
        problems: list[str] = []
        for event_id in dict.fromkeys(options["events"]):
            # Cancelling deletes these rows.
            count = Scheduled.objects.using(router.db_for_write(Scheduled)).filter(event_id=event_id).count()
            is_done = cancel(event_id)
            problem = "" if is_done else _why_not(event_id)
            if problem:
                problems.append(problem)
            cancelled_count = count if is_done else 0
            results.append({"event_id": event_id, "is_cancelled": not problem, "cancelled_count": cancelled_count})
            if not options["as_json"] and not problem:
                people = "1 person is" if count == 1 else f"{count} people are"
                what = f"cancelled, {people} not notified" if is_done else "was cancelled before"
                self.stdout.write(f"event {event_id}: {what}")
        if options["as_json"]:
            self.stdout.write(json.dumps({"events": results}))
        if problems:
            raise CommandError("; ".join(problems))


def _why_not(event_id: int) -> str:
    """Why an event could not be cancelled; "" if it is already cancelled."""
    event = Event.objects.using(router.db_for_write(Event)).filter(pk=event_id).first()
    if event is None:
        return f"there is no event {event_id}"
    if event.cancelled_at is not None:
        return ""
    return f"event {event_id} is not scheduled: it was created at {moment_of(event.created_at):%Y-%m-%d %H:%M:%S} UTC"


def _event_id(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:20]) <= LARGEST_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of an event: `manage.py notify` prints it, e.g. 7")
    return int(text)
