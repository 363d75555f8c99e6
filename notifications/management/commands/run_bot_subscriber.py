"""
`manage.py run_bot_subscriber`: sends notifications from the stream to browsers (relay) and by transports (bot).

Owns the command line. Does not own the parts (workers.service), nor signals and the end of the process
(realtime.management.service).
"""

import argparse
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser

from notifications import conf
from notifications.conf import PARTS
from notifications.management.errors import check_migrations
from notifications.transports import get_transports
from notifications.workers.service import Subscriber
from realtime.management.service import ServiceCommand
from realtime.management.streams import HelpFormatter

# After a signal, running work has this time to finish. With a bot, it is the time of the longest call of a provider
# plus RECORD_SECONDS, because an interrupted call would have to be repeated. No call begins in this time.
DEADLINE_SECONDS = 5.0
RECORD_SECONDS = 2.0

HELP = """\
Sends the notifications on the Redis stream, until it gets SIGTERM or Ctrl-C.

  relay  publishes each notification on the topic user.<id>, and so to the user's browsers. One of
         all relays also listens on the Redis channel "notification", where any program may PUBLISH
         {"user_id": 42, "message": "..."}, and publishes events that a crash left in the outbox.
  bot    sends each notification by the transports that its user wants: email, webhook, ... They
         are listed in NOTIFICATIONS["TRANSPORTS"]. The default, the console, calls
         send_message(user_id, message), which prints a line.

Run any number of these processes, on any number of machines: they share the work, and another one
takes over the work of a process that died. Each notification is handled at least once. The command
waits for the end of outages of Redis and the database. It does not wait for missing tables: run
migrate first.

After SIGTERM or Ctrl-C it finishes running work, begins no call of a provider, and exits with 0. The
slowest running call decides how long that takes: at most its transport's timeout_seconds, or, if it
runs in a thread (email, chat), four fifths of NOTIFICATIONS["DELIVERY_CLAIM_SECONDS"], plus some
seconds.

If code that it calls blocks the event loop, the log and `python -m notifications.health bot` show
the place within seconds. SIGTERM then ends the process at once, with exit code 1. With DEBUG off,
the process ends by itself after two leases (NOTIFICATIONS["STREAM_LEASE_SECONDS"]), so that its
supervisor can start a new one.
"""


class Command(ServiceCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = HelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", choices=PARTS, help="run only this part, to scale the two separately")
        parser.add_argument(
            "--concurrency",
            type=_positive,
            metavar="N",
            help='the most messages sent at a time on each transport; by default NOTIFICATIONS["BOT_CONCURRENCY"]',
        )

    def handle(self, *args: Any, only: Any, concurrency: int | None, **options: Any) -> None:
        parts = (only,) if only else PARTS
        # Missing tables would look like an outage of the database, and the command would wait for ever.
        check_migrations()
        self.run_service(
            lambda: Subscriber(parts=parts, bot_concurrency=concurrency),
            running=" and ".join(parts),
            deadline_seconds=_deadline_seconds(parts),
            lease_seconds=conf.get_settings().stream_lease_seconds,
        )


def _deadline_seconds(parts: Sequence[str]) -> float:
    if "bot" not in parts:
        return DEADLINE_SECONDS
    calls = [transport.longest_call_seconds + RECORD_SECONDS for transport in get_transports().values()]
    return max(DEADLINE_SECONDS, *calls)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
