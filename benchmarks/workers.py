"""
The workers that are compared, ours and other libraries': one process on one core, with jobs that do nothing.

Owns the list and how one is measured. Does not own how a library is set up (queues). All jobs are on the queue before
the worker starts; what happens until it has done a part of them, its start included, is not measured.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks import machine
from benchmarks.processes import ROOT, BenchmarkError, Process
from benchmarks.queues.ledger import Ledger
from benchmarks.stage import Stage

__all__ = ["WARM_UP_SHARE", "WORKERS", "Worker", "measure", "wait_for"]

PEERS_PYTHON = ROOT / "benchmarks" / "peers" / "python" / "bin" / "python"
# Of the jobs: done before the measurement begins.
WARM_UP_SHARE = 0.1
# A worker that has finished nothing for so long, at its start or later, has lost what is left.
STUCK_SECONDS = 15.0
POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """
    Attributes:
        name, title, is_ours: As in Contender.
        module: Its program in benchmarks.queues.
        words: Its further arguments.
        pace: About how many jobs a second it does: so many are made for each second of a run.
    """

    name: str
    title: str
    module: str
    words: tuple[str, ...]
    pace: int
    is_ours: bool = False

    @property
    def python(self) -> str:
        """The interpreter that has what it needs."""
        return sys.executable if self.is_ours else str(PEERS_PYTHON)

    def variables(self, stage: Stage) -> dict[str, str]:
        """Beside this process's own. Celery would set up Django, if it is installed where a setting names it."""
        return stage.environment if self.is_ours else {**stage.environment, "DJANGO_SETTINGS_MODULE": ""}

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return None if self.is_ours or PEERS_PYTHON.exists() else "run `make bench-peers` first"

    def command(self, action: str, stage: Stage, ledger: Path, count: int) -> list[str]:
        """The words that start its program."""
        words = [self.python, "-m", f"benchmarks.queues.{self.module}", action, stage.redis_url, str(ledger)]
        return [*words, str(count), *(self.words if action == "work" else ())]


def measure(worker: Worker, stage: Stage, *, seconds: float) -> dict[str, float]:
    """Let it work off about so many seconds of jobs; each is to be run once."""
    count = max(100, round(worker.pace * seconds))
    with redis.Redis.from_url(stage.redis_url) as client, tempfile.TemporaryDirectory(dir=stage.directory) as directory:
        client.flushall()
        path = Path(directory) / "ledger"
        ledger = Ledger(path, count)
        environment = worker.variables(stage)
        _enqueue(worker.command("enqueue", stage, path, count), environment)
        command, log = worker.command("work", stage, path, count), Path(directory) / "log"
        with Process(command, core=machine.SERVER_CORE, log=log, environment=environment) as process:
            wait_for(round(count * WARM_UP_SHARE), ledger.done_count, lambda: process.log_text()[-2000:])
            figures = _observe(ledger, process, stage)
            if worker.is_ours:
                figures["lost"] += _unacked(client)
        client.flushall()
    return figures


def wait_for(count: int, done_count: Callable[[], int], explain: Callable[[], str] | None) -> float:
    """Wait until so many are done, or nothing is done any more, an error with `explain`; returns when that was."""
    done, changed_at = done_count(), time.monotonic()
    while done < count:
        time.sleep(POLL_SECONDS)
        now, before = time.monotonic(), done
        done = done_count()
        if done != before:
            changed_at = now
        elif now - changed_at > STUCK_SECONDS:
            if explain is not None:
                raise BenchmarkError(f"the worker does nothing:\n{explain()}")
            return changed_at
    return time.monotonic()


def _observe(ledger: Ledger, process: Process, stage: Stage) -> dict[str, float]:
    begin, done = time.monotonic(), ledger.done_count()
    cpu, redis_cpu = process.cpu_seconds(), stage.redis_cpu_seconds()
    end = wait_for(ledger.count, ledger.done_count, None)
    seconds = max(end - begin, 1e-6)
    cpu, redis_cpu = process.cpu_seconds() - cpu, stage.redis_cpu_seconds() - redis_cpu
    jobs = max(ledger.done_count() - done, 1)
    return {
        "jobs": ledger.count,
        "jobs_per_second": jobs / seconds,
        "worker_cpu_us": cpu * 1e6 / jobs,
        "worker_core_used": cpu / seconds,
        "redis_cpu_us": redis_cpu * 1e6 / jobs,
        "lost": ledger.count - ledger.done_count(),
        "doubled": ledger.doubled_count(),
    }


def _enqueue(command: list[str], environment: Mapping[str, str]) -> None:
    result = subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise BenchmarkError(f"{command!r} failed:\n{result.stderr[-2000:]}")


def _unacked(client: redis.Redis) -> int:
    """How many entries our group has not acked, a moment after the last was handled."""
    until = time.monotonic() + STUCK_SECONDS
    while True:
        (stream,) = client.scan_iter(count=10_000, _type="stream")
        pending: int = client.xpending(stream, "benchmark")["pending"]
        if not pending or time.monotonic() > until:
            return pending
        time.sleep(POLL_SECONDS)


def _ours(name: str, title: str, batch_size: int, concurrency: int, order: str, *, pace: int) -> Worker:
    words = (str(batch_size), str(concurrency), order)
    return Worker(name=name, title=title, module="signalbox_queue", words=words, pace=pace, is_ours=True)


def _peer(name: str, title: str, module: str, *words: str, pace: int) -> Worker:
    return Worker(name=name, title=title, module=module, words=words, pace=pace)


_ALL = (
    _ours("signalbox-unordered", "Signalbox, batches of up to 100", 100, 8, "unordered", pace=80_000),
    _ours("signalbox-batches", "Signalbox, batches, in order of 1,000 keys", 100, 8, "ordered", pace=80_000),
    _ours("signalbox-single", "Signalbox, one by one, in order, 100 at a time", 1, 100, "ordered", pace=40_000),
    _peer("arq", "arq, 100 at a time", "arq_queue", "100", pace=1_000),
    _peer("streaq", "streaq, 100 at a time", "streaq_queue", "100", pace=1_500),
    _peer("huey", "huey, 1 thread", "huey_queue", "thread", "1", pace=4_000),
    _peer("huey-threads", "huey, 4 threads", "huey_queue", "thread", "4", pace=4_000),
    _peer("celery-solo", "Celery, solo", "celery_queue", "solo", "1", pace=1_000),
    _peer("celery-prefork", "Celery, prefork, 1 process", "celery_queue", "prefork", "1", pace=1_000),
    _peer("celery-threads", "Celery, 4 threads", "celery_queue", "threads", "4", pace=1_000),
)
# By name, in the order of the tables.
WORKERS: dict[str, Worker] = {worker.name: worker for worker in _ALL}
