"""`manage.py run_task_worker --processes N`: real processes, of which some are killed; and periodic tasks in them."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.periodic_app.tasks import HELD, TICKS
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

# Several processes start one after another, which takes long on a machine with two busy cores.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent.parent
# Enough for a machine with two busy cores.
SECONDS = 120.0
READY = "queues default and mail running in {} processes"


def environment(directory: Path, server: RedisServer) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        "DJANGO_SETTINGS_MODULE": "tests.support.periodic_settings",
        "VAR_DIR": str(directory),
        "REDIS_URL": server.url,
        "BROKEN_FILE": str(directory / "broken"),
    }


class Workers:
    """A running `run_task_worker`, its processes and its log."""

    def __init__(self, directory: Path, server: RedisServer, arguments: Sequence[str]) -> None:
        self._log = directory / "log.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_task_worker", *arguments],
                cwd=ROOT,
                env=environment(directory, server),
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """All that the processes have printed and logged."""
        return self._log.read_text()

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until `text` was logged that often; fail with the log if the command ends before."""

        def is_said() -> bool:
            assert self.process.poll() is None or self.log.count(text) >= count, self.log
            return self.log.count(text) >= count

        wait_until_sync(is_said, seconds=SECONDS)

    def pids(self) -> set[int]:
        """The processes that the command has started and that run."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in found.split() if is_alive(int(pid))}

    def end(self, number: int) -> int:
        """Send a signal to the command, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(append_only=True) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@contextlib.contextmanager
