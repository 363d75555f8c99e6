"""
A site as it is deployed, part by part: a web server, run_bot_subscriber, a private Redis and a private database.

Owns starting and stopping the processes, and what they log. The database is a SQLite file or, when DATABASE_URL is set,
a database of its own on that server. The site that `make run` starts as one is in site.py.
"""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from tests.acceptance.site import free_port
from tests.support.howto import commands_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

__all__ = ["BOT", "SERVERS", "WEB", "DeployedSite"]

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
READY_SECONDS = 180.0
STOP_SECONDS = 60.0
DRAIN_SECONDS = 3
WEB = "web"
BOT = "run_bot_subscriber"
TASK_WORKER = "run_task_worker"
NOTIFIER = "notifier"
PRODUCTION = commands_of("how-to/run-in-production.md")


def _documented(comment: str) -> list[str]:
    """A command of the documentation, for this project's application; what comes after it counts where both say it."""
    (line,) = PRODUCTION[comment]
    return ["-m", *line.replace("mysite.", "project.").split()]


# How each web server is started: as the project does it, and as its documentation has it for others. Pings are sent
# more often than there, and a client that stands still for some seconds stays connected.
SERVERS = {
    "signalbox": [
        "-m",
        "realtime.web",
        "project.asgi:application",
        f"--host={HOST}",
        "--port={port}",
        f"--drain-seconds={DRAIN_SECONDS}",
    ],
    "uvicorn": [
        *_documented("plain uvicorn"),
        *[f"--host={HOST}", "--port={port}", "--log-level=warning", f"--timeout-graceful-shutdown={DRAIN_SECONDS}"],
        *["--ws-ping-interval=2", "--ws-ping-timeout=60"],
    ],
    "daphne": [
        *_documented("Daphne"),
        *["--bind", HOST, "--port", "{port}", "--ping-interval", "2", "--ping-timeout", "60"],
    ],
}
# After cleaning up, a web server may end by the signal itself, so that its supervisor sees the cause.
STOPPED_CODES = {WEB: {0, -signal.SIGTERM}, BOT: {0}, TASK_WORKER: {0}}
NOTIFY_AT_A_RATE = """
import time
from notifications.services import notify
for number in range({count}):
    notify({user_ids}, f"number {{number}}")
    time.sleep(1 / {rate})
"""


