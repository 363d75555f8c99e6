"""
How a process of the project reports to its parent that it is ready, through a pipe. The parent is `run_signalbox`, or a
command with `--processes`.

Owns both ends of the pipe, and the environment variables of the process. Does not own what either process does (site,
commands).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

__all__ = ["CHECKED", "Reports", "is_checked", "is_part", "report_ready"]

# The number of the file descriptor to which the process writes once it is ready.
VARIABLE = "SIGNALBOX_READY_FD"
# Set for a process if the one that started it has just run the system checks.
CHECKED = "SIGNALBOX_CHECKED"


def is_part() -> bool:
    """Whether this process reports to its parent, which then says itself that all runs, and that it stops."""
    return VARIABLE in os.environ


def is_checked() -> bool:
    """Whether the parent has just run the system checks, so that this process would only repeat their output."""
    return CHECKED in os.environ


def report_ready() -> None:
    """Report to the parent that this process is ready. Does nothing in a process that has no such parent."""
    # It may have ended.
    with contextlib.suppress(OSError, ValueError, KeyError):
        os.write(int(os.environ[VARIABLE]), b"ready\n")


class Reports:
    """The pipes to the processes that have not reported yet, by names that the caller chooses."""

    def __init__(self) -> None:
        self._pipes: dict[str, int] = {}

    @contextlib.contextmanager
    def expect(self, name: str) -> Iterator[tuple[int, Mapping[str, str]]]:
        """For starting a process: the descriptor that it must inherit, and the variables to add to its environment."""
        self._pipes[name], other_end = os.pipe()
        os.set_blocking(self._pipes[name], False)
        try:
            yield other_end, {VARIABLE: str(other_end)}
        finally:
            os.close(other_end)

    def missing(self) -> set[str]:
        """The names of those that have not reported, also of those that have ended."""
        for name, pipe in list(self._pipes.items()):
            with contextlib.suppress(BlockingIOError):
                if os.read(pipe, 1):
                    os.close(self._pipes.pop(name))
        return set(self._pipes)

    def close(self) -> None:
        """Expect no report any more."""
        while self._pipes:
            os.close(self._pipes.popitem()[1])
