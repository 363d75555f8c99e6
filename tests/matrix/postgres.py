"""A private PostgreSQL of any version, on the loopback interface. Its data is deleted afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.acceptance.site import free_port

__all__ = ["Postgres"]

SECONDS = 60.0
# Fast rather than safe, because its data is deleted anyway.
OPTIONS = ("listen_addresses=127.0.0.1", "max_connections=200", "fsync=off", "full_page_writes=off")


class Postgres:
    """
    `with Postgres(program) as server`, then `server.url` is that of an empty database.

    Args:
        program: The `postgres` of an installation.
    """

    def __init__(self, program: Path) -> None:
        self._programs = program.parent
        self._directory = Path(tempfile.mkdtemp(prefix="sb-pg-"))
        self._port = free_port()
        # It refuses to run as root.
        self._user: dict[str, Any] = {"user": _owner(), "extra_groups": []} if os.getuid() == 0 else {}
        self.url = f"postgres://signalbox@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        if self._user:
            os.chown(self._directory, pwd.getpwnam(self._user["user"]).pw_uid, -1)
        try:
            self._run("initdb", "-U", "signalbox", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            options = [f"-c {option}" for option in OPTIONS]
            options += [f"-c port={self._port}", f"-c unix_socket_directories={self._directory}"]
            self._run("pg_ctl", "-l", str(self._directory / "log"), "-w", "-t", "60", "-o", " ".join(options), "start")
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self._directory / "data", *arguments]
        log = self._directory / f"{program}.log"
        with log.open("ab") as output:
            # A file, because the server inherits it: a pipe would stay open.
            done = subprocess.run(
                command, check=False, cwd=self._directory, stdout=output, stderr=output, timeout=SECONDS, **self._user
            )
        if done.returncode:
            raise RuntimeError(f"{program}: {log.read_text()}")


def _owner() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"
