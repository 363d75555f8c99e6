"""`manage.py run_task_worker` as a process: real signals, outages of Redis, and tasks that end or hold up a process."""

import importlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime import conf
from realtime.tasks import RedisStreamBackend
from realtime.tasks.django_api import TaskResultStatus, task_backends
from tests.support.redis_server import RedisServer
from tests.support.task_site import SECONDS, TaskSite, Worker, pid_of
from tests.support.waiting import wait_until_sync

# Several processes start one after another, which takes long on a machine with two busy cores.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

LOST = "realtime.exceptions.WorkerLost"
STOPPED = "realtime.exceptions.WorkerStopped"
TIMED_OUT = "realtime.exceptions.TaskTimedOut"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(append_only=True) as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, server: RedisServer, settings: Any) -> Iterator[TaskSite]:
    """A site without workers, on which this process may enqueue."""
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": server.url, "KEY_PREFIX": ""}
    task_backends["default"] = RedisStreamBackend("default", {"QUEUES": ["default", "mail"], "OPTIONS": {}})
    with TaskSite(tmp_path, server) as site:
        yield site
    del task_backends["default"]
    conf.sync_redis().close()


@pytest.fixture
def tasks(site: TaskSite) -> Any:
    """The tasks; imported when the backend is there, because that makes them RedisTasks."""
    return importlib.import_module("tests.task_app.tasks")


def wait_for_end(*results: Any) -> None:
    """Wait until tasks have finished."""
    for result in results:
        wait_until_sync(lambda result=result: result.refresh() or result.is_finished, seconds=SECONDS)


def errors_of(result: Any) -> list[str]:
    return [error.exception_class_path for error in result.errors]


def pids_of(result: Any) -> list[int]:
    return [pid_of(worker) for worker in result.worker_ids]


# Signals --------------------------------------------------------------------------------------------------------------


def test_sigterm_lets_tasks_finish_and_gives_back_those_that_have_not_begun(
    site: TaskSite, tasks: Any, tmp_path: Path
) -> None:
    """Another worker runs these at once, and none of their attempts was counted."""
    # Nothing of a dead worker would be run during this test.
    first = site.start_ready("--concurrency=3", TASK_LEASE_SECONDS="600")
    running = [tasks.holds.enqueue(str(tmp_path / "go")), tasks.aholds.enqueue(str(tmp_path / "go"))]
    for result in running:
        site.wait_for_notes("begin", result.id)
    blocking = tasks.holds.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", blocking.id)
    behind = [tasks.quick.enqueue(number) for number in range(20)]
    first.signal(signal.SIGTERM)
    first.wait_for("SIGTERM: finishing running work")
    second = site.start_ready(TASK_LEASE_SECONDS="600")
    wait_for_end(*behind)
    assert first.process.poll() is None, "it waits for what runs"
    assert {(result.status, result.attempts, *pids_of(result)) for result in behind} == {
        (TaskResultStatus.SUCCESSFUL, 1, second.pid)
    }
    (tmp_path / "go").touch()
    assert first.wait_end() == 0
    wait_for_end(*running, blocking)
    for result in (*running, blocking):
        assert (result.status, pids_of(result), result.errors) == (TaskResultStatus.SUCCESSFUL, [first.pid], [])
    assert "stopped: running work is finished, or left to other workers" in first.log
    wait_until_sync(site.is_idle, seconds=SECONDS)


def test_tasks_that_were_fetched_ahead_are_given_back_by_sigterm(site: TaskSite, tasks: Any, tmp_path: Path) -> None:
    """They are in a worker whose only thread is busy. Their attempt is recorded, and taken back."""
    first = site.start_ready("--concurrency=1", TASK_LEASE_SECONDS="600")
    # So that it expects short tasks, and fetches ahead.
    short = [tasks.quick.enqueue(number) for number in range(200)]
    wait_for_end(*short)
    results = [tasks.waits.enqueue(0.05) for _ in range(300)]
    site.wait_for_notes("end", results[0].id)
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    site.start_ready("--concurrency=20", TASK_LEASE_SECONDS="600")
    wait_for_end(*results)
    assert {(result.status, result.attempts, len(result.errors)) for result in results} == {
        (TaskResultStatus.SUCCESSFUL, 1, 0)
    }
    assert len(site.notes("begin")) == len(site.notes("end")) == len(short) + len(results)
    wait_until_sync(site.is_idle, seconds=SECONDS)


def test_a_task_longer_than_the_deadline_is_left_to_others(site: TaskSite, tasks: Any, tmp_path: Path) -> None:
    """At once, without waiting for a lease; both kinds. The attempt that was cut off is recorded."""
    go = str(tmp_path / "go")
    first = site.start_ready("--deadline=0.2", TASK_LEASE_SECONDS="600")
    results = [tasks.holds.enqueue(go), tasks.aholds.enqueue(go)]
    for result in results:
        site.wait_for_notes("begin", result.id)
    first.signal(signal.SIGTERM)
    first.wait_end()
    second = site.start_ready(TASK_LEASE_SECONDS="600")
    for result in results:
        site.wait_for_notes("begin", result.id, count=2)
    (tmp_path / "go").touch()
    wait_for_end(*results)
    for result in results:
        assert result.status == TaskResultStatus.SUCCESSFUL
        assert pids_of(result) == [first.pid, second.pid]
        assert errors_of(result) == [STOPPED]


