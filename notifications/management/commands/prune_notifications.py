"""`manage.py prune_notifications --older-than AGE`: deletes old notifications. Owns the command line and the output."""

import datetime
import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from notifications.events import prune
from notifications.management.errors import setup_errors
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import HelpFormatter, parse_age


class Command(EscapingCommand):
    """Prints how many rows were deleted in one line, or as one JSON object with --json."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Deletes notifications that are older than AGE, with their deliveries, and events without
notifications. They disappear from the inbox and the admin.

Unfinished work is kept: notifications with deliveries that are pending, sending or held, events in
the outbox, and scheduled events. Rows are deleted in small transactions, so you can stop the command
at any time, run it again, and keep the site running. Run it daily, with cron or a timer.

An idempotency key is deleted with its event, so AGE must be longer than the time in which callers
may repeat a call."""
    epilog = """\
examples:
  manage.py prune_notifications --older-than 90d
  manage.py prune_notifications --older-than 30d --only-read
  manage.py prune_notifications --older-than 90d --dry-run --json
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=parse_age,
            metavar="AGE",
            required=True,
            help="the age of notifications: 90s, 15m, 2h, 90d",
        )
        parser.add_argument(
            "--only-read", action="store_true", help="keep notifications that are neither read nor archived"
        )
        parser.add_argument("--dry-run", action="store_true", help="only print how many would be deleted")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            before = timezone.now() - datetime.timedelta(seconds=options["older_than"])
        except OverflowError:
            raise CommandError("--older-than is further back than the calendar: check the unit") from None
        total = prune.count_old(before, only_read=options["only_read"])
        notifications, events = total, 0
        if not options["dry_run"]:
            notifications = 0
            with progress(options.get("stderr") or sys.stderr, "deleted", count=total) as advance:
                for done in prune.prune(before, only_read=options["only_read"]):
                    notifications, events = notifications + done.notifications, events + done.events
                    advance("deleted", done.notifications)
        if options["as_json"]:
            counts = {"notification_count": notifications, "event_count": events, "is_dry_run": options["dry_run"]}
            self.stdout.write(json.dumps(counts))
        elif options["dry_run"]:
            self.stdout.write(f"{notifications} notifications would be deleted")
        else:
            self.stdout.write(f"{notifications} notifications and {events} events deleted")
