"""
What a real receiver gets if a bot is killed before, during or after the call of the provider.

The provider is a webhook receiver; the processes are real, and end by SIGKILL.
"""

import contextlib
import datetime
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from standardwebhooks import Webhook

from notifications.management.commands import run_bot_subscriber
from realtime.redis.keys import Keys
from tests.support.receivers import HttpReceiver, Reply, Request, http_receiver
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parent.parent.parent
STREAM = Keys().stream("notifications")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
SECONDS = 120.0
# Claims of bots that are not killed are long: the bot would rightly repeat a call if a busy machine answered too late.
PATIENT_SECONDS = 600.0
# Of a claim that lapses in the test. A provider has half of it to answer.
CLAIM_SECONDS = 10.0


class World:
    """A database with a user, a Redis, a receiver, and bots."""

    def __init__(self, directory: Path, redis_url: str, receiver: HttpReceiver) -> None:
        self.receiver = receiver
        self.redis = redis.Redis.from_url(redis_url)
        self._directory = directory
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "DJANGO_SETTINGS_MODULE": "tests.support.subscriber_settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": redis_url,
            "NOTIFICATIONS": self._notifications(claim_seconds=2),
        }

    def _notifications(
        self, *, claim_seconds: float, backend: str = "WebhookWithDeath", timeout_seconds: float | None = None
    ) -> str:
        options = {
            "url": self.receiver.url,
            "secret": SECRET,
            "allow_private": True,
            "timeout_seconds": timeout_seconds or claim_seconds / 2,
        }
        return json.dumps(
            {
                "INGRESS_LEASE_SECONDS": 0.6,
                "STREAM_LEASE_SECONDS": 0.6,
                "SWEEP_INTERVAL_SECONDS": 0.05,
                "DELIVERY_CLAIM_SECONDS": claim_seconds,
                "DELIVERY_RETRY_SECONDS": 0.05,
                "DEFAULT_TRANSPORTS": ["webhook"],
                "TRANSPORTS": {"webhook": {"BACKEND": f"tests.support.transports.{backend}", "OPTIONS": options}},
            }
        )

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def bot(self, *, claim_seconds: float = 2, die: str = "", **transport: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a bot; by default a provider has half of the claim's time to answer."""
        environment = {"DIE": die, "NOTIFICATIONS": self._notifications(claim_seconds=claim_seconds, **transport)}
        command = [sys.executable, "manage.py", "run_bot_subscriber"]
        process = subprocess.Popen(command, cwd=ROOT, env={**self._environment, **environment}, stderr=subprocess.PIPE)
        reader = threading.Thread(target=_drain, args=(process.stderr,))
        reader.start()
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            reader.join()

    def states(self) -> list[tuple[str, int]]:
        """State and attempts of each delivery."""
        with contextlib.closing(sqlite3.connect(self._directory / "db.sqlite3")) as database:
            return database.execute("SELECT state, attempts FROM notifications_delivery ORDER BY id").fetchall()

    def let_claims_lapse(self) -> None:
        """End the time of all claims now. It may be long, so that no call outlasts it on a slow machine."""
        with contextlib.closing(sqlite3.connect(self._directory / "db.sqlite3", timeout=SECONDS)) as database, database:
            database.execute("UPDATE notifications_delivery SET due_at = '2000-01-01 00:00:00' WHERE state = 'sending'")

    def is_all_handled(self) -> bool:
        """Whether the bot has handled every entry."""
        (group,) = [group for group in self.redis.xinfo_groups(STREAM) if group["name"] == b"bot"]
        newest = self.redis.xinfo_stream(STREAM)["last-generated-id"]
        return group["pending"] == 0 and group["last-delivered-id"] == newest


def _drain(stream: Any) -> None:
    # A pipe that is not read would block the process.
    with stream:
        stream.read()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("database")
    with RedisServer() as server, http_receiver() as receiver:
        world = World(directory, server.url, receiver)
        world.manage("migrate", "--verbosity=0")
        world.manage("seed_demo", "--users=1", f"--cookies={directory / 'cookies'}")
        world.redis.close()
    return directory / "db.sqlite3"


@pytest.fixture
def world(database: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(database, tmp_path)
    with RedisServer(append_only=True) as server, http_receiver() as receiver:
        world = World(tmp_path, server.url, receiver)
        yield world
        world.redis.close()


def ids(requests: list[Request]) -> Counter[str]:
    """How often each webhook-id came, with its signature verified."""
    for request in requests:
        Webhook(SECRET).verify(request.body, request.headers)
    return Counter(request.headers["webhook-id"] for request in requests)


def test_killed_before_the_call_it_is_sent_once(world: World) -> None:
    """The claim is written, the provider not yet called."""
    with world.bot(die="before") as doomed:
        world.manage("notify", "user1", "Hello")
        assert doomed.wait(SECONDS) == -9
    assert world.receiver.requests == []
    with world.bot(claim_seconds=PATIENT_SECONDS):
        wait_until_sync(lambda: world.states() == [("sent", 2)], seconds=SECONDS)
    assert list(ids(world.receiver.requests).values()) == [1]


def test_killed_during_the_call_it_comes_again_under_the_same_id(world: World) -> None:
    """The result of the first call is unknown. A receiver that remembers ids processes it once."""
    gate = threading.Event()
    world.receiver.reply = Reply(gate=gate)
    with world.bot(claim_seconds=PATIENT_SECONDS) as doomed:
        world.manage("notify", "user1", "Hello")
        wait_until_sync(lambda: world.receiver.requests, seconds=SECONDS)
        doomed.kill()
        doomed.wait()
    gate.set()
    world.let_claims_lapse()
    with world.bot(claim_seconds=PATIENT_SECONDS):
        wait_until_sync(lambda: world.states() == [("sent", 2)], seconds=SECONDS)
    assert list(ids(world.receiver.requests).values()) == [2]


def test_killed_between_the_answer_and_its_record_it_comes_again_under_the_same_id(world: World) -> None:
    """At this one moment a second call cannot be excluded. The receiver recognises it by its id."""
    with world.bot(die="after", claim_seconds=PATIENT_SECONDS) as doomed:
        world.manage("notify", "user1", "Hello")
        assert doomed.wait(SECONDS) == -9
    assert len(world.receiver.requests) == 1
    world.let_claims_lapse()
    with world.bot(claim_seconds=PATIENT_SECONDS):
        wait_until_sync(lambda: world.states() == [("sent", 2)], seconds=SECONDS)
    assert list(ids(world.receiver.requests).values()) == [2]


def test_the_ledger_has_the_attempt_of_the_killed_process(world: World) -> None:
    """With its process, and that there is no result. Another process made the next attempt."""
    with world.bot(die="after", claim_seconds=CLAIM_SECONDS) as doomed:
        world.manage("notify", "user1", "Hello")
        assert doomed.wait(SECONDS) == -9
    with world.bot(claim_seconds=PATIENT_SECONDS) as second:
        wait_until_sync(lambda: world.states() == [("sent", 2)], seconds=SECONDS)
    steps = json.loads(world.manage("notification_ledger", "1", "--json"))["steps"]
    names = [step["what"] for step in steps]
    assert [name for name in names if name != "relayed"] == [
        *("created", "published", "deliveries planned", "planned", "lost", "sent")
    ]
    by_name = {step["what"]: step for step in steps}
    host = socket.gethostname()
    attempts = [(step["what"], step["attempt"], step["process"]) for step in steps if step["attempt"] is not None]
    assert attempts == [("lost", 1, f"{host}:{doomed.pid}"), ("sent", 2, f"{host}:{second.pid}")]
    assert by_name["relayed"]["process"] in (f"{host}:{doomed.pid}", f"{host}:{second.pid}")
    assert by_name["deliveries planned"]["process"] == f"{host}:{doomed.pid}"
    assert by_name["created"]["process"] == by_name["published"]["process"] != by_name["relayed"]["process"]
    assert by_name["sent"]["answer"].startswith("200 OK")
    # The claim of the killed process lapsed after its time, or later if the call began late and extended it.
    began, ended = (datetime.datetime.fromisoformat(by_name["lost"][name]) for name in ("began_at", "at"))
    assert CLAIM_SECONDS - 0.1 < (ended - began).total_seconds() < SECONDS


@pytest.mark.parametrize(
    "transport", [{"backend": "WebhookWithDeath"}, {"backend": "WebhookInThread", "timeout_seconds": 0.5}]
)
def test_told_to_stop_it_waits_for_the_answer(world: World, transport: dict[str, Any]) -> None:
    """It waits as long as the call may take, in a thread or not, because a call that was cut off would be repeated."""
    gate = threading.Event()
    world.receiver.reply = Reply(gate=gate)
    with world.bot(claim_seconds=30, **transport) as stopped:
        world.manage("notify", "user1", "Hello")
        wait_until_sync(lambda: world.receiver.requests, seconds=SECONDS)
        stopped.terminate()
        # Longer than what needs no provider is given.
        answer = threading.Timer(run_bot_subscriber.DEADLINE_SECONDS + 1, gate.set)
        answer.start()
        assert stopped.wait(SECONDS) == 0
        answer.join()
    assert len(world.receiver.requests) == 1
    assert world.states() == [("sent", 1)]


def test_what_is_known_to_have_been_sent_is_not_sent_again(world: World) -> None:
    """Two bots are killed, and Redis delivers every entry a second time."""
    for number in range(5):
        world.manage("notify", "user1", f"Hello {number}")
    entries = world.redis.xrange(STREAM)
    with world.bot(claim_seconds=PATIENT_SECONDS), world.bot(claim_seconds=PATIENT_SECONDS):
        wait_until_sync(lambda: world.states() == [("sent", 1)] * 5, seconds=SECONDS)
    for _, fields in entries:
        world.redis.xadd(STREAM, fields)
    with world.bot(claim_seconds=PATIENT_SECONDS):
        wait_until_sync(world.is_all_handled, seconds=SECONDS)
    assert sorted(ids(world.receiver.requests).values()) == [1] * 5
    assert world.states() == [("sent", 1)] * 5