def test_a_second_ctrl_c_ends_it_at_once(site: TaskSite, tasks: Any, tmp_path: Path) -> None:
    worker = site.start_ready()
    result = tasks.holds.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", result.id)
    worker.signal(signal.SIGINT)
    worker.wait_for("SIGINT: finishing running work")
    # As a supervisor in the same terminal sends it. It does not count as a second Ctrl-C.
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)
    assert worker.wait_end() == 1
    assert "a second Ctrl-C: exiting at once" in worker.log
    (tmp_path / "go").touch()
    site.start_ready()
    wait_for_end(result)
    assert (result.status, errors_of(result)) == (TaskResultStatus.SUCCESSFUL, [LOST])


# Redis ----------------------------------------------------------------------------------------------------------------


def test_redis_is_waited_for_at_the_start_and_later(
    site: TaskSite, tasks: Any, server: RedisServer, tmp_path: Path
) -> None:
    """A task that ends during an outage is recorded after it, and is not run again."""
    server.kill()
    worker = site.start()
    worker.wait_for("Redis is unavailable")
    server.start()
    worker.wait_ready()
    result = tasks.holds.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", result.id)
    server.kill()
    worker.wait_for("Redis is unavailable", count=2)
    (tmp_path / "go").touch()
    site.wait_for_notes("end", result.id)
    server.start()
    worker.wait_for("Redis is available again", count=2)
    wait_for_end(result, another := tasks.quick.enqueue(1))
    assert (result.status, result.attempts, result.errors) == (TaskResultStatus.SUCCESSFUL, 1, [])
    assert another.return_value == 1
    assert len(site.notes("begin", task=result.id)) == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert "Traceback" not in worker.log


def test_an_outage_longer_than_a_lease_takes_no_task_from_its_worker(
    site: TaskSite, tasks: Any, server: RedisServer, tmp_path: Path
) -> None:
    """All leases have expired when Redis is available again. The workers renew them first."""
    workers = [site.start_ready("--concurrency=2", TASK_LEASE_SECONDS="5") for _ in range(2)]
    results = [tasks.holds.enqueue(str(tmp_path / "go")) for _ in range(4)]
    for result in results:
        site.wait_for_notes("begin", result.id)
    server.kill()
    # Nothing that can be waited for tells that a lease is over while Redis is unavailable.
    time.sleep(6)
    server.start()
    for worker in workers:
        worker.wait_for("Redis is available again")
    (tmp_path / "go").touch()
    wait_for_end(*results, tasks.quick.enqueue(1))
    for result in results:
        assert (result.status, result.attempts, result.errors) == (TaskResultStatus.SUCCESSFUL, 1, [])
        assert len(site.notes("begin", task=result.id)) == 1


