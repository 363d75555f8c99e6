"""
The load client from Python: builds benchmarks/load/*.c once, runs it on its core, and asks it for figures.

Owns the C program's process and the file through which it tells how many messages have come.
"""

import itertools
import json
import mmap
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import machine
from benchmarks.processes import BenchmarkError

__all__ = ["LoadClient", "Progress", "build", "compiler"]

SOURCES = Path(__file__).resolve().parent / "load"
BINARY = SOURCES / "build" / "load"
# Connections of one run come from an address of their own, so that ports of the last one need not be waited for.
_sources = itertools.cycle(f"127.0.{number // 250 + 1}.{number % 250 + 1}" for number in range(1_000))


def compiler() -> str | None:
    """The path of a C compiler; None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build() -> Path:
    """Compile the load client, if a source is newer than the program."""
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(path.stat().st_mtime for path in (*sources, SOURCES / "load.h"))
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    program = compiler()
    if program is None:
        raise BenchmarkError("the load client is C: install a compiler (Debian: apt-get install gcc libc6-dev)")
    BINARY.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=BINARY.parent, delete=False) as new:
        pass
    command = [program, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", new.name, *map(str, sources)]
    subprocess.run(command, check=True)  # noqa: S603 - the compiler
    return Path(new.name).rename(BINARY)


class Progress:
    """What the load client tells while it runs: three counters in a mapped file."""

    SIZE_BYTES = 24

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self.SIZE_BYTES)

    @property
    def delivered(self) -> int:
        """Messages that came in this run, on all connections together."""
        return int(struct.unpack_from("=Q", self._memory, 0)[0])

    @property
    def ready(self) -> int:
        """Connections that were subscribed."""
        return int(struct.unpack_from("=Q", self._memory, 8)[0])

    @property
    def closed(self) -> int:
        """Connections that have ended."""
        return int(struct.unpack_from("=Q", self._memory, 16)[0])


class LoadClient:
    """
    Many WebSockets to one server. Leaving the `with` block closes them.

    Args:
        arguments: What the server needs: --path, --join, --ready, …; see load/main.c.
        cookies: The file of `manage.py seed_demo`: its first sessions are used.
        in_flight: How many connections may be on their way in at a time.
        stalled: So many of them read nothing once they are subscribed.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        port: int,
        connections: int,
        cookies: Path,
        in_flight: int = 64,
        stalled: int = 0,
    ) -> None:
        self.connections = connections
        self.stalled = stalled
        with tempfile.NamedTemporaryFile(prefix="signalbox-load-", delete=False) as file:
            file.write(bytes(Progress.SIZE_BYTES))
        self.progress_path = Path(file.name)
        self.progress = Progress(self.progress_path)
        numbers = {"--port": port, "--connections": connections, "--in-flight": in_flight, "--stalled": stalled}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [
                str(build()),
                *(word for name, number in numbers.items() for word in (name, str(number))),
                *("--cookies", str(cookies), "--progress", file.name, "--source", next(_sources)),
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.pinned(machine.OTHER_CORE),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Killed: it has nothing to say any more, and the kernel closes its sockets.
        self._process.kill()
        self._process.communicate()
        self.progress_path.unlink(missing_ok=True)

    def connect(self, *, seconds: float = 120.0) -> dict[str, Any]:
        """Open all connections and wait until each is subscribed or has failed; how that went."""
        self._say("connect")
        deadline = time.monotonic() + seconds
        last = -1
        # It answers when all are done: until then something must happen every few seconds.
        while (count := self.progress.ready + self.progress.closed) < self.connections:
            if count > last:
                last, patience = count, time.monotonic() + 15.0
            if time.monotonic() > min(deadline, patience) or self._process.poll() is not None:
                raise BenchmarkError(f"only {self.progress.ready} of {self.connections} connections are subscribed")
            time.sleep(0.01)
        return self._hear()

    def reset(self) -> None:
        """Begin a run."""
        self._say("reset")
        self._hear()

    def report(self, *, expected: int) -> dict[str, Any]:
        """The run's counts and latencies, with what is missing of `expected` messages a connection."""
        self._say(f"report {expected}")
        return self._hear()

    def ask(self, words: str) -> dict[str, Any]:
        """Give a command of load/main.c; its answer."""
        self._say(words)
        return self._hear()

    def drain(self) -> None:
        """Let stalled connections read for 2 s."""
        self._say("drain")
        self._hear()

    def wait_for(self, count: int, *, patience_seconds: float = 3.0) -> bool:
        """Wait until so many messages have come; False if none came for a while."""
        last, until = -1, 0.0
        while (delivered := self.progress.delivered) < count:
            if delivered > last:
                last, until = delivered, time.monotonic() + patience_seconds
            elif time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def _say(self, words: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the load client has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer
