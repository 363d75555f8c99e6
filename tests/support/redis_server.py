"""
A private Valkey server for tests, which may be killed, paused and brought back.

Another server program, for example of an older Redis, is used where TEST_REDIS_SERVER names its path.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from realtime.embedded import server as embedded

__all__ = ["RedisServer"]


class RedisServer:
    """
    One real server process on a unix socket in a directory of its own.

    Args:
        append_only: Whether it keeps its data over `kill()` and `start()`.
        options: More of what the server's command line takes.
    """

    def __init__(self, *, append_only: bool = False, options: Sequence[str] = ()) -> None:
        self._append_only = append_only
        self._options = options
        # Short, because a unix socket's path has room for about 100 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="sb-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._directory}/r.sock"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        arguments = embedded.command_line(
            os.environ.get("TEST_REDIS_SERVER") or embedded.binary(),
            socket=self._directory / "r.sock",
            directory=self._directory,
            append_only=self._append_only,
        )
        arguments += ["--appendfsync", "always", *self._options]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        with redis.Redis.from_url(self.url) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    if client.ping():
                        return
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._directory / "log").read_text())
                time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it from answering, with its connections left open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause()`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
