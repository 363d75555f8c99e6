"""
What a run of one backend stands on: an empty Redis or a database of its own, a ledger, and the processes.

Owns starting and ending them, each on its core: what is measured (the enqueuing process, then the worker) on one, the
server and the proxy on the other. Does not own what they do (measuring).
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
import redis

from benchmarks import machine
from benchmarks.processes import ROOT, BenchmarkError, Process
from benchmarks.stage import Stage
from benchmarks.tasks.contenders import TaskBackend
from benchmarks.tasks.ledger import Ledger

__all__ = ["Enqueuing", "Ground", "WorkerProcess", "ground"]

ROUND_TRIP_MS = 2.0


class Enqueuing:
    """The process that enqueues tasks and reads results; leaving the `with` block ends it."""

    def __init__(self, backend: TaskBackend, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [str(backend.python), "-m", "benchmarks.tasks.client", backend.app],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=machine.pinned(machine.SERVER_CORE),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def one_by_one(self, task: str, numbers: range) -> float:
        """Enqueue these as fast as it goes, one call each; how many a second."""
        return self._tell("one_by_one", task=task, start=numbers.start, count=len(numbers))["per_second"]

    def many(self, task: str, numbers: range) -> float | None:
        """Enqueue these in the library's way for many; how many a second, or None if it has none."""
        return self._tell("many", task=task, start=numbers.start, count=len(numbers)).get("per_second")

    def paced(self, task: str, numbers: range, *, every_seconds: float) -> None:
        """Enqueue these with pauses."""
        self._tell("paced", task=task, start=numbers.start, count=len(numbers), every_seconds=every_seconds)

    def results(self) -> float:
        """The share of the results that can be read."""
        return self._tell("results")["share"]

    def _tell(self, way: str, **job: Any) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - pipes
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"way": way, **job}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the enqueuing process has ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer


class WorkerProcess(Process):
    """The worker."""

    def wait_for_first(self, ledger: Ledger) -> None:
        """Wait until it has run a task. Its start may take seconds."""
        self._wait_until(ledger.done_count, "task that was run")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All is measured, and Redis is emptied: how it stops is of no interest here, and some take ten seconds.
        for pid in reversed(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        super().__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """
    Attributes:
        ledger: What became of the tasks.
        client: The enqueuing process.
    """

    backend: TaskBackend
    stage: Stage
    directory: Path
    environment: Mapping[str, str]
    ledger: Ledger
    client: Enqueuing

    def worker(self, *, is_waiting: bool = False, port: int | None = None) -> WorkerProcess:
        """
        Start the worker.

        Args:
            is_waiting: Whether its threads will wait.
            port: The port of the proxy in front of its server, if there is one.
        """
        environment = {**self.environment}
        if port is not None and self.backend.database:
            url = urlsplit(environment["BENCHMARK_DATABASE"])
            user = f"{url.netloc.rpartition('@')[0]}@" if "@" in url.netloc else ""
            environment["BENCHMARK_DATABASE"] = url._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
        elif port is not None:
            environment["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        return WorkerProcess(
            self.backend.command(is_waiting=is_waiting),
            core=machine.SERVER_CORE,
            log=self.directory / "worker.log",
            environment=environment,
        )

    def proxy(self, port: int) -> Process:
        """Start the proxy that makes the server further away."""
        target = self.stage.redis_url.removeprefix("unix://")
        if self.backend.database:
            url = urlsplit(self.environment["BENCHMARK_DATABASE"])
            target = f"{url.hostname}:{url.port or 5432}"
        process = Process(
            [sys.executable, "-m", "benchmarks.tasks.delay", str(port), target, str(ROUND_TRIP_MS)],
            core=machine.OTHER_CORE,
            log=self.directory / "proxy.log",
        )
        process.wait_for_port(port)
        return process


@contextlib.contextmanager
def ground(backend: TaskBackend, stage: Stage, count: int) -> Iterator[Ground]:
    """For a run of this many tasks; everything is empty at its beginning and at its end."""
    with (
        redis.Redis.from_url(stage.redis_url) as client,
        tempfile.TemporaryDirectory(dir=stage.directory) as name,
        _database(backend, Path(name)) as database,
    ):
        client.flushall()
        directory = Path(name)
        path = directory / "ledger"
        ledger = Ledger(path, count)
        environment = {**stage.environment, **backend.environment, **Ledger.environment_of(path, count), **database}
        if database:
            _migrate(backend, environment)
        try:
            with Enqueuing(backend, environment, directory / "client.log") as enqueuing:
                yield Ground(
                    backend=backend,
                    stage=stage,
                    directory=directory,
                    environment=environment,
                    ledger=ledger,
                    client=enqueuing,
                )
        finally:
            client.flushall()


@contextlib.contextmanager
def _database(backend: TaskBackend, directory: Path) -> Iterator[dict[str, str]]:
    """A database of its own, empty; the variable that says where it is."""
    if not backend.database:
        yield {}
    elif backend.database == "sqlite":
        yield {"BENCHMARK_DATABASE": f"sqlite://{directory}/tasks.sqlite3"}
    else:
        server, name = os.environ["DATABASE_URL"], f"signalbox_benchmark_tasks_{os.getpid()}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
            try:
                yield {"BENCHMARK_DATABASE": urlsplit(server)._replace(path=f"/{name}").geturl()}
            finally:
                connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _migrate(backend: TaskBackend, environment: Mapping[str, str]) -> None:
    result = subprocess.run(  # noqa: S603 - our own program
        [str(backend.python), "-m", "django", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BenchmarkError(f"migrate failed:\n{result.stderr[-2000:]}")
