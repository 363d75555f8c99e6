"""`make run`: it starts with one command, reports failures clearly, and leaves nothing behind however it ends."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis

from realtime.embedded import server as embedded
from tests.acceptance.site import READY_DEADLINE_SECONDS, Site
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc"),
    pytest.mark.skipif("DATABASE_URL" in os.environ, reason="its sites use SQLite: once is enough"),
]
# How long everything may take to end.
STOP_DEADLINE_SECONDS = 60.0
MAKE = ("make", "--no-print-directory", "run")


@pytest.fixture(scope="module")
def used_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAR_DIR in which a site has run before."""
    directory = tmp_path_factory.mktemp("used") / "var"
    with Site(directory).wait_until_ready() as site:
        with redis.Redis.from_url(embedded.url_for(directory)) as client:
            client.set("word", "kept")
        site.process.terminate()
        assert site.process.wait(STOP_DEADLINE_SECONDS) == 0
    return directory


@pytest.fixture
def directory(tmp_path: Path, used_directory: Path) -> Path:
    """A copy of such a VAR_DIR for one test, so that its start is as quick as a second one."""
    return Path(shutil.copytree(used_directory, tmp_path / "var"))


def status_of(url: str) -> int:
    """The HTTP status of a page, with redirects followed."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def names_of_users(directory: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(directory / "db.sqlite3")) as database:
        return [name for (name,) in database.execute("SELECT username FROM auth_user ORDER BY username")]


def left_processes(site: Site) -> dict[int, str]:
    """The processes that are left after the site had time to end."""
    with contextlib.suppress(AssertionError):
        wait_until_sync(lambda: not site.processes(), seconds=STOP_DEADLINE_SECONDS)
    return site.processes()


def test_site_is_served_and_tells_how_to_use_it(tmp_path: Path) -> None:
    """In a fresh directory: pages and static files are served, and the terminal says who can sign in where."""
    directory = tmp_path / "var"
    with Site(directory).wait_until_ready() as site:
        assert status_of(site.url) == 200
        assert status_of(f"{site.url}static/realtime/client.js") == 200
        assert names_of_users(directory) == ["admin", "alice", "bob"]
        for words in ("alice   password demo", "bob     password demo", "admin   password admin", f"{site.url}admin/"):
            assert words in site.output()
        with contextlib.closing(sqlite3.connect(directory / "db.sqlite3")) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        url = site.manage("redis_url").strip()
        assert url == f"unix://{directory}/valkey.sock"
        with redis.Redis.from_url(url) as client:
            assert client.ping()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_everything_ends_when_asked(directory: Path, number: signal.Signals) -> None:
    """
    SIGTERM, Ctrl-C (which a terminal sends to the whole group) or a closed terminal: exit code 0, nothing left.

    A connection that somebody keeps open does not hold it up.
    """
    with Site(directory).wait_until_ready() as site, socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert len(site.processes()) >= 6, "run, web server, bot, task worker, guard and Valkey"
        os.killpg(site.process.pid, number)
        assert site.process.wait(STOP_DEADLINE_SECONDS) == 0
        assert left_processes(site) == {}
        assert "Traceback" not in site.output()


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="needs the kernel's parent-death signal")
def test_nothing_is_left_when_it_is_killed(directory: Path) -> None:
    """SIGKILL of project.run: web server, bot, task worker, guard and Valkey go too."""
    with Site(directory).wait_until_ready() as site:
        site.process.kill()
        site.process.wait()
        assert left_processes(site) == {}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_make_is_ended(directory: Path, number: signal.Signals) -> None:
    """The same through `make run`, when only make itself gets the signal."""
    with Site(directory, command=MAKE).wait_until_ready() as site:
        os.kill(site.process.pid, number)
        site.process.wait(STOP_DEADLINE_SECONDS)
        assert left_processes(site) == {}


def test_second_start_finds_what_the_first_left(directory: Path) -> None:
    """Data in both databases survives a stop; the demo users are not created again."""
    with Site(directory).wait_until_ready(), redis.Redis.from_url(embedded.url_for(directory)) as client:
        assert client.get("word") == b"kept"
        assert names_of_users(directory) == ["admin", "alice", "bob"]


def test_two_sites_share_one_server(directory: Path) -> None:
    """A second `make run` on another port joins the Valkey of the first, and keeps it after the first has ended."""
    with Site(directory).wait_until_ready() as first, Site(directory).wait_until_ready() as second:
        valkey = first.process_of("valkey-server")
        first.process.terminate()
        first.process.wait(STOP_DEADLINE_SECONDS)
        assert second.process_of("valkey-server") == valkey
        assert status_of(second.url) == 200
        second.process.terminate()
        second.process.wait(STOP_DEADLINE_SECONDS)
        assert left_processes(second) == {}


def test_taken_port_is_a_clear_error(directory: Path) -> None:
    """One line names the port and says what to do; nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Site(directory, port=port) as site:
            assert site.process.wait(READY_DEADLINE_SECONDS) == 1
            (line,) = site.output().splitlines()
            assert line.startswith(f"Signalbox: port {port} cannot be used (Address already in use)")
            assert "make run PORT=" in line
            assert not site.processes()