def running(directory: Path, server: RedisServer, *arguments: str) -> Iterator[Workers]:
    """The command. At the end nothing of it runs."""
    workers = Workers(directory, server, arguments)
    pids: set[int] = set()
    try:
        yield workers
    finally:
        if workers.process.poll() is None:
            pids = workers.pids()
        workers.process.kill()
        workers.process.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def enqueue(directory: Path, server: RedisServer, count: int = 1) -> None:
    """Enqueue tasks that run until the file `go` exists."""
    program = (
        "import django; django.setup()\n"
        "from tests.periodic_app.tasks import hold\n"
        f"for _ in range({count}): hold.enqueue({str(directory / 'go')!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(directory, server), check=True)


def states(client: Any) -> list[str]:
    """The states of all tasks `hold`."""
    keys = [key for key in client.scan_iter("*:task:*") if client.type(key) == "hash"]
    found = [client.hmget(key, "func", "status") for key in keys]
    return sorted(state for func, state in found if func.endswith(".hold"))


# The processes --------------------------------------------------------------------------------------------------------


def test_processes_share_the_tasks_and_sigterm_lets_them_finish(
    tmp_path: Path, server: RedisServer, client: Any
) -> None:
    """The exit code is 0, no process is left, and every task has ended."""
    with running(tmp_path, server, "--processes=3", "--concurrency=1", "--no-periodic") as workers:
        workers.wait_for(READY.format(3))
        pids = workers.pids()
        assert len(pids) == 3
        enqueue(tmp_path, server, count=3)
        wait_until_sync(lambda: {int(pid) for pid in client.lrange(HELD, 0, -1)} == pids, seconds=SECONDS)
        workers.process.send_signal(signal.SIGTERM)
        workers.wait_for("SIGTERM: stopping 3 processes")
        (tmp_path / "go").touch()
        assert workers.process.wait(SECONDS) == 0
        assert states(client) == ["SUCCESSFUL"] * 3
        assert not any(map(is_alive, pids))
        assert "Traceback" not in workers.log
    assert client.llen(TICKS) == 0


def test_a_process_that_is_killed_is_started_again(tmp_path: Path, server: RedisServer, client: Any) -> None:
    """The log says how it ended. Another one runs its task, and the command still ends in order."""
    with running(tmp_path, server, "--processes=2", "--concurrency=1", "--no-periodic") as workers:
        workers.wait_for(READY.format(2))
        before = workers.pids()
        enqueue(tmp_path, server)
        (pid,) = wait_until_sync(lambda: [int(pid) for pid in client.lrange(HELD, 0, -1)], seconds=SECONDS)
        os.kill(pid, signal.SIGKILL)
        workers.wait_for(f"(pid {pid}) was ended by SIGKILL: starting another one in 0.")
        wait_until_sync(lambda: len(workers.pids()) == 2, seconds=SECONDS)
        assert len(workers.pids() & before) == 1
        wait_until_sync(lambda: client.llen(HELD) == 2, seconds=SECONDS)
        (tmp_path / "go").touch()
        wait_until_sync(lambda: states(client) == ["SUCCESSFUL"], seconds=SECONDS)
        assert workers.end(signal.SIGTERM) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_the_processes_end_with_a_parent_that_is_killed(tmp_path: Path, server: RedisServer, client: Any) -> None:
    """In order: they finish their tasks."""
    with running(tmp_path, server, "--processes=2", "--no-periodic") as workers:
        workers.wait_for(READY.format(2))
        pids = workers.pids()
        enqueue(tmp_path, server)
        wait_until_sync(lambda: client.llen(HELD) == 1, seconds=SECONDS)
        workers.process.kill()
        workers.process.wait()
        holder = int(client.lindex(HELD, 0))
        wait_until_sync(lambda: {pid for pid in pids if is_alive(pid)} == {holder}, seconds=SECONDS)
        (tmp_path / "go").touch()
        wait_until_sync(lambda: not is_alive(holder), seconds=SECONDS)
    assert states(client) == ["SUCCESSFUL"]


def test_a_second_ctrl_c_ends_all_at_once(tmp_path: Path, server: RedisServer, client: Any) -> None:
    """The task does not end, and the command says so by its exit code. The terminal sends Ctrl-C to no child."""
    with running(tmp_path, server, "--processes=2", "--no-periodic") as workers:
        workers.wait_for(READY.format(2))
        pids = workers.pids()
        enqueue(tmp_path, server)
        wait_until_sync(lambda: client.llen(HELD) == 1, seconds=SECONDS)
        workers.process.send_signal(signal.SIGINT)
        workers.wait_for("SIGINT: stopping 2 processes")
        assert workers.end(signal.SIGINT) == 1
        assert not any(map(is_alive, pids))
        assert "a second Ctrl-C: ending all processes at once" in workers.log
    assert states(client) == ["RUNNING"]


def test_a_process_that_stands_still_is_killed_after_the_deadline(
    tmp_path: Path, server: RedisServer, client: Any
) -> None:
    """It cannot end itself. The exit code says that work is left to other workers."""
    with running(tmp_path, server, "--processes=2", "--deadline=0.1", "--no-periodic") as workers:
        workers.wait_for(READY.format(2))
        pids = workers.pids()
        enqueue(tmp_path, server)
        (pid,) = wait_until_sync(lambda: [int(pid) for pid in client.lrange(HELD, 0, -1)], seconds=SECONDS)
        os.kill(pid, signal.SIGSTOP)
        assert workers.end(signal.SIGTERM) == 1
        assert not any(map(is_alive, pids))
        assert "not all processes have finished their work" in workers.log
    assert states(client) == ["RUNNING"]


def test_processes_that_cannot_start_end_the_command(tmp_path: Path, server: RedisServer) -> None:
    """For example because the settings cannot be loaded. They are not started again and again."""
    server.kill()
    with running(tmp_path, server, "--processes=2", "--no-periodic") as workers:
        # The parent runs; the processes wait for Redis until one is ended, and cannot be started again.
        workers.wait_for("Redis is unavailable", count=2)
        (tmp_path / "broken").touch()
        for pid in workers.pids():
            os.kill(pid, signal.SIGKILL)
        assert workers.process.wait(SECONDS) == 1
        assert re.search(r"process [12] \(pid \d+\) ended with code 1 before it was ready", workers.log)
        assert "Traceback" not in workers.log


def test_processes_that_cannot_start_any_more_end_the_command(tmp_path: Path, server: RedisServer) -> None:
    """They have run, and the settings were broken meanwhile: some starts are tried, and then no more."""
    with running(tmp_path, server, "--processes=2", "--no-periodic") as workers:
        workers.wait_for(READY.format(2))
        (tmp_path / "broken").touch()
        for pid in workers.pids():
            os.kill(pid, signal.SIGKILL)
        assert workers.process.wait(SECONDS) == 1
        assert workers.log.count("ended with code 1: starting another one in") == 4
        assert "5 processes in a row did not become ready, and none runs" in workers.log


def test_a_stop_while_the_processes_start(tmp_path: Path, server: RedisServer) -> None:
    """Whenever it comes: they end, and the exit code is 0, or says that Python itself was ended."""
    server.kill()
    with running(tmp_path, server, "--processes=2", "--no-periodic") as workers:
        wait_until_sync(lambda: len(workers.pids()) == 2, seconds=SECONDS)
        pids = workers.pids()
        assert workers.end(signal.SIGTERM) == 0, workers.log
        assert not any(map(is_alive, pids))


# Periodic tasks -------------------------------------------------------------------------------------------------------


def test_each_tick_is_enqueued_once_though_processes_are_killed(
    tmp_path: Path, server: RedisServer, client: Any
) -> None:
    """Whoever holds the lease is killed, and another process enqueues the following ticks."""
    with running(tmp_path, server, "--processes=3") as workers:
        workers.wait_for(READY.format(3))
        for _ in range(2):
            count = client.llen(TICKS)
            wait_until_sync(lambda count=count: client.llen(TICKS) >= count + 2, seconds=SECONDS)
            (pid,) = wait_until_sync(lambda: workers.pids() & {lease_holder(client)}, seconds=SECONDS)
            os.kill(pid, signal.SIGKILL)
            workers.wait_for(f"(pid {pid}) was ended by SIGKILL")
        count = client.llen(TICKS)
        wait_until_sync(lambda: client.llen(TICKS) >= count + 2, seconds=SECONDS)
        assert workers.end(signal.SIGTERM) == 0, workers.log
    found = [client.hget(key, "run_after") for key in client.scan_iter("*:task:*")]
    assert len(found) == len(set(found)) >= 6
    enqueued = {datetime.fromtimestamp(int(us) / 1_000_000, UTC).isoformat() for us in found}
    # A killed process may have run a task whose end it did not record: that one runs twice.
    assert set(client.lrange(TICKS, 0, -1)) <= enqueued


def lease_holder(client: Any) -> int:
    """The process that enqueues, or 0."""
    holder = client.get("signalbox:lease:tasks:default:periodic")
    return int(holder.split("-")[-2]) if holder else 0


def test_the_list(tmp_path: Path, server: RedisServer) -> None:
    """The queues and the periodic tasks with their next ticks; Redis is not needed."""
    server.kill()

    def listed(*arguments: str) -> str:
        command = [sys.executable, "manage.py", "run_task_worker", "--list", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment(tmp_path, server), check=True, capture_output=True, text=True
        ).stdout

    lines = listed().splitlines()
    assert lines[0] == "backend default: queues default, mail"
    assert lines[1].startswith("each second: every 1 s, queue default, next 20")
    assert re.match(
        r"tests\.periodic_app\.tasks\.tidy: 30 2 1 1 \* Europe/Zurich, queue mail, next 20\d\d-01-01 0[0-9]:30:00",
        lines[2],
    )
    found = json.loads(listed("--json", "--queues=mail"))
    assert found["queues"] == ["mail"]
    assert [each["name"] for each in found["periodic"]] == ["each second", "tests.periodic_app.tasks.tidy"]
    assert found["periodic"][1]["next"].endswith("-01-01T01:30:00+00:00")
