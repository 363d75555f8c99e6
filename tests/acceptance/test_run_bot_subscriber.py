"""`manage.py run_bot_subscriber` as operators run it: real processes, real signals, a Redis that stops."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import redis

from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = Keys()
STREAM = KEYS.stream("notifications")
# Enough for a machine with two busy cores.
SECONDS = 120.0
QUICK = {
    # Longer than a process stands still: a request that comes after its lease is left to the next holder.
    "INGRESS_LEASE_SECONDS": 3,
    "STREAM_LEASE_SECONDS": 1,
    "SWEEP_INTERVAL_SECONDS": 0.1,
    "DELIVERY_CLAIM_SECONDS": 5,
    "DELIVERY_RETRY_SECONDS": 0.1,
    "TRANSPORTS": {
        "console": {
            "BACKEND": "notifications.transports.console.ConsoleTransport",
            "OPTIONS": {"timeout_seconds": 2.5},
        }
    },
}
PRODUCTION = {"DEBUG": "0", "SECRET_KEY": "of a test", "ALLOWED_HOSTS": "localhost", "LOG_LEVEL": "INFO"}


class World:
    """A database with the users 1 and 2, a Redis that keeps its data, and processes on them."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.server = server
        self.client = redis.Redis.from_url(server.url)
        self.directory = directory
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "DJANGO_SETTINGS_MODULE": "tests.support.subscriber_settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": server.url,
        }

    def use(self, url: str) -> None:
        """Processes that are started from now on reach Redis by this address."""
        self._environment["REDIS_URL"] = url

    def manage(self, *arguments: str) -> str:
        """Run a management command and return what it prints."""
        done = self.run("manage.py", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=300)

    @contextlib.contextmanager
    def subscriber(
        self,
        *options: str,
        is_awaited: bool = True,
        environment: Mapping[str, str] = MappingProxyType({"LOG_LEVEL": "INFO"}),
        **settings: Any,
    ) -> Iterator["Process"]:
        """A running `run_bot_subscriber`, by default ready; killed at the end."""
        environment = {**self._environment, "NOTIFICATIONS": json.dumps({**QUICK, **settings}), **environment}
        process = Process(self.directory, ["manage.py", "run_bot_subscriber", *options], environment)
        try:
            if is_awaited:
                process.wait_for("running, consumer")
            yield process
        finally:
            process.popen.kill()
            process.popen.wait()

    def publish(self, message: str, user_id: int = 1) -> int:
        """PUBLISH as a foreign program; returns the number of subscribers."""
        return self.client.publish(KEYS.ingress_channel(), json.dumps({"user_id": user_id, "message": message}))

    def pending_count(self, *groups: str) -> int:
        """The number of pending entries in these groups, by default in both."""
        found = self.client.xinfo_groups(STREAM)
        return sum(group["pending"] for group in found if not groups or group["name"].decode() in groups)


class Process:
    """One process, its standard output and its log."""

    count = 0

    def __init__(self, directory: Path, arguments: list[str], environment: dict[str, str]) -> None:
        Process.count += 1
        self._out = directory / f"{Process.count}.out"
        self._log = directory / f"{Process.count}.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=out, stderr=log
            )

    @property
    def lines(self) -> list[str]:
        """The output of the bot."""
        return self._out.read_text().splitlines()

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has logged `text`; fail with its log if it ends before."""

        def is_said() -> bool:
            assert self.popen.poll() is None or text in self.log, self.log
            return text in self.log

        wait_until_sync(is_said, seconds=SECONDS)

    def wait_for_line(self, line: str) -> None:
        """Wait until the bot has printed `line`."""
        wait_until_sync(lambda: line in self.lines, seconds=SECONDS)

    def stop(self, *signals: signal.Signals) -> int:
        """Send the signals, SIGTERM if none is given, and return the exit code."""
        for number in signals or (signal.SIGTERM,):
            self.popen.send_signal(number)
        return self.popen.wait(timeout=SECONDS)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with two users, made once."""
    directory = tmp_path_factory.mktemp("database")
    with RedisServer() as server:
        world = World(directory, server)
        world.manage("migrate", "--verbosity=0")
        world.manage("seed_demo", "--users=2", f"--cookies={directory / 'cookies'}")
        world.client.close()
    return directory / "db.sqlite3"


@pytest.fixture
def world(database: Path, tmp_path: Path) -> Iterator[World]:
    """A copy of it, and a Redis of its own."""
    shutil.copy(database, tmp_path)
    with RedisServer(append_only=True) as server:
        world = World(tmp_path, server)
        yield world
        world.client.close()


