"""
The processes of a site on one machine: the embedded server, the web server, the bot and the task workers.

Owns the order in which they start and end, and what happens if one of them ends or the code changes. Does not own what
they do (web, `run_bot_subscriber`, `run_task_worker`), the embedded server (embedded) nor which files are watched
(source_files).
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management import get_commands
from django.db import connections
from django.utils.module_loading import import_string

from realtime import conf
from realtime.development.part import CHECKED, Reports
from realtime.development.source_files import SourceFiles, source_directories, syntax_error
from realtime.embedded import children
from realtime.embedded.server import EmbeddedServer

__all__ = [
    "BOT",
    "TASK_WORKER",
    "CannotRun",
    "Part",
    "Site",
    "Stopped",
    "check_port",
    "parts_of_the_project",
    "stop_by_signals",
]

WEB = "the web server"
BOT = "run_bot_subscriber"
TASK_WORKER = "run_task_worker"
READY_DEADLINE_SECONDS = 60.0
# The bot is ready once it has Redis and the database, a task worker once it has Redis. This is the longest wait for
# them after the web server answers.
PATIENCE_SECONDS = 8.0
POLL_SECONDS = 0.1
# Everything has ended within 10 s of a request to stop: the children within this time, then the embedded server.
STOP_DEADLINE_SECONDS = 6.0
DRAIN_SECONDS = 3
# Django's DEFAULT_TASK_QUEUE_NAME.
TASK_QUEUE = "default"


class CannotRun(Exception):
    """The site cannot start, or cannot go on; the text says why and what to do."""


class Stopped(BaseException):
    """
    The site was asked to stop: by Ctrl-C or SIGTERM, or because the terminal was closed.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_by_signals() -> None:
    """
    Let the first signal that asks this process to end raise Stopped, and ignore later ones. While a site stops, a
    second Ctrl-C kills its processes.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def raise_stopped(number: int, frame: object) -> NoReturn:
        # Stopping has a deadline, so it need not be interrupted.
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        signal.signal(number, raise_stopped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    One process of the site.

    Attributes:
        name: Its name in messages.
        arguments: The command line after `python`.
        waiting: What waits while it does not run: "notifications". The others go on after somebody has ended it with
            SIGTERM. Empty if the site cannot do without it.
        reports_ready: Whether it calls `report_ready`. Otherwise it is ready when the web server answers.
    """

    name: str
    arguments: Sequence[str]
    waiting: str = ""
    reports_ready: bool = False


def parts_of_the_project(host: str, port: int) -> list[Part]:
    """
    The web server with ASGI_APPLICATION, the bot if `notifications` is installed, and a task worker for each backend of
    ours in TASKS.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise CannotRun('ASGI_APPLICATION is not set: name your ASGI application, e.g. "mysite.asgi.application"')
    module, _, name = path.rpartition(".")
    options = [f"--host={host}", f"--port={port}", f"--drain-seconds={DRAIN_SECONDS}"]
    parts = [Part(name=WEB, arguments=["-m", "realtime.web", f"{module}:{name}", *options])]
    if BOT in get_commands():
        parts.append(_command(BOT, waiting="notifications"))
    parts += _task_workers()
    return parts


def _command(name: str, *options: str, waiting: str, hidden: Sequence[str] = ()) -> Part:
    """The part that is `manage.py name`. Messages do not show the hidden options."""
    arguments = ["-m", "django", name, *options, *hidden]
    return Part(name=" ".join((name, *options)), arguments=arguments, waiting=waiting, reports_ready=True)


def _task_workers() -> Iterator[Part]:
    entries = getattr(settings, "TASKS", None)
    for alias, entry in entries.items() if isinstance(entries, Mapping) else ():
        if not _is_ours(entry):
            continue
        options = [] if alias == "default" else [f"--backend={alias}"]
        if not entry.get("QUEUES", [TASK_QUEUE]):
            # It takes any queue. This is where tasks go that name none.
            options.append(f"--queues={TASK_QUEUE}")
        yield _command(TASK_WORKER, *options, waiting="tasks", hidden=[f"--deadline={DRAIN_SECONDS}"])


def _is_ours(entry: Mapping[str, Any]) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
        # It needs the Tasks framework.
        from realtime.tasks.backend import RedisStreamBackend
    except Exception:
        # The system checks, and each process that enqueues a task, report that.
        return False
    return isinstance(backend, type) and issubclass(backend, RedisStreamBackend)


def check_port(host: str, port: int, *, other: str) -> None:
    """
    Check that a server can listen on this address.

    Args:
        other: How to choose another port, for the message; a number is appended.

    Raises:
        CannotRun: It cannot; the text says why and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise CannotRun(
                    f"the host {host} cannot be used ({error.strerror}): choose an address of this machine, "
                    "such as 127.0.0.1"
                ) from error
            raise CannotRun(
                f"port {port} cannot be used ({error.strerror}): stop the program that uses it, "
                f"or choose another port: {other}{port + 1 if 1024 <= port < 65535 else 8000}"
            ) from error


