"""
Task workers as processes, which tests may signal and kill.

Owns the processes, their environment and logs, and this process's backend. Does not own the tasks (task_app).
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from realtime.redis.keys import Keys
from realtime.streams.keys import GroupKeys
from realtime.tasks.store import GROUP
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync
from tests.task_app.notes import Note, read_notes

__all__ = ["SECONDS", "TaskSite", "Worker", "pid_of"]

ROOT = Path(__file__).resolve().parent.parent.parent
# Enough for a machine with two busy cores.
SECONDS = 120.0


class Worker:
    """
    One process of `manage.py run_task_worker`.

    Attributes:
        process: It.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_task_worker", *arguments],
                **{"cwd": ROOT, "env": environment, "stdout": file, "stderr": file},
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it has printed and logged."""
        return self._log.read_text()

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until it has logged `text` that often; fail with its log if it ends before."""

        def is_said() -> bool:
            is_over = self.process.poll() is not None
            is_said = self.log.count(text) >= count
            assert is_said or not is_over, self.log
            return is_said

        wait_until_sync(is_said, seconds=SECONDS)

    def wait_ready(self) -> None:
        """Wait until it takes tasks."""
        self.wait_for(" running, consumer ")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait_end(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """End it by SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait()


class TaskSite:
    """
    A directory, a Redis, and workers. On exit, all of them are killed.

    Args:
        directory: For logs and the notes of tasks.
        server: The Redis.
        lease_seconds: Of the workers.

    Attributes:
        server: As given.
        client: A client of it.
        environment: Of each process.
        workers: Each that was started.
    """

    def __init__(self, directory: Path, server: RedisServer, *, lease_seconds: float = 3.0) -> None:
        self.directory, self.server = directory, server
        self.client = redis.Redis.from_url(server.url)
        self.workers: list[Worker] = []
        self._notes = directory / "notes"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "GAMES_URL")},
            "DJANGO_SETTINGS_MODULE": "tests.task_app.settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": server.url,
            "LOG_LEVEL": "INFO",
            "TASK_LEASE_SECONDS": str(lease_seconds),
            "TASK_NOTES": str(self._notes),
        }

    def __enter__(self) -> "TaskSite":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.kill()
        self.client.close()

    def start(self, *arguments: str, **environment: str) -> Worker:
        """Start a worker. It is not ready yet."""
        log = self.directory / f"worker{len(self.workers)}.log"
        worker = Worker(arguments, {**self.environment, **environment}, log)
        self.workers.append(worker)
        return worker

    def start_ready(self, *arguments: str, **environment: str) -> Worker:
        """Start a worker, and wait until it takes tasks."""
        worker = self.start(*arguments, **environment)
        worker.wait_ready()
        return worker

    def notes(self, what: str = "", *, task: str = "") -> list[Note]:
        """The notes of tasks so far: all, or those of a kind and of a task."""
        return [note for note in read_notes(self._notes) if what in ("", note.what) and task in ("", note.task)]

    def wait_for_notes(self, what: str, task: str, *, count: int = 1) -> list[Note]:
        """Wait until a task has so many notes of a kind."""
        wait_until_sync(lambda: len(self.notes(what, task=task)) >= count, seconds=SECONDS)
        return self.notes(what, task=task)

    def lines(self, queue: str = "default") -> dict[str, int]:
        """How many entries and tasks of a queue are anywhere but finished, by the place where they are."""
        stream = Keys().task_queue(queue)
        group = GroupKeys(stream, GROUP)
        pending: Any = self.client.xpending(stream, GROUP)
        return {
            "waiting": self.client.zcard(Keys().waiting_tasks(queue)),
            "scheduled": self.client.zcard(Keys().scheduled_tasks(queue)),
            "pending": pending["pending"],
            "parked": self.client.hlen(group.parked),
            "owned": self.client.hlen(group.owners),
            "due": self.client.zcard(group.due),
            "dead": self.client.xlen(group.dead_letters),
        }

    def is_idle(self, queue: str = "default") -> bool:
        """Whether all tasks of a queue are finished, and Redis knows it."""
        info: Any = self.client.xinfo_groups(Keys().task_queue(queue))
        newest: Any = self.client.xinfo_stream(Keys().task_queue(queue))
        return info[0]["last-delivered-id"] == newest["last-generated-id"] and not any(self.lines(queue).values())


def pid_of(worker_id: str) -> int:
    """The process of a worker on this machine, by its name."""
    host, pid, _ = worker_id.rsplit("-", 2)
    assert host == socket.gethostname()
    return int(pid)
