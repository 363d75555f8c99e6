"""
Processes that are measured, and those that help: started on a core of their own, ended when the run is over.

Owns starting, waiting until a port answers, and the end. Does not own what they are (servers).
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import machine

__all__ = ["BenchmarkError", "Process", "answer_of", "free_port"]

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOG_TAIL_BYTES = 4_000


class BenchmarkError(RuntimeError):
    """A run that cannot go on; the text says why."""


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer_of(command: Sequence[str], *, core: int, environment: Mapping[str, str]) -> dict[str, float]:
    """Run a program of ours on one core to its end; the figures that it prints as JSON."""
    result = subprocess.run(  # noqa: S603 - our own program
        list(command),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=machine.pinned(core),
    )
    if result.returncode:
        raise BenchmarkError(f"{command!r} failed:\n{result.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


class Process:
    """
    One program on one core. Leaving the `with` block ends it.

    Args:
        command: Its words.
        core: Where it and its children run.
        log: A file for what it says.
        environment: Set beside this process's own variables.
    """

    def __init__(
        self, command: Sequence[str], *, core: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own list of servers
                list(command),
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=machine.pinned(core),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        if self._process.poll() is None:
            for pid in reversed(self.pids()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._process.wait()

    def pids(self) -> list[int]:
        """It and its children."""
        return machine.processes_of(self._process.pid)

    def is_running(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """What it and its children have used so far."""
        return machine.cpu_seconds(self.pids())

    def memory_bytes(self) -> int:
        """What it and its children hold now."""
        return machine.memory_bytes(self.pids())

    def wait_for_port(self, port: int) -> None:
        """Wait until it accepts connections."""
        self._wait_until(lambda: _accepts(port), f"port {port}")

    def wait_for_words(self, words: str) -> None:
        """Wait until it has said so."""
        self._wait_until(lambda: words in self.log_text(), repr(words))

    def log_text(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def _wait_until(self, fact, what: str) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + START_SECONDS
        while not fact():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{self._process.args!r} brought no {what}:\n{self.log_text()[-LOG_TAIL_BYTES:]}")
            time.sleep(0.02)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
