"""
The backends of background tasks that are compared: one worker process each.

Owns the list, and the words that start each worker, with the place in its documentation where they come from. Does not
own its settings (the modules *_app and django_settings) nor how it is measured (measuring).

A library with a pool of threads gets the number that is best for it where its threads only compute, which is for tasks
that do nothing beside its server; and the one that is best where they wait, for tasks that sleep or 2 ms away. The
numbers tried (trial) were 1, 2, 4, 8, 16, 32 and 64. Celery is no faster with more where they wait.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.processes import ROOT

__all__ = ["TASK_BACKENDS", "Paces", "TaskBackend"]

_PEERS = ROOT / "benchmarks" / "peers"
PEERS_PYTHON = _PEERS / "python" / "bin" / "python"
# threadmill needs Python 3.14.
PEERS_PYTHON_314 = _PEERS / "python314" / "bin" / "python"
# Stands for the number of threads.
_THREADS = "{threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """
    About how many tasks a second a worker does: so many are enqueued for each second of a run.

    Attributes:
        nothing, sleep: Beside its server.
        far_nothing, far_sleep: 2 ms away from it.
    """

    nothing: int
    sleep: int
    far_nothing: int = 0
    far_sleep: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBackend:
    """
    Attributes:
        name, is_ours: As in Contender.
        label: The title without the number of threads.
        app: Its module in this package: how tasks are enqueued.
        words: What starts its worker, after the interpreter.
        paces: How fast it is, about.
        threads: Of the worker, for tasks that do nothing beside its server; 0 if it has no pool.
        waiting_threads: The same for all others.
        python: The interpreter that has what it needs.
        environment: Variables for all its programs.
        database: "sqlite" or "postgresql", if its tasks are there and not in Redis.
        absence: Says why it cannot be run here, if the interpreter is there.
    """

    name: str
    label: str
    app: str
    words: tuple[str, ...]
    paces: Paces
    threads: int = 0
    waiting_threads: int = 0
    python: Path = PEERS_PYTHON
    # Without Django: Celery would set it up where it is installed.
    environment: Mapping[str, str] = MappingProxyType({"DJANGO_SETTINGS_MODULE": ""})
    database: str = ""
    is_ours: bool = False
    absence: Callable[[], str | None] = lambda: None

    @property
    def title(self) -> str:
        """As in Contender."""
        if self.threads == self.waiting_threads:
            return f"{self.label}, {self.threads} threads" if self.threads else self.label
        return f"{self.label}, {self.threads} threads, or {self.waiting_threads} to wait"

    @property
    def is_far_too(self) -> bool:
        """Whether it is measured with its server 2 ms away: a file has no distance."""
        return self.database != "sqlite"

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return self.absence() if self.python.exists() else "run `make bench-peers` first"

    def command(self, *, is_waiting: bool) -> list[str]:
        """The words that start its worker; for tasks in which its threads wait, if so."""
        threads = str(self.waiting_threads if is_waiting else self.threads)
        return [str(self.python), *(word.replace(_THREADS, threads) for word in self.words)]


def _of_django(name: str, *words: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words of a management command, and the variables that choose the backend."""
    return ("-m", "django", *words), {
        "DJANGO_SETTINGS_MODULE": "benchmarks.tasks.django_settings",
        "BENCHMARK_BACKEND": name,
    }


def _ours() -> TaskBackend:
    def absence() -> str | None:
        return None if importlib.util.find_spec("realtime.tasks") else "realtime.tasks is not there"

    words, environment = _of_django("signalbox", "run_task_worker", "--queues", "default", "--concurrency", _THREADS)
    return TaskBackend(
        name="signalbox-tasks",
        label="Signalbox",
        app="django_app",
        words=words,
        environment=environment,
        threads=32,
        waiting_threads=32,
        python=Path(sys.executable),
        paces=Paces(nothing=15_000, sleep=10_000, far_nothing=12_000, far_sleep=10_000),
        is_ours=True,
        absence=absence,
    )


def _threadmill() -> TaskBackend:
    # Its README, "Utilization", and `threadmill worker --help`: one process, a number of threads, four tasks fetched
    # ahead for each, which is its default. It polls: every millisecond, as the default of up to a second makes it late.
    words, environment = _of_django(
        *("threadmill", "threadmill", "worker", "--workers", "1", "--threads", _THREADS),
        *("--poll-interval", "0.001", "--poll-max-interval", "0.001"),
    )
    return TaskBackend(
        name="threadmill",
        label="threadmill",
        app="django_app",
        words=words,
        environment=environment,
        threads=16,
        waiting_threads=32,
        python=PEERS_PYTHON_314,
        paces=Paces(nothing=4_000, sleep=3_000, far_nothing=3_500, far_sleep=3_500),
    )


