"""
Child processes that do not outlive their parent.

Owns having the kernel end a child with its parent (on Linux; elsewhere only an orderly stop ends it), what a child in
Python must have on its path, and stopping children within a deadline. Does not own what the children do.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["end_with_parent", "import_path", "stop", "stop_with_parent"]

# From <linux/prctl.h>: sets the signal that this process gets when the thread that forked it ends.
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def stop_with_parent(parent_pid: int | None = None) -> None:
    """
    Have the kernel send this process SIGTERM when its parent dies, however that happens. Has an effect only on Linux.

    Args:
        parent_pid: The process id of the parent. If another process is the parent by now, this process exits at once.
            None: the present parent.
    """
    if _libc is None:
        return
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        # The parent died before the call above: no signal will come.
        os._exit(1)


def end_with_parent() -> Callable[[], None]:
    """
    A `preexec_fn` for `subprocess.Popen`: the child gets SIGTERM when the thread that starts it dies.

    Start such children from the main thread only, and from a process without threads: the function runs between fork
    and exec.
    """
    parent_pid = os.getpid()
    return lambda: stop_with_parent(parent_pid)


def import_path() -> list[str]:
    """The directories of sys.path except Python's own: that of manage.py, and those that manage.py has added."""
    python = sysconfig.get_path("stdlib")
    directories = [Path(os.path.abspath(name)) for name in sys.path]
    return [
        str(path)
        for path in directories
        if path.is_dir()
        and not path.is_relative_to(python)
        and not {"site-packages", "dist-packages"} & set(path.parts)
    ]


def stop(processes: Iterable[subprocess.Popen[bytes]], *, deadline_seconds: float) -> None:
    """
    Send SIGTERM to all processes, and SIGKILL to those that still run at the deadline.

    Guarantees:
        When it returns, every process has ended and is reaped.
    """
    running = [process for process in processes if process.poll() is None]
    deadline = time.monotonic() + deadline_seconds
    for process in running:
        process.terminate()
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
