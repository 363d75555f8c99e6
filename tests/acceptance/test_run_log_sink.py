"""`manage.py run_log_sink` as a process: real signals, and outages of Redis."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

ROOT = Path(__file__).resolve().parent.parent.parent
STREAM = Keys().stream("logs")
MOMENT = "2026-01-02T03:04:05Z"
# Enough for a machine with two busy cores.
SECONDS = 120.0


class LogSink:
    """A running `run_log_sink GameLog`, its directory and its log."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.files = directory / "games/log"
        self._log = directory / "log.txt"
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "GAMES_URL")},
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": server.url,
            "LOG_LEVEL": "INFO",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_log_sink", "GameLog"],
                **{"cwd": ROOT, "env": environment, "stdout": log, "stderr": log},
            )

    @property
    def log(self) -> str:
        """All that it has printed and logged."""
        return self._log.read_text()

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until it has logged `text` that often; fail with its log if it ends before."""

        def is_said() -> bool:
            assert self.process.poll() is None or self.log.count(text) >= count, self.log
            return self.log.count(text) >= count

        wait_until_sync(is_said, seconds=SECONDS)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(append_only=True) as server:
        yield server


@contextlib.contextmanager
def running(directory: Path, server: RedisServer) -> Iterator[LogSink]:
    sink = LogSink(directory, server)
    try:
        yield sink
    finally:
        sink.process.kill()
        sink.process.wait()


def append_and_wait(server: RedisServer, *messages: str) -> None:
    """Append a record for each message, and wait until the sink has read all of them."""
    with redis.Redis.from_url(server.url) as client:
        for message in messages:
            body = {"level": "INFO", "timestamp": MOMENT, "logger": "t", "message": message, "queue": "demo.games"}
            client.xadd(STREAM, {"record": json.dumps(body)})
        wait_until_sync(lambda: pending_count(server) == len(messages), seconds=SECONDS)


def pending_count(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        found: Any = client.xpending(STREAM, "GameLog")
        count: int = found["pending"]
        return count


def test_redis_is_waited_for_and_sigterm_makes_everything_durable(tmp_path: Path, server: RedisServer) -> None:
    """Redis may be unavailable at the start, or later. SIGTERM ends a file that would stay open for seconds."""
    server.kill()
    with running(tmp_path, server) as sink:
        sink.wait_for("Redis is unavailable")
        server.start()
        sink.wait_for("GameLog is running, consumer")
        server.kill()
        sink.wait_for("Redis is unavailable", count=2)
        server.start()
        sink.wait_for("Redis is available again", count=2)
        append_and_wait(server, "a", "b", "c")
        sink.process.send_signal(signal.SIGTERM)
        assert sink.process.wait(SECONDS) == 0
        assert "Traceback" not in sink.log
    bodies = [path.read_bytes() for path in sink.files.glob("*/*.gz")]
    written = [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]
    # What was read while it stopped may be in a file of its own, and files of one second have no order.
    assert sorted(line["message"] for line in written) == ["a", "b", "c"]
    assert pending_count(server) == 0


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path, server: RedisServer) -> None:
    """Its files cannot be written, and it does not wait for its deadline. The records stay on the stream."""
    with running(tmp_path, server) as sink:
        sink.wait_for("GameLog is running, consumer")
        append_and_wait(server, "a", "b", "c")
        shutil.rmtree(sink.files)
        sink.files.write_text("in the way")
        sink.process.send_signal(signal.SIGINT)
        sink.wait_for("the storage of the sink GameLog is unavailable")
        # As a supervisor in the same terminal sends it. It does not count as a second Ctrl-C.
        sink.process.send_signal(signal.SIGTERM)
        sink.process.send_signal(signal.SIGINT)
        assert sink.process.wait(SECONDS) == 1
        assert "a second Ctrl-C: exiting at once" in sink.log
    assert pending_count(server) == 3
