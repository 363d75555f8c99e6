"""
The guard of the embedded server: `python -m realtime.embedded.guard DIRECTORY`, started by `EmbeddedServer` only.

Owns the life of one server process: starts it, starts it again when it dies, and ends it when nobody holds it any more.
Returns 0 when the server answers, or when another guard has it; the guard itself goes on in the background.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from realtime.embedded import children
from realtime.embedded.server import Files, binary, ping

__all__ = ["main"]

START_POLL_SECONDS = 0.02
# How often the guard looks whether its server lives and anybody holds it.
POLL_SECONDS = 0.1
# Between the death of a server that had been ready and its next start.
RESTART_PAUSE_SECONDS = 0.5
# Its data is on the disk by then, unless the disk hangs.
STOP_DEADLINE_SECONDS = 3.0
# A server that dies again and again fills its log; it begins anew then.
LOG_LIMIT_BYTES = 1024 * 1024


def main(directory: Path) -> int:
    """Guard the server of `directory`, unless it is guarded already."""
    files = Files.of(directory)
    guard = os.open(files.guard, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    # The log is of this guard and its servers; what was in it was of an earlier one.
    os.truncate(files.log, 0)
    files.data.mkdir(mode=0o700, exist_ok=True)
    files.socket.unlink(missing_ok=True)
    guard_pid = os.fork()
    if not guard_pid:
        os._exit(_guard(files, guard))
    # The caller waits for this process: it ends when the server answers or the guard has given up.
    while not ping(files.socket).startswith(b"+PONG"):
        pid, status = os.waitpid(guard_pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(START_POLL_SECONDS)
    return 0


def _guard(files: Files, guard: int) -> int:
    # Ended by the last holder's leaving, not by a signal meant for a group of processes.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    users = os.open(files.users, os.O_RDWR)
    server = _start(files, guard)
    was_ready = False
    while not _is_unused(users):
        code = server.poll()
        if code is None:
            was_ready = was_ready or ping(files.socket).startswith(b"+PONG")
            time.sleep(POLL_SECONDS)
        elif code > 0 and not was_ready:
            # It refused to run and has said why in the log; one that was killed has a code below 0.
            return code
        else:
            time.sleep(RESTART_PAUSE_SECONDS)
            server = _start(files, guard)
    children.stop([server], deadline_seconds=STOP_DEADLINE_SECONDS)
    files.socket.unlink(missing_ok=True)
    return 0


def _is_unused(users: int) -> bool:
    """Whether nobody holds the server; if so, new holders wait until this process has ended."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(files: Files, guard: int) -> subprocess.Popen[bytes]:
    if files.log.stat().st_size > LOG_LIMIT_BYTES:
        os.truncate(files.log, 0)
    arguments = [str(binary()), "--port", "0", "--unixsocket", str(files.socket), "--unixsocketperm", "700"]
    arguments += ["--dir", str(files.data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    arguments += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
    # Errors and the start only: the log stays short.
    arguments += ["--loglevel", "warning"]
    return subprocess.Popen(  # noqa: S603 - our own program
        arguments,
        stdin=subprocess.DEVNULL,
        # While the server lives, even without its guard, no other may use its files.
        pass_fds=[guard],
        preexec_fn=children.end_with_parent(),
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