def _django_tasks_db(database: str, label: str, paces: Paces) -> TaskBackend:
    def absence() -> str | None:
        is_server = os.environ.get("DATABASE_URL", "").startswith("postgres")
        return None if is_server or database == "sqlite" else "set DATABASE_URL to a PostgreSQL server"

    # Its README, "Worker", and `db_worker --help`: it does one task at a time and has no threads. It polls, but not
    # while there are tasks: every millisecond, as the default of one second makes it late.
    words, environment = _of_django(
        *("django-tasks-db", "db_worker", "--interval", "0.001", "--no-startup-delay", "--verbosity", "0")
    )
    return TaskBackend(
        name=f"django-tasks-db-{database}",
        label=f"django-tasks-db, {label}",
        app="django_app",
        words=words,
        environment=environment,
        database=database,
        paces=paces,
        absence=absence,
    )


def _django_tasks_rq() -> TaskBackend:
    # Its README, "Job class", for the job class. RQ's "Notes on Performance": SimpleWorker, which does not fork, for
    # jobs of a few milliseconds; the default forks for each job.
    words, environment = _of_django(
        *("django-tasks-rq", "rqworker", "default", "--job-class", "django_tasks_rq.Job"),
        *("--worker-class", "rq.SimpleWorker", "--verbosity", "0"),
    )
    return TaskBackend(
        name="django-tasks-rq",
        label="django-tasks-rq, SimpleWorker",
        app="django_app",
        words=words,
        environment=environment,
        paces=Paces(nothing=200, sleep=180, far_nothing=15, far_sleep=15),
    )


# Its guide, "Consuming Tasks", "Options for the consumer": threads, no periodic tasks, no check of the workers' health,
# quiet.
_HUEY = ("--worker-type", "thread", "--workers", _THREADS, "--no-periodic", "--disable-health-check", "--quiet")


def _huey_of_django() -> TaskBackend:
    words, environment = _of_django("huey", "run_huey", *_HUEY)
    return TaskBackend(
        name="huey-django-tasks",
        label="huey for django.tasks",
        app="django_app",
        words=words,
        environment=environment,
        threads=16,
        waiting_threads=32,
        paces=Paces(nothing=1_500, sleep=1_200, far_nothing=1_200, far_sleep=1_200),
    )


_ALL = (
    _ours(),
    _threadmill(),
    _django_tasks_db("postgresql", "PostgreSQL", Paces(nothing=300, sleep=250, far_nothing=50, far_sleep=50)),
    _django_tasks_db("sqlite", "SQLite", Paces(nothing=400, sleep=300)),
    _django_tasks_rq(),
    _huey_of_django(),
    TaskBackend(
        name="huey-tasks",
        label="huey",
        app="huey_app",
        words=("-m", "huey.bin.huey_consumer", "benchmarks.tasks.huey_app.huey", *_HUEY),
        threads=16,
        waiting_threads=32,
        paces=Paces(nothing=4_000, sleep=2_500, far_nothing=2_000, far_sleep=2_000),
    ),
    TaskBackend(
        name="dramatiq",
        label="dramatiq",
        app="dramatiq_app",
        # Its guide, "Workers": one process and a number of threads. Its reference, "Environment Variables": more
        # messages fetched ahead than the default of two for each thread; and it looks for new ones every 5 ms at least,
        # as the default of up to a second makes it late.
        words=("-m", "dramatiq", "benchmarks.tasks.dramatiq_app", "--processes", "1", "--threads", _THREADS),
        environment={
            "DJANGO_SETTINGS_MODULE": "",
            "dramatiq_queue_prefetch": "100",
            "dramatiq_worker_timeout": "5",
        },
        threads=8,
        waiting_threads=32,
        paces=Paces(nothing=2_500, sleep=2_000, far_nothing=2_000, far_sleep=2_000),
    ),
    TaskBackend(
        name="celery-tasks",
        label="Celery",
        app="celery_app",
        # Its manual, "Workers Guide" and "Concurrency": a pool of threads; nothing between workers, as there is one.
        words=(
            *("-m", "celery", "-A", "benchmarks.tasks.celery_app", "worker", "--loglevel", "WARNING"),
            *("--pool", "threads", "--concurrency", _THREADS),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        threads=4,
        waiting_threads=4,
        paces=Paces(nothing=1_000, sleep=900, far_nothing=100, far_sleep=100),
    ),
    TaskBackend(
        name="plain-list",
        label="redis-py: RPUSH, BLPOP, SET",
        app="plain_app",
        words=("-m", "benchmarks.tasks.plain_app", "work"),
        python=Path(sys.executable),
        paces=Paces(nothing=3_000, sleep=700, far_nothing=200, far_sleep=180),
    ),
)
# By name, in the order of the tables.
TASK_BACKENDS: dict[str, TaskBackend] = {backend.name: backend for backend in _ALL}