class DeployedSite:
    """
    One running site: `with DeployedSite("signalbox") as site`.

    Args:
        server: One of SERVERS.

    Guarantees:
        When entered, pages are served, and the relay, the bot and the ingress listen. When left, each process was asked
        to stop by SIGTERM and has ended as it should, or an AssertionError says which has not.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self.url = f"http://{self.address}"
        # Files of this site: SQLite's, and a log for each process.
        self.directory = Path(tempfile.mkdtemp(prefix="sb-site-"))
        self._redis = RedisServer(append_only=True)
        self._database_url = os.environ.get("DATABASE_URL", "")
        self._database = f"site_{uuid.uuid4().hex[:12]}"
        # Name → process, while it is meant to run.
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def redis_url(self) -> str:
        """Where the site's Redis is, as a foreign program would be told."""
        return self._redis.url

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            undo.enter_context(self._redis)
            if self._database_url:
                undo.callback(self._on_database_server, f'DROP DATABASE IF EXISTS "{self._database}" WITH (FORCE)')
                self._on_database_server(f'CREATE DATABASE "{self._database}"')
            undo.callback(self._kill_all)
            self.manage("migrate", "--verbosity=0")
            self.manage("seed_demo_users", "--verbosity=0")
            self.start_bot()
            self.start_web()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._undo:
            for name in list(self._processes):
                self.stop(name)

    def manage(self, *arguments: str) -> str:
        """Run a management command in a separate process and return its output; fail with the output if it fails."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self._environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"manage.py {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def start_web(self) -> None:
        """Start the web server and wait until it serves the front page."""
        self._start(WEB, *(argument.format(port=self.port) for argument in SERVERS[self.server]))
        self._wait(WEB, lambda: _is_serving(self.port))

    @contextlib.contextmanager
    def another_web(self, server: str, *arguments: str, **environment: str) -> Iterator[str]:
        """
        One more web server of this site, one of SERVERS, with these arguments and environment variables besides.

        Yields:
            Where it serves.
        """
        name, port = f"another {WEB}", free_port()
        command = [argument.format(port=port) for argument in SERVERS[server]]
        self._start(name, *command, *arguments, **environment)
        try:
            self._wait(name, lambda: _is_serving(port))
            yield f"http://{HOST}:{port}"
        finally:
            self.stop(name)

    @contextlib.contextmanager
    def task_worker(self) -> Iterator[None]:
        """A process that runs background tasks, from its start on."""
        self._start(TASK_WORKER, "manage.py", "run_task_worker")
        try:
            yield
        finally:
            self.stop(TASK_WORKER)

    def kill_redis(self) -> None:
        """End Redis as in a crash; the data that it had accepted is on disk."""
        self._redis.kill()

    def start_redis(self, *, with_data: bool = True) -> None:
        """Bring it back with its data, or as a new one is."""
        if not with_data:
            shutil.rmtree(Path(urlsplit(self._redis.url).path).parent / "appendonlydir")
        self._redis.start()

    def publish(self, topic: str, *data: bytes) -> Position:
        """Publish JSON texts on a topic in one go, as another process of the site does; returns the last position."""
        layer = RedisChannelLayer(hosts=[self.redis_url])
        published = layer.publish_many_now([PublishRequest(topic, each, HistoryPolicy()) for each in data])
        return published[-1].position

    def start_notifying(self, user_ids: list[int], *, count: int, rate: float) -> None:
        """Begin to call `notify()` in a process of its own, `count` times, about `rate` a second."""
        code = NOTIFY_AT_A_RATE.format(user_ids=user_ids, count=count, rate=rate)
        self._start(NOTIFIER, "manage.py", "shell", "-v0", "-c", code)

    def wait_for_notifying(self) -> None:
        """Wait until all calls were made; none may have failed."""
        assert self._processes.pop(NOTIFIER).wait(READY_SECONDS) == 0, self.logs()[NOTIFIER]

    def pid(self, name: str) -> int:
        """Of WEB or BOT."""
        return self._processes[name].pid

    def start_bot(self) -> None:
        """Start run_bot_subscriber and wait until all of its parts listen."""
        self._start(BOT, "manage.py", "run_bot_subscriber")
        with redis.Redis.from_url(self.redis_url) as client:
            self._wait(BOT, lambda: _is_subscribing(client))

    def stop(self, name: str) -> None:
        """Stop WEB or BOT by SIGTERM; it must end as it should."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{name} runs {STOP_SECONDS} s after SIGTERM:\n{self.logs()[name]}") from None
        assert code in STOPPED_CODES.get(name, STOPPED_CODES[WEB]), f"{name} ended with {code}:\n{self.logs()[name]}"

    def logs(self) -> dict[str, str]:
        """What each process has written so far, by its name."""
        return {path.stem: path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))}

    def sessions(self, count: int) -> dict[int, str]:
        """Make `count` users who are logged in: user id → session cookie."""
        path = self.directory / "cookies"
        self.manage("seed_demo", f"--users={count}", f"--cookies={path}", "--verbosity=0")
        return {int(user): key for user, _, key in (line.partition("\t") for line in path.read_text().splitlines())}

    def _start(self, name: str, *arguments: str, **environment: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=self._environment() | environment, stdout=log, stderr=log
            )

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        def fact() -> bool:
            assert self._processes[name].poll() is None, "it has ended"
            return is_ready()

        try:
            wait_until_sync(fact, seconds=READY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{name} did not start: {error}\n{self.logs()[name]}") from None

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key not in {"ALLOWED_HOSTS", "LOG_LEVEL"}}
        own = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DEBUG": "1",
            "VAR_DIR": str(self.directory),
            "REDIS_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
        }
        if self._database_url:
            own["DATABASE_URL"] = urlunsplit(urlsplit(self._database_url)._replace(path=f"/{self._database}"))
        return {**inherited, **own}

    def _on_database_server(self, statement: str) -> None:
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def _is_serving(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=READY_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
    return False


def _is_subscribing(client: "redis.Redis") -> bool:
    """The ingress listens on its Redis channel, and the groups of the relay and the bot are there."""
    if not dict(client.pubsub_numsub("notification")).get(b"notification") or not client.exists("notifications"):
        return False
    return {group["name"] for group in client.xinfo_groups("notifications")} >= {b"relay", b"bot"}