def test_sigterm_during_an_outage_ends_it_by_its_deadline(
    site: TaskSite, tasks: Any, server: RedisServer, tmp_path: Path
) -> None:
    """What it ran and could not record runs again in another worker."""
    first = site.start_ready("--deadline=1")
    running = tasks.holds.enqueue(str(tmp_path / "later"))
    ended = tasks.holds.enqueue(str(tmp_path / "go"))
    for result in (running, ended):
        site.wait_for_notes("begin", result.id)
    server.kill()
    (tmp_path / "go").touch()
    site.wait_for_notes("end", ended.id)
    first.signal(signal.SIGTERM)
    first.wait_end()
    assert "Traceback" not in first.log
    server.start()
    (tmp_path / "later").touch()
    site.start_ready()
    wait_for_end(running, ended)
    for result in (running, ended):
        assert (result.status, errors_of(result)) == (TaskResultStatus.SUCCESSFUL, [LOST])
    wait_until_sync(site.is_idle, seconds=SECONDS)


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--queues=mail,post,x"], "there is no queue 'post' and no queue 'x'; queues: default, mail"),
        (["--queues=,"], "there is no name in it"),
        (["--backend=nope"], "'nope'"),
        (["--backend=at once"], 'the backend of TASKS["at once"] is ImmediateBackend, which has no worker here'),
        (["--backend=any"], "name those of this worker by --queues"),
        (["--concurrency=0"], "'0' is not a number from 1 to 1000"),
        (["--concurrency=many"], "'many' is not a number from 1 to 1000"),
        (["--deadline=-1"], "'-1' is not a number of seconds from 0 to 86400"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(site: TaskSite, arguments: list[str], says: str) -> None:
    worker = site.start(*arguments)
    assert worker.wait_end() != 0
    assert says in worker.log.splitlines()[-1]
    assert "Traceback" not in worker.log


def test_it_says_when_it_is_ready_and_when_it_has_stopped(site: TaskSite, tasks: Any) -> None:
    """Also in a project that logs warnings only. It runs the queues that it is told, and no others."""
    worker = site.start("--queues=mail", LOG_LEVEL="WARNING")
    worker.wait_for("run_task_worker: queue mail running; Ctrl-C or SIGTERM stops it")
    other, own = tasks.quick.enqueue(1), tasks.quick.using(queue_name="mail").enqueue(2)
    wait_for_end(own)
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert [line for line in worker.log.splitlines() if "django.tasks: Task id=" not in line] == [
        "run_task_worker: queue mail running; Ctrl-C or SIGTERM stops it",
        "run_task_worker: stopped: running work is finished, or left to other workers",
    ]
    other.refresh()
    assert other.status == TaskResultStatus.READY


# Tasks that end or hold up the process --------------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["exit", "kill", "crash"])
def test_a_task_that_kills_its_workers_fails_and_takes_no_other_with_it(site: TaskSite, tasks: Any, how: str) -> None:
    """Those that ran beside it run again. The killer has as many attempts as it may have deaths."""
    others = [tasks.waits.enqueue(0.2) for _ in range(12)]
    killer = tasks.kills.enqueue(how)
    others += [tasks.waits.enqueue(0.2) for _ in range(12)]
    dead: list[Worker] = []
    worker = site.start("--concurrency=8")

    def is_over() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:
            dead.append(worker)
            worker = site.start("--concurrency=8")
        killer.refresh()
        return killer.is_finished

    wait_until_sync(is_over, seconds=2 * SECONDS)
    wait_for_end(*others)
    assert killer.status == TaskResultStatus.FAILED
    assert errors_of(killer) == [LOST] * 3
    assert pids_of(killer) == [each.pid for each in dead]
    assert killer.worker_ids[-1] in killer.errors[-1].traceback
    assert [result.status for result in others] == [TaskResultStatus.SUCCESSFUL] * len(others)
    assert {error for result in others for error in errors_of(result)} <= {LOST}
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    wait_until_sync(site.is_idle, seconds=SECONDS)


def test_the_late_result_of_a_worker_that_stood_still_is_refused(site: TaskSite, tasks: Any, tmp_path: Path) -> None:
    """Another worker has run its task again. Both runs are recorded, one as lost."""
    first = site.start_ready()
    result = tasks.holds.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", result.id)
    first.signal(signal.SIGSTOP)
    second = site.start_ready()
    site.wait_for_notes("begin", result.id, count=2)
    (tmp_path / "go").touch()
    wait_for_end(result)
    first.signal(signal.SIGCONT)
    first.wait_for(f"the task {result.id} is another worker's now")
    result.refresh()
    assert (result.status, pids_of(result), errors_of(result)) == (
        TaskResultStatus.SUCCESSFUL,
        [first.pid, second.pid],
        [LOST],
    )
    # It goes on with other tasks.
    second.signal(signal.SIGTERM)
    assert second.wait_end() == 0
    another = tasks.quick.enqueue(1)
    wait_for_end(another)
    assert pids_of(another) == [first.pid]
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    wait_until_sync(site.is_idle, seconds=SECONDS)


def test_a_task_that_hangs_in_c_fails_and_its_thread_is_replaced(site: TaskSite, tasks: Any) -> None:
    """Only thread of the worker; the next task runs while it still hangs. SIGTERM does not wait for it."""
    worker = site.start_ready("--concurrency=1")
    stuck = tasks.hangs_in_c.using(timeout=0.2, max_attempts=5).enqueue(600)
    site.wait_for_notes("begin", stuck.id)
    behind = tasks.quick.enqueue(1)
    wait_for_end(stuck, behind)
    assert (stuck.status, errors_of(stuck), stuck.attempts) == (TaskResultStatus.FAILED, [TIMED_OUT], 1)
    assert behind.return_value == 1
    worker.wait_for(f"the task {stuck.id} still runs 5 s after its timeout: it has failed, and its thread is given up")
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0


@pytest.mark.timeout(900)
def test_a_worker_whose_event_loop_is_blocked_ends_and_its_tasks_run_elsewhere(
    site: TaskSite, tasks: Any, tmp_path: Path
) -> None:
    """An async task that never awaits. The log names its line. After two leases the process ends by itself."""
    first = site.start_ready()
    beside = tasks.holds.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", beside.id)
    blocking = tasks.blocks_the_loop.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", blocking.id)
    assert first.wait_end() == 1
    assert "in blocks_the_loop" in first.log
    assert "the event loop has been blocked for" in first.log
    (tmp_path / "go").touch()
    second = site.start_ready()
    wait_for_end(beside, blocking)
    for result in (beside, blocking):
        assert (result.status, pids_of(result)) == (TaskResultStatus.SUCCESSFUL, [first.pid, second.pid])
        assert errors_of(result) == [LOST]
    second.signal(signal.SIGTERM)
    assert second.wait_end() == 0


def test_a_signal_ends_a_blocked_worker_at_once(site: TaskSite, tasks: Any, tmp_path: Path) -> None:
    worker = site.start_ready("--deadline=600", TASK_LEASE_SECONDS="600")
    blocking = tasks.blocks_the_loop.enqueue(str(tmp_path / "go"))
    site.wait_for_notes("begin", blocking.id)
    worker.wait_for("the event loop is blocked")
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 1
