"""
The guard of the embedded server: `python -m realtime.embedded.guard DIRECTORY`, started by `EmbeddedServer` only.

Owns the life of one server process: starts it, starts it again when it dies, and ends it when no process holds it or
its files were removed. Does not own the files nor holding the server (server).

The command returns 0 when the server answers, or if there is another guard. The guard itself runs in the background.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from realtime.embedded import children
from realtime.embedded.server import Files, binary, command_line, is_in_place, ping

__all__ = ["main"]

START_POLL_SECONDS = 0.02
# How often the guard checks whether its server lives and any process holds it.
POLL_SECONDS = 0.1
# Between the death of a server and its next start.
RESTART_PAUSE_SECONDS = 0.5
# Enough to write the data to the disk, unless the disk hangs.
STOP_DEADLINE_SECONDS = 3.0
# A server that dies again and again fills its log. Beyond this size, the log is emptied.
LOG_LIMIT_BYTES = 1024 * 1024


def main(directory: Path) -> int:
    """Guard the server of `directory`, unless another guard does. Returns the exit code."""
    files = Files.of(directory)
    guard = os.open(files.guard, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    # The log is about this guard and its servers; what an earlier guard wrote goes.
    os.truncate(files.log, 0)
    files.data.mkdir(mode=0o700, exist_ok=True)
    files.socket.unlink(missing_ok=True)
    guard_pid = os.fork()
    if not guard_pid:
        os._exit(_guard(files, guard))
    # The caller waits for this process, which ends when the server answers or the guard has given up.
    while not ping(files.socket).startswith(b"+PONG"):
        pid, status = os.waitpid(guard_pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(START_POLL_SECONDS)
    return 0


def _guard(files: Files, guard: int) -> int:
    # It ends when the last holder leaves, not by a signal that is sent to a group of processes.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    users = os.open(files.users, os.O_RDWR)
    server = _start(files, guard)
    was_ready = False
    while is_in_place(guard, files.guard):
        if _is_unused(users):
            children.stop([server], deadline_seconds=STOP_DEADLINE_SECONDS)
            files.socket.unlink(missing_ok=True)
            return 0
        code = server.poll()
        if code is None:
            was_ready = was_ready or ping(files.socket).startswith(b"+PONG")
            time.sleep(POLL_SECONDS)
        elif code > 0 and not was_ready:
            # It refused to run, and the log says why. If it had been killed, the code would be below 0.
            return code
        else:
            time.sleep(RESTART_PAUSE_SECONDS)
            server = _start(files, guard)
    # The files were removed, and another server may use the place by now: an orderly end would remove its socket.
    server.kill()
    server.wait()
    return 0


def _is_unused(users: int) -> bool:
    """Whether no process holds the server. If so, new holders wait until this process has ended."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(files: Files, guard: int) -> subprocess.Popen[bytes]:
    if files.log.stat().st_size > LOG_LIMIT_BYTES:
        os.truncate(files.log, 0)
    arguments = command_line(binary(), socket=files.socket, directory=files.data, append_only=True)
    arguments += ["--unixsocketperm", "700", "--appendfsync", "everysec", "--daemonize", "no"]
    # Only errors and the start, to keep the log short.
    arguments += ["--loglevel", "warning"]
    return subprocess.Popen(  # noqa: S603 - our own program
        arguments,
        stdin=subprocess.DEVNULL,
        # The server keeps the lock on its files even if its guard is killed.
        pass_fds=[guard],
        preexec_fn=children.end_with_parent(),
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
