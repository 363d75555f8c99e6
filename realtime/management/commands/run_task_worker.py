"""
`manage.py run_task_worker`: runs background tasks.

Owns the command line. Does not own the worker (tasks.service) nor signals and the end of the process
(management.service).
"""

import argparse
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.management.service import ServiceCommand
from realtime.management.streams import HelpFormatter
from realtime.tasks.backend import QUEUE_RULE, RedisStreamBackend, is_queue_name
from realtime.tasks.django_api import InvalidTaskBackend, task_backends
from realtime.tasks.service import TaskService

DEFAULT_CONCURRENCY = 10
CONCURRENCY_LIMIT = 1000
DEFAULT_DEADLINE_SECONDS = 30.0

HELP = """\
Runs the background tasks of Django's Tasks framework, until it gets SIGTERM or Ctrl-C.

Run any number of these processes, on any number of machines: they share the tasks, and take over
those of a process that died. Sync tasks run in threads, async tasks on the event loop.

The command waits for the end of outages of Redis. After SIGTERM or Ctrl-C it begins no further task,
gives back those that have not begun, and waits for those that run. What still runs after the deadline
runs again in another worker. A second Ctrl-C ends it at once.
"""
EPILOG = """\
examples:
  manage.py run_task_worker                          all queues of TASKS["default"]
  manage.py run_task_worker --queues mail,reports    only these
  manage.py run_task_worker --concurrency 50         more at a time, for tasks that wait for other services
"""


class Command(ServiceCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--queues", type=_names, default=(), metavar="NAME,…", help="the queues; by default all of the backend"
        )
        parser.add_argument(
            "--backend", default="default", metavar="ALIAS", help="which backend of TASKS; default: %(default)s"
        )
        parser.add_argument(
            "--concurrency",
            type=_concurrency,
            default=DEFAULT_CONCURRENCY,
            metavar="N",
            help="how many tasks run at a time in this process; default: %(default)s",
        )
        parser.add_argument(
            "--deadline",
            type=_seconds,
            default=DEFAULT_DEADLINE_SECONDS,
            dest="deadline_seconds",
            metavar="SECONDS",
            help="how long running tasks may take to finish after a signal; default: %(default)g",
        )

    def handle(self, *args: Any, queues: Sequence[str], backend: str, concurrency: int, **options: Any) -> None:
        found = _backend(backend)
        names = _choose(found, queues)
        self.run_service(
            lambda: TaskService(found, names, concurrency=concurrency),
            running=f"{'queues' if len(names) > 1 else 'queue'} {' and '.join(names)}",
            deadline_seconds=options["deadline_seconds"],
            lease_seconds=found.defaults.lease_seconds,
            may_be_broken_off=True,
        )


def _backend(alias: str) -> RedisStreamBackend:
    try:
        found = task_backends[alias]
    except InvalidTaskBackend as error:
        raise CommandError(str(error)) from error
    if not isinstance(found, RedisStreamBackend):
        raise CommandError(
            f'TASKS["{alias}"] uses {type(found).__name__}, which has no worker here: set its BACKEND to '
            '"realtime.tasks.RedisStreamBackend"'
        )
    return found


def _choose(backend: RedisStreamBackend, names: Sequence[str]) -> Sequence[str]:
    known = sorted(backend.queues)
    if not known and not names:
        raise CommandError("this backend takes any queue (its QUEUES are empty): name those of this worker by --queues")
    if known and (unknown := [name for name in names if name not in known]):
        raise CommandError(f"there is no queue {' and no queue '.join(map(repr, unknown))}; queues: {', '.join(known)}")
    if wrong := [name for name in names if not is_queue_name(name)]:
        raise CommandError(f"{wrong[0]!r} is no queue: its name {QUEUE_RULE}")
    return names or known


def _names(text: str) -> Sequence[str]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("there is no name in it")
    return names


def _concurrency(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= CONCURRENCY_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {CONCURRENCY_LIMIT}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds
