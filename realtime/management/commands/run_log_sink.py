"""
`manage.py run_log_sink`: runs the workers of the sinks.

Owns the command line. Does not own the workers (sinks.service) nor signals and the end of the process
(management.service).
"""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.management.service import ServiceCommand
from realtime.management.streams import HelpFormatter
from realtime.sinks import Sink, all_sinks
from realtime.sinks.service import SinkService

# After a signal, files that are being written have this time to become durable.
DEADLINE_SECONDS = 10.0

HELP = """\
Turns log records on a Redis stream into files, until it gets SIGTERM or Ctrl-C.

Each app declares its sinks in sinks.py. The command runs those that are named, or all. Run any number
of these processes, on any number of machines: the processes of a sink share its records, and take over
the records of a process that died. A record is done when its file is durable.
"""
EPILOG = """\
examples:
  manage.py run_log_sink                 all sinks
  manage.py run_log_sink Games Archive   only these
  manage.py run_log_sink --list          shows all sinks, and where they write
  manage.py stream_status logs           shows how many records wait for each sink

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
            metavar="CHANNEL",
            help="also read log records that programs PUBLISH on this Redis channel; may be given several times",
        )
        parser.add_argument("--list", action="store_true", dest="is_list", help="list the sinks, and end")

    def handle(self, *args: Any, sinks: Sequence[str], channels: Sequence[str], is_list: bool, **options: Any) -> None:
        chosen = _choose(sinks)
        if is_list:
            for sink in chosen:
                self.stdout.write(f"{sink.name}: stream {sink.stream} to {sink.url}")
            return
        self.run_service(
            lambda: SinkService(chosen, channels=channels),
            running=" and ".join(sink.name for sink in chosen),
            deadline_seconds=DEADLINE_SECONDS,
            lease_seconds=max(sink.lease_seconds for sink in chosen),
        )


def _choose(names: Sequence[str]) -> Sequence[type[Sink]]:
    """The sinks with these names; all if there are none."""
    sinks = all_sinks()
    if not sinks:
        raise CommandError("no app has a sink: declare one in the sinks.py of an app")
    known = {sink.name for sink in sinks}
    if unknown := [name for name in names if name not in known]:
        raise CommandError(f"there is no sink {unknown[0]!r}; sinks: {', '.join(sorted(known))}")
    return [sink for sink in sinks if not names or sink.name in names]
