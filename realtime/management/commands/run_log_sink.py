"""
`manage.py run_log_sink`: runs the workers of the sinks.

Owns the command line. Does not own the workers (sinks.service) nor signals and the end of the process
(management.service).
"""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.management.service import ServiceCommand
from realtime.management.streams import HelpFormatter
from realtime.redis.keys import Keys
from realtime.sinks import Sink, all_sinks
from realtime.sinks.service import SinkService
from realtime.sinks.storage import shown_place

# After a signal, files that are being written have this time to become durable.
DEADLINE_SECONDS = 10.0

HELP = """\
Turns log records on a Redis stream into files, until it gets SIGTERM or Ctrl-C.

Each app declares its sinks in sinks.py. The command runs those that are named, or all. Run any number
of these processes, on any number of machines: the processes of a sink share its records, and take over
the records of a process that died. A record is done when its file is durable.

The command waits for the end of outages of Redis and of the places where files go. It ends with an
error if a sink can never write: its library is missing, or its directory is a file.

After SIGTERM or Ctrl-C it writes what it holds, within 10 seconds, and exits with 0. What it cannot
write by then stays in Redis, for others. A second Ctrl-C ends it at once.
"""
EPILOG = """\
examples:
  manage.py run_log_sink                   all sinks
  manage.py run_log_sink Games Archive     only these
  manage.py run_log_sink --listen orders   also what programs PUBLISH on the Redis channel "orders"
  manage.py run_log_sink --list            shows all sinks, their queues, and where they write
  manage.py run_log_sink --list --json     the same, for programs
  manage.py stream_status logs             shows how many records wait for each sink

Records that fail again and again are dead letters: see replay_dead_letters and purge_dead_letters.
"""


class Command(ServiceCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("sinks", nargs="*", metavar="sink", help="the sinks to run; by default all of all apps")
        parser.add_argument(
            "--listen",
            action="append",
            default=[],
            dest="channels",
            type=_channel,
            metavar="CHANNEL",
            help="also read log records that programs PUBLISH on this Redis channel; may be given several times",
        )
        parser.add_argument("--list", action="store_true", dest="is_list", help="list the sinks, and end")
        parser.add_argument("--json", action="store_true", dest="as_json", help="with --list: print one JSON object")

    def handle(self, *args: Any, sinks: Sequence[str], channels: Sequence[str], **options: Any) -> None:
        chosen = _choose(sinks)
        if options["is_list"]:
            self._list(chosen, as_json=options["as_json"])
            return
        if options["as_json"]:
            raise CommandError("--json is for --list: add it")
        self.run_service(
            lambda: SinkService(chosen, channels=channels),
            running=" and ".join(sink.name for sink in chosen),
            deadline_seconds=DEADLINE_SECONDS,
            lease_seconds=max(sink.lease_seconds for sink in chosen),
            # Files that are there are not written again.
            may_be_broken_off=True,
        )

    def _list(self, sinks: Sequence[type[Sink]], *, as_json: bool) -> None:
        if as_json:
            found = [
                {"name": sink.name, "stream": sink.stream, "queues": [*sink.queues], "url": shown_place(sink.url)}
                for sink in sinks
            ]
            self.stdout.write(json.dumps({"sinks": found}))
            return
        for sink in sinks:
            queues = ""
            if sink.queues:
                queues = f", {'queues' if len(sink.queues) > 1 else 'queue'} {' and '.join(sink.queues)},"
            self.stdout.write(f"{sink.name}: stream {sink.stream}{queues} to {shown_place(sink.url)}")


def _choose(names: Sequence[str]) -> Sequence[type[Sink]]:
    """The sinks with these names; all if there are none."""
    sinks = all_sinks()
    if not sinks:
        raise CommandError("no app has a sink: declare one in the sinks.py of an app")
    known = {sink.name for sink in sinks}
    if unknown := [name for name in names if name not in known]:
        shown = " and no sink ".join(map(repr, dict.fromkeys(unknown)))
        raise CommandError(f"there is no sink {shown}; sinks: {', '.join(sorted(known))}")
    return [sink for sink in sinks if not names or sink.name in names]


def _channel(text: str) -> str:
    if not text or re.search(r"[\s*?\[\]]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a channel: name each one, without patterns")
    if text == Keys().ingress_channel():
        raise argparse.ArgumentTypeError(f"{text} is the channel of the ingress, for requests of notifications")
    return text
