"""
What a process of the project knows of the `run_signalbox` that started it.

Owns the environment variable by which they find each other. Does not own what either does with it (site, commands).
"""

import contextlib
import os

__all__ = ["READY_VARIABLE", "is_part", "report_ready"]

# The number of the file descriptor to which the process writes once it is ready.
READY_VARIABLE = "SIGNALBOX_READY_FD"


def is_part() -> bool:
    """Whether `run_signalbox` started this process: it then says itself that the site runs, and that it stops."""
    return READY_VARIABLE in os.environ


def report_ready() -> None:
    """Tell `run_signalbox`, if it started this process, that the process is ready."""
    # It may be gone, or closed the pipe.
    with contextlib.suppress(OSError, ValueError, KeyError):
        os.write(int(os.environ[READY_VARIABLE]), b"ready\n")