def test_it_works_until_sigterm_and_leaves_nothing_behind(world: World) -> None:
    """notify() makes a line on the standard output. At the end: exit code 0, nothing pending, no consumer, no lease."""
    with world.subscriber() as process:
        assert "relay and bot are running, consumer" in process.log
        world.manage("notify", "user1", "Your order is on its way!")
        process.wait_for_line("user 1: Your order is on its way!")
        process.wait_for("listening for requests")
        assert world.publish("From afar", user_id=2) == 1
        process.wait_for_line("user 2: From afar")
        assert world.client.ttl(KEYS.lease("ingress")) >= 0
        assert process.stop() == 0
        assert "Traceback" not in process.log
    groups = {group["name"]: group for group in world.client.xinfo_groups(STREAM)}
    assert {name: (group["pending"], group["consumers"], group["entries-read"]) for name, group in groups.items()} == {
        b"relay": (0, 0, 2),
        b"bot": (0, 0, 2),
    }
    assert not world.client.exists(KEYS.lease("ingress"))
    assert process.lines == ["user 1: Your order is on its way!", "user 2: From afar"]


def test_where_the_log_has_warnings_only_it_still_says_that_it_runs(world: World) -> None:
    """Without LOGGING it prints a line when it is ready and one at the end. Log lines are not printed twice."""
    with world.subscriber(is_awaited=False, environment={"LOG_LEVEL": "WARNING"}) as process:
        process.wait_for_line("run_bot_subscriber: relay and bot running; Ctrl-C or SIGTERM stops it")
        assert process.stop() == 0
    assert process.lines[1:] == ["run_bot_subscriber: stopped: running work is finished, or left to other workers"]
    assert process.log == ""


def test_sigterm_finishes_what_is_in_hand_and_more_signals_do_not_break_that(world: World) -> None:
    """
    Ctrl-C and an impatient supervisor included. What was not begun is left to the next process; requests that PUBLISH
    had counted as received are carried out.
    """
    with world.subscriber("--concurrency", "1", SEND_MESSAGE="tests.support.transports.slow") as process:
        process.wait_for("listening for requests")
        with world.client.pipeline() as burst:
            for number in range(3):
                burst.publish(KEYS.ingress_channel(), json.dumps({"user_id": 1, "message": str(number)}))
            assert burst.execute() == [1, 1, 1]
        process.wait_for_line("user 1: begin 0")
        assert process.stop(signal.SIGTERM, signal.SIGINT, signal.SIGTERM) == 0
        assert process.lines[-1].startswith("user 1: end")
        assert len([line for line in process.lines if "begin" in line]) * 2 == len(process.lines)
        # The relay may have read an entry just as it stopped; the next relay handles it.
        assert world.pending_count("bot") == 0
        assert "Traceback" not in process.log
    with world.subscriber() as successor:
        successor.wait_for_line("user 1: 2")
        assert len([*process.lines[::2], *successor.lines]) == 3


def test_a_thread_that_hangs_does_not_hold_up_the_end(world: World) -> None:
    """Such a call cannot be stopped. The process logs this and exits, and other processes claim its entries."""
    with world.subscriber(SEND_MESSAGE="tests.support.transports.stuck") as process:
        process.wait_for("listening for requests")
        world.publish("one")
        process.wait_for_line("user 1: begin one")
        assert process.stop() == 1
        assert "exiting at once" in process.log
    with world.subscriber() as successor:
        successor.wait_for_line("user 1: one")


def test_an_event_loop_that_stands_still_is_noticed_and_ended(world: World) -> None:
    """The log names the place once, the health check reports it, and SIGTERM does not wait for it to end."""
    with world.subscriber(SEND_MESSAGE="tests.support.transports.spin", DELIVERY_CLAIM_SECONDS=600) as process:
        process.wait_for("listening for requests")
        world.publish("one")
        process.wait_for_line("user 1: begin one")
        process.wait_for("the event loop is blocked")
        wait_until_sync(lambda: list(world.client.scan_iter(KEYS.standstill("*"))), seconds=SECONDS)
        health = world.run("-m", "notifications.health", "bot")
        assert health.returncode == 1
        assert re.search(r"the event loop of \S+ is blocked at \S+transports.py:\d+ in spin", health.stderr)
        assert process.stop() == 1
    assert process.log.count("the event loop is blocked") == 1
    assert "in spin" in process.log


def test_an_event_loop_that_never_runs_again_ends_its_process(world: World) -> None:
    """Without DEBUG: its supervisor starts a new one, and other workers take over its entries."""
    with world.subscriber(SEND_MESSAGE="tests.support.transports.spin", environment=PRODUCTION) as process:
        process.wait_for("listening for requests")
        world.publish("one")
        assert process.popen.wait(timeout=SECONDS) == 1
        assert "the event loop has been blocked for" in process.log


