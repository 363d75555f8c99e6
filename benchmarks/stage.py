"""
What every run needs beside a server: a Redis of its own, a database with users who are signed in, a directory.

Owns making and removing them. Nothing of the machine's other sites is touched.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import machine
from benchmarks.processes import ROOT, BenchmarkError, Process
from realtime.embedded import server as embedded

__all__ = ["Stage"]


class Stage:
    """
    Redis, database and sessions for the benchmark. Leaving the `with` block removes them.

    Args:
        users: How many people are signed in.

    Attributes:
        directory: Where everything of the run is.
        redis_url: The run's Redis, without persistence, on the core that is not the server's.
        cookies: user id<TAB>session, a line for each.
        environment: Variables for every Django process: production settings, this Redis, this database.
    """

    def __init__(self, *, users: int) -> None:
        self.users = users
        # Short: a unix socket's path has room for about 100 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="sbb-"))
        self.cookies = self.directory / "cookies"
        self.redis_url = f"unix://{self.directory}/redis.sock"
        self.environment = {
            "VAR_DIR": str(self.directory / "var"),
            "REDIS_URL": self.redis_url,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DEBUG": "0",
            "ALLOWED_HOSTS": "127.0.0.1",
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            # Never that of the site to which DATABASE_URL belongs.
            "DATABASE_URL": os.environ.get("BENCHMARK_DATABASE_URL", ""),
        }
        self._redis: Process | None = None

    def __enter__(self) -> Self:
        try:
            self._start_redis()
            self._seed()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def user_ids(self) -> list[str]:
        """Of the sessions, in their order."""
        return [line.split("\t")[0] for line in self.cookies.read_text().splitlines()]

    def process_environment(self) -> dict[str, str]:
        """For `subprocess.Popen`: this process's variables and the stage's."""
        return {**os.environ, **self.environment}

    def redis_cpu_seconds(self) -> float:
        """What Redis has used so far."""
        assert self._redis is not None  # noqa: S101 - the stage is open
        return self._redis.cpu_seconds()

    def restart_redis(self) -> None:
        """End it and start it again, without what it had."""
        assert self._redis is not None  # noqa: S101 - the stage is open
        self._redis.__exit__(None, None, None)
        self._start_redis()

    def _start_redis(self) -> None:
        socket = self.directory / "redis.sock"
        words = embedded.command_line(embedded.binary(), socket=socket, directory=self.directory, append_only=False)
        self._redis = Process(words, core=machine.OTHER_CORE, log=self.directory / "redis.log")
        deadline = time.monotonic() + 10.0
        while not embedded.ping(socket).startswith(b"+PONG"):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"Redis does not start:\n{self._redis.log_text()}")
            time.sleep(0.01)

    def _seed(self) -> None:
        self._manage("migrate", "--verbosity", "0")
        self._manage("seed_demo", "--users", str(self.users), "--cookies", str(self.cookies), "--verbosity", "0")

    def _manage(self, *words: str) -> None:
        result = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            # People whom everybody may be are made with DEBUG on only; their sessions hold, as the key is the same.
            env={**self.process_environment(), "DEBUG": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise BenchmarkError(f"manage.py {' '.join(words)} failed:\n{result.stderr}")

    def _remove(self) -> None:
        if self._redis is not None:
            self._redis.__exit__(None, None, None)
        shutil.rmtree(self.directory, ignore_errors=True)