class Site:
    """
    Runs the parts of a site until it is told to stop.

    Args:
        host, port: Where the web server listens.
        reload: Whether the parts are started again when a source file changes.
        is_checked: Whether the system checks were run. The parts run them only when the code has changed.
        say: Writes a line to the terminal.

    Guarantees:
        When `run` has ended, every process that it started has ended. If this process is killed, the kernel ends them
        (on Linux).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        host: str,
        port: int,
        reload: bool,
        say: Callable[[str], None],
        is_checked: bool = False,
    ) -> None:
        self._parts = list(parts)
        self._is_checked = is_checked
        self._address = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - asked there
        self._say = say
        self._server: EmbeddedServer | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reports = Reports()
        self._files = SourceFiles(source_directories()) if reload else None
        # Changed files that are not valid Python.
        self._invalid: set[Path] = set()
        self._has_reloaded = False
        # Whether the parts were started again and were not all ready since.
        self._is_reloading = False

    def run(self, *, prepare: Callable[[], None], on_ready: Callable[[Mapping[str, int]], None]) -> NoReturn:
        """
        Start everything, and keep it running.

        Args:
            prepare: Called when the embedded server runs, before the parts start.
            on_ready: Called with the process ids of the parts by name, when all parts are ready; if only the web
                server is, after PATIENCE_SECONDS.

        Raises:
            CannotRun: A part ended, or the web server did not answer in time.
            ImproperlyConfigured, EmbeddedServerError: The embedded server cannot be used, or does not start.
        """
        with contextlib.ExitStack() as stack:
            self._server = conf.embedded_server()
            if self._server is not None:
                stack.enter_context(self._server)
            prepare()
            connections.close_all()
            stack.callback(self._stop)
            try:
                self._start()
                self._wait_until_ready()
                on_ready(self._pids())
                while True:
                    self._watch()
                    time.sleep(POLL_SECONDS)
            except Stopped as stopped:
                self._begin_to_stop(stopped.number)
                raise

    def _begin_to_stop(self, number: int) -> None:
        if number == signal.SIGHUP:
            # There is no terminal any more to write to.
            return
        signal.signal(signal.SIGINT, lambda *_: self._kill())
        if number == signal.SIGINT and sys.stdout.isatty():
            # Behind the "^C" of the terminal.
            sys.stdout.write("\n")
        by_signal = "Ctrl-C: stopping; Ctrl-C again" if number == signal.SIGINT else "SIGTERM: stopping; Ctrl-C"
        self._say(f"{by_signal} ends everything at once")

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()

    def _pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def _watch(self) -> None:
        self._look_after_parts()
        if self._server is not None:
            self._server.tend()
        if self._is_reloading and self._is_ready():
            self._is_reloading = False
            names = ", ".join(f"{name} (process {pid})" for name, pid in self._pids().items())
            self._say(f"running again with {names}")
        if self._files is not None and (paths := self._files.find_changes()):
            self._reload(self._files, paths)

    def _reload(self, files: SourceFiles, paths: Sequence[Path]) -> None:
        """Start everything again, unless a file cannot be parsed: then the old code runs until it can."""
        errors = {path: error for path in {*paths, *self._invalid} if (error := syntax_error(path))}
        self._invalid = set(errors)
        if errors:
            path = min(errors)
            self._say(f"{_shortened(path)}, {errors[path]}; the old code keeps running")
            return
        self._say(f"{_shortened(paths[0])} has changed: starting again")
        self._stop()
        files.forget_changes()
        self._has_reloaded = self._is_reloading = True
        self._is_checked = False
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(children.import_path()), "PYTHONUNBUFFERED": "1"}
        if self._is_checked:
            environment[CHECKED] = "1"
        for part in self._parts:
            if part.reports_ready:
                with self._reports.expect(part.name) as (pipe, more):
                    self._processes[part.name] = _start_process(part, {**environment, **more}, inherited=(pipe,))
            else:
                self._processes[part.name] = _start_process(part, environment)

    def _stop(self) -> None:
        children.stop(self._processes.values(), deadline_seconds=STOP_DEADLINE_SECONDS)
        self._processes.clear()
        self._reports.close()

    def _look_after_parts(self) -> None:
        for part in list(self._parts):
            process = self._processes.get(part.name)
            code = None if process is None else process.poll()
            if code is None:
                continue
            if part.waiting and code in (0, -signal.SIGTERM):
                # Somebody tries out what happens without it.
                self._parts.remove(part)
                del self._processes[part.name]
                self._say(
                    f"{part.name} was stopped, and the site goes on without it: {part.waiting} wait.\n"
                    f"To start it again, in a second terminal: "
                    f"{_shortened(Path(sys.executable))} manage.py {part.name}"
                )
            elif code > 0 and self._has_reloaded:
                # The code is being edited, and may work after the next change.
                del self._processes[part.name]
                self._say(f"{part.name} ended with code {code}, see above: it starts again when a file changes")
            else:
                how = f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
                raise CannotRun(f"{part.name} ended {how}: see its output above; the others were stopped")

    def _wait_until_ready(self) -> None:
        """Until all parts are ready; no longer than PATIENCE_SECONDS for those that are not when the web server is."""
        began = time.monotonic()
        answered_at: float | None = None
        while True:
            self._look_after_parts()
            if answered_at is None and (error := self._connect()) is None:
                answered_at = time.monotonic()
            if answered_at is None:
                if time.monotonic() > began + READY_DEADLINE_SECONDS:
                    raise CannotRun(f"the web server does not answer within {READY_DEADLINE_SECONDS:.0f} s ({error})")
            elif not self._unready():
                return
            elif time.monotonic() > answered_at + PATIENCE_SECONDS:
                for part in self._unready():
                    self._say(f"{part.name} is not ready yet: {part.waiting} wait until it is")
                return
            time.sleep(POLL_SECONDS)

    def _connect(self) -> OSError | None:
        """Why the web server does not answer; None if it does. It listens when it has loaded the application."""
        try:
            socket.create_connection(self._address, timeout=POLL_SECONDS).close()
        except OSError as error:
            return error
        return None

    def _unready(self) -> list[Part]:
        """The parts that run and have not reported yet that they are ready."""
        missing = self._reports.missing() & self._processes.keys()
        return [part for part in self._parts if part.name in missing]

    def _is_ready(self) -> bool:
        is_complete = len(self._processes) == len(self._parts)
        return is_complete and not self._unready() and self._connect() is None


def _start_process(
    part: Part, environment: Mapping[str, str], *, inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own programs
        [sys.executable, *part.arguments],
        env=environment,
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        # Ctrl-C must reach only this process, which then stops its children in order.
        start_new_session=True,
        preexec_fn=children.end_with_parent(),
    )


def _shortened(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