def test_redis_killed_and_restarted_with_its_data_is_waited_for(world: World) -> None:
    """It logs this once, loses nothing, and then bot, relay and ingress all continue."""
    with world.subscriber() as process:
        process.wait_for("listening for requests")
        world.publish("before")
        process.wait_for_line("user 1: before")
        world.server.kill()
        process.wait_for("Redis is unavailable")
        # If Redis is down, the caller does not fail: the sweep publishes it later.
        world.manage("notify", "user1", "meanwhile")
        world.server.start()
        process.wait_for_line("user 1: meanwhile")
        wait_until_sync(lambda: world.publish("after") == 1, seconds=SECONDS)
        process.wait_for_line("user 1: after")
        process.wait_for("outage: Redis is available again")
        assert (
            process.log.count("outage: Redis is unavailable")
            == process.log.count("outage: Redis is available again")
            == 1
        )
        assert "the sweep published 1 events" in process.log
        assert process.stop() == 0
        assert "Traceback" not in process.log
    assert process.lines == ["user 1: before", "user 1: meanwhile", "user 1: after"]
    assert world.pending_count() == 0


def test_redis_not_there_at_the_start_is_waited_for(world: World) -> None:
    """The order of starting does not matter, and SIGTERM ends it with or without Redis."""
    world.server.kill()
    with world.subscriber(is_awaited=False) as process:
        process.wait_for("Redis is unavailable")
        world.server.start()
        process.wait_for("running, consumer")
        world.manage("notify", "user1", "Hello")
        process.wait_for_line("user 1: Hello")
        world.server.kill()
        assert process.stop() == 0


def test_what_a_killed_process_held_is_done_by_the_other(world: World) -> None:
    """After SIGKILL with entries in flight and the ingress lease, the other process takes over both."""
    with world.subscriber(SEND_MESSAGE="tests.support.transports.hang") as doomed:
        doomed.wait_for("listening for requests")
        for number in range(2):
            world.publish(str(number))
        for number in range(2):
            doomed.wait_for_line(f"user 1: begin {number}")
        with world.subscriber() as other:
            doomed.popen.kill()
            doomed.popen.wait()
            for number in range(2):
                other.wait_for_line(f"user 1: {number}")
            other.wait_for("listening for requests")
            assert world.publish("to the new holder") == 1
            other.wait_for_line("user 1: to the new holder")
            wait_until_sync(lambda: world.pending_count() == 0, seconds=SECONDS)
            assert other.stop() == 0


def test_two_processes_share_the_work(world: World) -> None:
    """Each message is printed by one of them, and one of them is subscribed to the Redis channel."""
    # The lease stays with the first of them, however long it stands still: one listens, and not two.
    patient = {"INGRESS_LEASE_SECONDS": 600}
    with world.subscriber(**patient) as first, world.subscriber(**patient) as second:
        wait_until_sync(lambda: "listening" in first.log + second.log, seconds=SECONDS)
        for number in range(30):
            assert world.publish(str(number)) == 1
        wait_until_sync(lambda: len(first.lines) + len(second.lines) == 30, seconds=SECONDS)
        assert sorted(first.lines + second.lines) == sorted(f"user 1: {number}" for number in range(30))
        assert first.stop() == second.stop() == 0
    assert world.client.hget(KEYS.counters("ingress"), "accepted") == b"30"


def test_the_parts_can_run_apart(world: World) -> None:
    """A relay alone also creates the bot's group, so it does not trim entries that a later bot needs."""
    with world.subscriber("--only", "relay") as relay:
        assert "relay is running, consumer" in relay.log
        relay.wait_for("listening for requests")
        for number in range(3):
            world.publish(str(number))
        wait_until_sync(lambda: world.client.xlen(STREAM) == 3, seconds=SECONDS)
        assert relay.stop() == 0
    assert relay.lines == []
    with world.subscriber("--only", "bot") as bot:
        assert "bot is running, consumer" in bot.log
        for number in range(3):
            bot.wait_for_line(f"user 1: {number}")
        assert world.publish("nobody listens") == 0
        assert bot.stop() == 0
    assert not world.client.exists(KEYS.lease("ingress"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SEND_MESSAGE": "nowhere.at_all"}, "No module named 'nowhere'"),
        ({"BOT_CONCURRENCY": 0}, "NOTIFICATIONS"),
        ({"BOT_SPEED": 9000}, "BOT_SPEED"),
    ],
)
def test_a_defect_ends_it_with_an_error(world: World, settings: dict[str, Any], said: str) -> None:
    """The exit code is not 0, and the output says what is wrong."""
    with world.subscriber(is_awaited=False, **settings) as process:
        assert process.popen.wait(timeout=SECONDS) == 1
        assert said in process.log


def test_help_teaches(world: World) -> None:
    """It describes the command, its options, and the messages of foreign programs."""
    text = world.manage("run_bot_subscriber", "--help")
    for words in ("relay", "bot", "--only {relay,bot}", "--concurrency N", "PUBLISH", "user_id", "SIGTERM"):
        assert words in text
