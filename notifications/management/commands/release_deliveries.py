"""`manage.py release_deliveries`: releases held deliveries. Owns the command line and the output."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from notifications import conf
from notifications.delivery import changes, records
from notifications.management.errors import setup_errors
from notifications.models import Delivery
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter


class Command(EscapingCommand):
    """Prints how many were released. Exits with 1 if NOTIFICATIONS["DELIVERY"] is still "hold"."""

    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = """\
Releases deliveries that are held by NOTIFICATIONS["DELIVERY"] ("hold", or a list of addresses).

Change DELIVERY first, because it is checked again when a delivery is sent. A bot sends the released
deliveries within seconds. Deliveries of notifications that were read or replaced meanwhile are
skipped in the same cases as without the hold."""
    epilog = """\
examples:
  manage.py release_deliveries
  manage.py release_deliveries --transport email
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--transport", metavar="NAME", help="only deliveries on this transport")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        if conf.get_settings().delivery == "hold":
            raise CommandError('NOTIFICATIONS["DELIVERY"] is "hold": they would be held again. Change it first.')
        held = records.rows().filter(state=Delivery.State.HELD)
        transport = options["transport"]
        if transport is not None:
            held = held.filter(transport=transport)
        count = changes.release(held)
        self.stdout.write(json.dumps({"released_count": count}) if options["as_json"] else f"{count} released")
