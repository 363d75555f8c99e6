"""A whole site in processes of its own, as `make run` starts it, for one test."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until_sync

__all__ = ["RUN", "Site", "free_port"]

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = (sys.executable, "-m", "project.run")
# Enough for a machine with two busy cores.
READY_DEADLINE_SECONDS = 180.0


def free_port() -> int:
    """A TCP port on the loopback that nobody uses now, and that the system gives to nobody until it is used."""
    while True:
        # Below those that the system chooses for connections. Not `random`, which begins alike in each test run.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Site:
    """
    `project.run` with a directory and a port of its own. Leaving the `with` block kills what is left of it.

    Args:
        directory: Its VAR_DIR; a site started there again finds the data of the earlier one.
        port: Where it serves; default: a free one.
        command: What starts it.
        environment: Set for it beside VAR_DIR and PORT; REDIS_URL and DATABASE_URL of this process are not passed on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        command: Sequence[str] = RUN,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log = directory.with_name(f"{directory.name}-{self.port}.log")
        inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
        self.environment = {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "VAR_DIR": str(directory),
            "PORT": str(self.port),
            **(environment or {}),
        }
        self._command = list(command)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own, to which a test can send Ctrl-C.
                process_group=0,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """The output of the site so far, stdout and stderr."""
        return self._log.read_text()

    def wait_until_ready(self) -> Self:
        """Wait until it prints its address; fail with its output if it ends before."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.output()
            return f"Signalbox is at {self.url}" in self.output()

        wait_until_sync(is_ready, seconds=READY_DEADLINE_SECONDS)
        return self

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` on the site's data, as somebody at a second terminal, and return all that it prints."""
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not result.returncode, result.stderr
        return result.stdout + result.stderr

    def start_manage(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command that runs until it is stopped; its output goes to the site's log."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def processes(self) -> dict[int, str]:
        """Every process on this machine that serves this directory, grandchildren too: pid → command line (Linux)."""
        variable, path = f"VAR_DIR={self.directory}".encode(), f":{self.directory}/".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            # A process may end meanwhile; one that has ended and was not reaped has neither of the two.
            with contextlib.suppress(OSError):
                if not entry.name.isdecimal():
                    continue
                command = (entry / "cmdline").read_bytes()
                # Valkey writes its title, with the path of its socket, over its environment.
                if path in command or variable in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode().strip()
        return found

    def process_of(self, words: str) -> int:
        """The pid of the site's process whose command line has these words, when there is just one."""

        def found() -> list[int]:
            pids = [pid for pid, command in self.processes().items() if words in command]
            return pids if len(pids) == 1 else []

        return wait_until_sync(found)[0]
