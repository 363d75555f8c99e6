"""
`manage.py run_task_worker`: runs background tasks.

Owns the command line. Does not own the worker (tasks.service) nor signals and the end of the process
(management.service).
"""

import argparse
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from realtime.management.processes import PROCESSES_LIMIT, ProcessesFailed, WorkerProcesses, available_cpus
from realtime.management.service import ServiceCommand
from realtime.management.streams import HelpFormatter
from realtime.tasks.backend import QUEUE_RULE, RedisStreamBackend, is_queue_name
from realtime.tasks.django_api import InvalidTask, InvalidTaskBackend, task_backends
from realtime.tasks.periodic_tasks import PeriodicTask, all_periodic_tasks
from realtime.tasks.scheduler import check_periodic_tasks
from realtime.tasks.service import TaskService

logger = logging.getLogger(__name__)

DEFAULT_CONCURRENCY = 10
CONCURRENCY_LIMIT = 1000
DEFAULT_DEADLINE_SECONDS = 30.0

HELP = """\
Runs the background tasks of Django's Tasks framework, until it gets SIGTERM or Ctrl-C.

Run any number of these processes, on any number of machines: they share the tasks, and take over
those of a process that died. Sync tasks run in threads, async tasks on the event loop. The threads of
one process share one CPU: --processes starts several processes, and starts those again that die.

One process of the site at a time enqueues the periodic tasks of the backend, also for queues that it
does not run. They are declared in the tasks.py of each app.

If Redis is unavailable, the command waits for it. After SIGTERM or Ctrl-C it begins no further task,
gives back those that have not begun, and waits for those that run. Tasks that still run at the deadline
run again in another worker. A second Ctrl-C ends the command at once.
"""
EPILOG = """\
examples:
  manage.py run_task_worker                          all queues of TASKS["default"]
  manage.py run_task_worker --queues mail,reports    only these
  manage.py run_task_worker --concurrency 50         more at a time, for tasks that wait for other services
  manage.py run_task_worker --processes auto         a process for each CPU, for tasks that compute
  manage.py run_task_worker --list                   shows the queues, and the periodic tasks with their next ticks
  manage.py run_task_worker --list --json            the same, for programs
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
        parser.add_argument(
            "--processes",
            type=_processes,
            default=1,
            metavar="N",
            help='how many processes to start; "auto" for one for each CPU; default: %(default)s',
        )
        parser.add_argument(
            "--no-periodic", action="store_false", dest="is_periodic", help="never enqueue periodic tasks here"
        )
        parser.add_argument(
            "--list", action="store_true", dest="is_list", help="list the queues and the periodic tasks, and end"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="with --list: print one JSON object")

    def handle(self, *args: Any, queues: Sequence[str], backend: str, **options: Any) -> None:
        found = _backend(backend)
        names = _choose(found, queues)
        periodic_tasks = _periodic_tasks(found)
        if options["is_list"]:
            self._list(found, names, periodic_tasks, as_json=options["as_json"])
            return
        if options["as_json"]:
            raise CommandError("--json is for --list: add it")
        running = f"{'queues' if len(names) > 1 else 'queue'} {' and '.join(names)}"
        deadline_seconds = options["deadline_seconds"]
        if options["processes"] > 1:
            arguments = _arguments(names, backend, options)
            self._run_processes(arguments, options["processes"], running=running, deadline_seconds=deadline_seconds)
            return
        self.run_service(
            lambda: TaskService(
                found,
                names,
                concurrency=options["concurrency"],
                periodic_tasks=periodic_tasks if options["is_periodic"] else (),
            ),
            running=running,
            deadline_seconds=deadline_seconds,
            lease_seconds=found.defaults.lease_seconds,
            may_be_broken_off=True,
        )

    def _run_processes(self, arguments: Sequence[str], count: int, *, running: str, deadline_seconds: float) -> None:
        ready = f"{running} running in {count} processes; Ctrl-C or SIGTERM stops them"
        processes = WorkerProcesses(arguments, count=count, deadline_seconds=deadline_seconds)
        try:
            processes.run(on_ready=lambda: self._announce(ready))
        except ProcessesFailed as error:
            raise CommandError(str(error)) from error
        self._announce("stopped: running work is finished, or left to other workers")

    def _announce(self, text: str) -> None:
        logger.info(text)
        self.say(text)

    def _list(
        self,
        backend: RedisStreamBackend,
        queues: Sequence[str],
        periodic_tasks: Sequence[PeriodicTask],
        *,
        as_json: bool,
    ) -> None:
        now = datetime.now(UTC)
        found = [(each, each.schedule.following(now)) for each in periodic_tasks]
        if as_json:
            periodic = [
                {
                    "name": each.name,
                    "task": each.task.module_path,
                    "queue": each.task.queue_name,
                    "schedule": each.schedule.text,
                    "next": tick and tick.isoformat(),
                }
                for each, tick in found
            ]
            self.stdout.write(json.dumps({"backend": backend.alias, "queues": [*queues], "periodic": periodic}))
            return
        self.stdout.write(f"backend {backend.alias}: {'queues' if len(queues) > 1 else 'queue'} {', '.join(queues)}")
        for each, tick in found:
            shown = _local(tick) if tick else "never"
            self.stdout.write(f"{each.name}: {each.schedule.text}, queue {each.task.queue_name}, next {shown}")
        if not found:
            self.stdout.write("no periodic tasks: declare them in the tasks.py of an app")


def _local(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.get_default_timezone()):%Y-%m-%d %H:%M:%S %Z}"


def _arguments(queues: Sequence[str], backend: str, options: dict[str, Any]) -> list[str]:
    """The arguments of one of several processes."""
    arguments = [
        "run_task_worker",
        f"--queues={','.join(queues)}",
        f"--backend={backend}",
        f"--concurrency={options['concurrency']}",
        f"--deadline={options['deadline_seconds']!r}",
        f"--verbosity={options['verbosity']}",
    ]
    if not options["is_periodic"]:
        arguments.append("--no-periodic")
    if options["traceback"]:
        arguments.append("--traceback")
    return arguments


def _periodic_tasks(backend: RedisStreamBackend) -> Sequence[PeriodicTask]:
    try:
        found = all_periodic_tasks(backend.alias)
        check_periodic_tasks(backend, found)
    except (ImproperlyConfigured, InvalidTask) as error:
        raise CommandError(str(error)) from error
    return found


def _backend(alias: str) -> RedisStreamBackend:
    try:
        found = task_backends[alias]
    except InvalidTaskBackend as error:
        known = ", ".join(sorted(task_backends.settings))
        raise CommandError(f"TASKS has no backend {alias!r} that can be used ({error}); it has {known}") from error
    if not isinstance(found, RedisStreamBackend):
        raise CommandError(
            f'the backend of TASKS["{alias}"] is {type(found).__name__}, which has no worker here: set its BACKEND to '
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


def _processes(text: str) -> int:
    if text == "auto":
        return min(available_cpus(), PROCESSES_LIMIT)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= PROCESSES_LIMIT:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1 to {PROCESSES_LIMIT}, nor "auto"')
    return int(text)
