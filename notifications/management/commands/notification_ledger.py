"""`manage.py notification_ledger ID`: every step of one notification. Owns the command line and the output."""

import argparse
import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser
from django.db import router

from notifications.management.errors import setup_errors
from notifications.models import Notification
from notifications.statistics.ledger import LedgerStep, describe, read_ledger
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter

LARGEST_ID = 2**63 - 1
COLUMNS = ("time (UTC)", "step", "transport", "attempt", "process", "took", "answer")


class Command(EscapingCommand):
    """Prints a line for each step, or one JSON object with --json. Exits with 1 if there is no such notification."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Shows every step of one notification and of its deliveries, in the order of time.

  time       when the step happened; of an attempt, when it ended; of "due", when it will be
  step       created, published on the stream, relayed to the browsers, deliveries planned; then the
             attempts on each transport; seen, read, archived, or replaced by a newer notification
  transport  of a delivery: email, webhook, …
  attempt    which attempt it was; sending a failed delivery again in the admin starts at 1 again
  process    host:pid of the process that did it, or "-" if it was not recorded
  took       how long the attempt took
  answer     the provider's answer, or the reason; addresses and secrets in it are hidden

"no result" means that the process of this attempt died or was suspended: its claim lapsed, and the
next attempt is made by any process. Of many attempts, the first 3 and the last 20 steps are kept.

The id of a notification is in the address of its page in the admin (…/notification/42/change/), and
what providers get has it too. Compare clocks first if times look impossible: each process has its own."""
    epilog = """\
examples:
  manage.py notification_ledger 42
  manage.py notification_ledger 42 --json | jq -r '.steps[] | select(.transport == "email").answer'
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=_notification_id, help="the id of a notification, e.g. 42")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        rows = Notification.objects.using(router.db_for_write(Notification)).select_related("event")
        notification = rows.defer("event__data").filter(pk=options["id"]).first()
        if notification is None:
            raise CommandError(f"there is no notification {options['id']}: it never existed, or was deleted")
        steps = read_ledger(notification, with_deliveries=True)
        if options["as_json"]:
            found = {"notification_id": notification.pk, "event_id": notification.event_id, "steps": steps}
            self.stdout.write(msgspec.json.encode(found).decode())
        else:
            self.stdout.write("\n".join(_table([COLUMNS, *(_row(step) for step in steps)])))


def _row(step: LedgerStep) -> tuple[str, ...]:
    until = f" (until {_moment(step.until)})" if step.until is not None else ""
    return (
        _moment(step.at),
        describe(step),
        step.transport or "-",
        str(step.attempt or "-"),
        step.process or "-",
        "-" if step.seconds is None else f"{step.seconds * 1000:,.0f} ms",
        f"{step.answer or '-'}{until}",
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _moment(at: datetime.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}"


def _notification_id(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:20]) <= LARGEST_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a notification: the admin shows it, e.g. 42")
    return int(text)