@pytest.mark.parametrize("port", ["eighty", "0", "65536", "-1"])
def test_port_that_is_none_is_a_clear_error(directory: Path, port: str) -> None:
    """PORT must be a port."""
    with Site(directory, environment={"PORT": port}) as site:
        assert site.process.wait(READY_DEADLINE_SECONDS) == 1
        assert site.output() == f"Signalbox: PORT is {port!r}: it must be a number from 1 to 65535\n"


def test_part_that_ends_is_named_and_ends_the_rest(directory: Path) -> None:
    """run_bot_subscriber is killed: exit code 1, a line with its name and how it ended, and no process left."""
    with Site(directory).wait_until_ready() as site:
        os.kill(site.process_of("run_bot_subscriber"), signal.SIGKILL)
        assert site.process.wait(READY_DEADLINE_SECONDS) == 1
        assert "Signalbox: run_bot_subscriber ended by SIGKILL" in site.output()
        assert left_processes(site) == {}


def test_the_bot_is_stopped_and_started_again_as_the_tutorial_says(directory: Path) -> None:
    """With the command that the terminal shows. The site continues, and notifications of the meantime arrive."""
    with Site(directory).wait_until_ready() as site:
        command = re.search(r"Stop the bot alone with `kill (\d+)`", site.output())
        assert command is not None
        os.kill(int(command[1]), signal.SIGTERM)
        wait_until_sync(lambda: "run_bot_subscriber was stopped, and the site goes on" in site.output(), seconds=90)
        assert status_of(site.url) == 200
        assert "No relay and no bot is running" in site.manage("notify", "alice", "While the bot was stopped")
        with contextlib.closing(sqlite3.connect(directory / "db.sqlite3")) as database:

            def relayed_count() -> int:
                return int(database.execute("SELECT COUNT(relayed_at) FROM notifications_notification").fetchone()[0])

            assert relayed_count() == 0
            bot = site.start_manage("run_bot_subscriber")
            try:
                wait_until_sync(lambda: relayed_count() == 1, seconds=90)
                assert "is running: notifications wait" not in site.manage("notify", "alice", "While it runs")
            finally:
                bot.terminate()
                assert bot.wait(120) == 0
        assert site.process.poll() is None


def test_killed_valkey_comes_back_while_the_site_runs(directory: Path) -> None:
    """The embedded server and its guard are restarted after SIGKILL, and the site continues."""
    with Site(directory).wait_until_ready() as site:
        for words in ("valkey-server", "realtime.embedded.guard"):
            with redis.Redis.from_url(f"unix://{directory}/valkey.sock") as client:
                client.set("word", words)
            pid = site.process_of(words)
            os.kill(pid, signal.SIGKILL)
            wait_until_sync(lambda pid=pid: pid not in site.processes())
            with redis.Redis.from_url(f"unix://{directory}/valkey.sock") as client:

                def word(client: redis.Redis = client) -> object:
                    with contextlib.suppress(redis.ConnectionError):
                        return client.get("word")
                    return None

                assert wait_until_sync(word) == words.encode()
        assert status_of(site.url) == 200


def test_given_redis_is_used_and_none_is_started(directory: Path, redis_server: RedisServer) -> None:
    """With REDIS_URL set there is no embedded server."""
    with Site(directory, environment={"REDIS_URL": redis_server.url}).wait_until_ready() as site:
        assert site.manage("redis_url").strip() == redis_server.url
        assert not [command for command in site.processes().values() if "valkey" in command or "guard" in command]


def test_no_demo_users_without_debug(tmp_path: Path) -> None:
    """With DEBUG off the site is served on its own host name by HTTPS, without the demo users."""
    directory = tmp_path / "var"
    production = {"DEBUG": "0", "SECRET_KEY": "s" * 60, "ALLOWED_HOSTS": "127.0.0.1"}
    production["REDIS_URL"] = f"embedded://{directory}?without_debug=1"
    with Site(directory, environment=production).wait_until_ready() as site:
        assert names_of_users(directory) == []
        assert "password" not in site.output()
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert (response.status, response.getheader("Location")) == (301, f"https://127.0.0.1:{site.port}/")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DEBUG": "0", "SECRET_KEY": ""}, "SECRET_KEY is not set"),
        (
            {"DEBUG": "0", "SECRET_KEY": "s" * 60, "ALLOWED_HOSTS": "127.0.0.1"},
            "and DEBUG is off",
        ),
        ({"VAR_DIR": "/dev/null/var"}, "Not a directory: '/dev/null/var'"),
        ({"DATABASE_URL": "foo"}, "DATABASE_URL is not a database URL"),
        ({"DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing"}, "connection to server at"),
    ],
)
def test_setting_that_cannot_work_is_a_clear_error(directory: Path, variables: dict[str, str], words: str) -> None:
    """The error is printed without a traceback, and no process is left."""
    with Site(directory, environment=variables) as site:
        assert site.process.wait(READY_DEADLINE_SECONDS) == 1
        assert site.output().startswith("Signalbox: ")
        assert words in site.output() and "Traceback" not in site.output()
        assert left_processes(site) == {}
