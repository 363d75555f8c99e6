"""
A site under fault: a web server, workers, Redis, a database, and a receiver, each of which can be made to fail.

Owns starting, killing and stopping them, and what they log. Does not own what is published (load) nor when what fails
(rows). The database is a SQLite file or, when DATABASE_URL is set, a database of its own on that server.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import redis

from realtime.redis.keys import Keys
from tests.acceptance.site import free_port
from tests.faults.database import Database, PostgresDatabase, SqliteDatabase
from tests.faults.receiver import Receiver
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

__all__ = ["TIMEOUT_SECONDS", "Site"]

ROOT = Path(__file__).resolve().parents[2]
KEYS = Keys()
STREAM = KEYS.stream("notifications")
GROUPS = ("relay", "bot")
HOST = "127.0.0.1"
SECONDS = 60.0
USER_COUNT = 6
# As in production, only quicker: what takes half a minute there takes seconds here.
QUICK = {
    "INGRESS_LEASE_SECONDS": 1,
    "STREAM_LEASE_SECONDS": 1,
    "SWEEP_INTERVAL_SECONDS": 0.2,
    "OUTBOX_GRACE_SECONDS": 0.5,
    "OUTBOX_PAUSE_SECONDS": 0.5,
    "REFILL_GRACE_SECONDS": 2,
    "DELIVERY_CLAIM_SECONDS": 6,
    "DELIVERY_RETRY_SECONDS": 0.1,
    "DELIVERY_RETRY_LIMIT_SECONDS": 1,
    "DELIVERY_MAX_ATTEMPTS": 20,
    "DEFAULT_TRANSPORTS": ["webhook"],
}
# The webhook's: longer than a working receiver waits on a busy machine.
TIMEOUT_SECONDS = 3.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


_PREPARE = """
import sys, django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
call_command("seed_demo", *sys.argv[1:], verbosity=0)
"""
# In one step, so that entries are in hand or, where the owners of keys are deleted, wait behind others when it happens.
_DELETE_IN_USE = """
local stream, owners, kept, group, what = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
if redis.call('EXISTS', stream) == 0 or redis.call('HLEN', owners) == 0 then return 0 end
if what == 'stream' then return redis.call('DEL', stream) end
if what == 'group' then return redis.call('XGROUP', 'DESTROY', stream, group) end
return redis.call('HLEN', kept) > 0 and redis.call('DEL', owners) or 0
"""


class Site:
    """
    `with Site(["relay", "bot"]) as site`: ready when entered.

    Args:
        workers: A process each: what it runs, "relay", "bot" or "" for both. Their names are "worker1", "worker2", …
        timeout_seconds: The webhook's.
        settings: NOTIFICATIONS beside QUICK.

    Attributes:
        sessions: user id → session cookie.
    """

    def __init__(self, workers: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS, **settings: Any) -> None:
        self._parts = {f"worker{number}": part for number, part in enumerate(workers, 1)}
        self.directory = Path(tempfile.mkdtemp(prefix="sb-faults-"))
        self.address = f"{HOST}:{free_port()}"
        self.receiver = Receiver()
        self.redis = RedisServer(append_only=True)
        url = os.environ.get("DATABASE_URL", "")
        name = f"faults_{uuid.uuid4().hex[:12]}"
        self.database: Database = PostgresDatabase(url, name) if url else SqliteDatabase(self.directory / "db.sqlite3")
        self._database_url = urlunsplit(urlsplit(url)._replace(path=f"/{name}")) if url else ""
        self._settings = {**QUICK, **settings}
        self._timeout_seconds = timeout_seconds
        self.sessions: dict[int, str] = {}
        # Name → process, the last one of that name.
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            undo.enter_context(self.redis)
            undo.enter_context(self.receiver)
            undo.enter_context(self.database)
            undo.callback(self._kill_all)
            cookies = self.directory / "cookies"
            self._prepare(cookies)
            lines = (line.partition("\t") for line in cookies.read_text().splitlines())
            self.sessions = {int(user): key for user, _, key in lines}
            for name in ("web", *self._parts):
                self.start(name)
            for name in ("web", *self._parts):
                self.wait_ready(name)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def worker_names(self) -> list[str]:
        """All of them, whether they run or not."""
        return list(self._parts)

    def start(self, name: str, **environment: str) -> None:
        """Start "web" or a worker; another one of the same name must have ended."""
        if name == "web":
            host, port = self.address.split(":")
            self.run(
                name,
                "-m",
                "realtime.web",
                "project.asgi:application",
                f"--host={host}",
                f"--port={port}",
                "--drain-seconds=2",
            )
        else:
            only = ["--only", self._parts[name]] if self._parts[name] else []
            clock = str(self._clock(name))
            self.run(name, "manage.py", "run_bot_subscriber", *only, CLOCK_FILE=clock, **environment)

    def run(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start any Python process of the site under a name."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**self._environment(), **environment},
                stdout=log,
                stderr=log,
            )
        return self._processes[name]

    def wait_ready(self, name: str) -> None:
        """Wait until the process does its work."""
        wait_until_sync(lambda: self._is_ready(name), seconds=SECONDS)

    def kill(self, *names: str) -> None:
        """SIGKILL, all of them before any is waited for."""
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].wait()

    def pause(self, name: str) -> None:
        """SIGSTOP: it is there, keeps its connections, and does nothing."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """It goes on after `pause()`."""
        self._processes[name].send_signal(signal.SIGCONT)

    def terminate(self, name: str) -> None:
        """SIGTERM, and no more."""
        self._processes[name].terminate()

    def wait_dead(self, name: str) -> None:
        """Wait until a process has killed itself."""
        assert self._processes[name].wait(SECONDS) == -signal.SIGKILL, self.logs()[name]

    def jump(self, name: str, seconds: float) -> None:
        """A worker's clock is off by so much from now on."""
        self._clock(name).write_text(str(seconds))

    def deploy(self, name: str) -> None:
        """SIGTERM, wait for the end, and start its successor."""
        self.end(name)
        self.start(name)
        self.wait_ready(name)

    def end(self, name: str) -> None:
        """SIGTERM, and wait for an end that is in order."""
        process = self._processes[name]
        process.terminate()
        code = process.wait(SECONDS)
        # A web server that has cleaned up may end by the signal itself.
        assert code in ({0, -signal.SIGTERM} if name == "web" else {0}), f"{name}: {code}\n{self.logs()[name]}"

    def wipe_redis(self) -> None:
        """Redis crashes and comes back on an empty disk."""
        self.redis.kill()
        data = Path(self.redis.url.removeprefix("unix://")).parent / "appendonlydir"
        shutil.rmtree(data)
        self.redis.start()

    @contextlib.contextmanager
    def redis_client(self) -> Iterator[Any]:
        """A client of the site's Redis."""
        with redis.Redis.from_url(self.redis.url) as client:
            yield client

    def delete_in_use(self, group: str, *, what: Literal["group", "stream", "owners"] = "group") -> bool:
        """Delete one of these if the group's workers have entries; returns whether it was deleted."""
        names = [STREAM, KEYS.key_owners("notifications", group), KEYS.parked_entries("notifications", group)]
        with self.redis_client() as client:
            return bool(client.eval(_DELETE_IN_USE, len(names), *names, group, what))

    def is_idle(self) -> bool:
        """Whether no worker has anything left to do: nothing unread, nothing in hand, nothing in a line."""
        with self.redis_client() as client:
            if not client.exists(STREAM):
                return True
            groups = client.xinfo_groups(STREAM)
            # A group that was made again has read nothing, and there may be nothing left for it to read.
            unread = (client.xrange(STREAM, min=b"(" + group["last-delivered-id"], count=1) for group in groups)
            if len(groups) != len(GROUPS) or any(group["pending"] for group in groups) or any(unread):
                return False
            return not any(
                client.exists(KEYS.parked_entries("notifications", group["name"].decode())) for group in groups
            )

    def logs(self) -> dict[str, str]:
        """What each process has written so far, by its name."""
        return {path.stem: path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))}

    def _clock(self, name: str) -> Path:
        return self.directory / f"{name}.clock"

    def _is_ready(self, name: str) -> bool:
        process = self._processes[name]
        assert process.poll() is None, f"{name} has ended with {process.poll()}\n{self.logs()[name]}"
        if name == "web":
            connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/")
                return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
            return False
        # With its process id, as an earlier one of that name has written into the same file.
        return re.search(f"running, consumer .*-{process.pid}-", self.logs()[name]) is not None

    def _prepare(self, cookies: Path) -> None:
        """Tables, users and their sessions, in one process: starting one is most of the work."""
        process = self.run("prepare", "-c", _PREPARE, f"--users={USER_COUNT}", f"--cookies={cookies}")
        assert process.wait(SECONDS) == 0, self.logs()["prepare"]

    def _environment(self) -> dict[str, str]:
        options = {
            "url": self.receiver.url,
            "secret": SECRET,
            "allow_private": True,
            "timeout_seconds": self._timeout_seconds,
        }
        transports = {"webhook": {"BACKEND": "tests.faults.transports.MortalWebhook", "OPTIONS": options}}
        inherited = {key: value for key, value in os.environ.items() if key not in {"ALLOWED_HOSTS", "LOG_LEVEL"}}
        return {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "DEBUG": "1",
            "VAR_DIR": str(self.directory),
            "REDIS_URL": self.redis.url,
            "PYTHONUNBUFFERED": "1",
            "NOTIFICATIONS": json.dumps({**self._settings, "TRANSPORTS": transports}),
            **({"DATABASE_URL": self._database_url} if self._database_url else {}),
        }

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
