"""No task is lost, and none runs twice without a reason: workers and Redis are killed at any moment."""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from realtime.redis.keys import Keys
from realtime.tasks.record import TaskFields, errors_of, workers_of
from realtime.tasks.store import GROUP
from tests.support.redis_server import RedisServer
from tests.support.task_site import ROOT, SECONDS, TaskSite, Worker, pid_of
from tests.support.waiting import wait_until_sync
from tests.task_app.notes import BEGIN, END, RAISED, Note
from tests.task_app.produce import LEAST

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

QUEUES = ("default", "mail")
WORKERS, PRODUCERS = 3, 2
WORKER_KILLS, REDIS_KILLS = 3, 3
LOST = "realtime.exceptions.WorkerLost"
# How the error of an attempt is noted by its function.
RAISING = {"builtins.ValueError", "realtime.exceptions.PermanentError"}
# A worker says so if it was held up for longer than its lease: then others have run its tasks, too.
HELD_UP = ("no longer this worker's", "is another worker's now")
DEATHS_LIMIT = 3


class Task(NamedTuple):
    """A task at the end, by its hash in Redis."""

    id: str
    fields: TaskFields
    workers: list[str]
    errors: list[str]

    @property
    def status(self) -> str:
        """SUCCESSFUL or FAILED, one hopes."""
        return self.fields[b"status"].decode()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TaskSite]:
    with RedisServer(append_only=True) as server, TaskSite(tmp_path, server) as site:
        yield site


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_no_task_is_lost_when_workers_and_redis_are_killed(site: TaskSite, seed: int) -> None:
    """Each that was confirmed ends as its function demands, and each run of a function is in its result."""
    dice = random.Random(seed)  # noqa: S311 - the test is the same each time
    until = site.directory / "until"
    producers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.task_app.produce", f"{seed}.{number}", _confirmed(site, number), until],
            **{"cwd": ROOT, "env": site.environment},
        )
        for number in range(PRODUCERS)
    ]
    workers = [site.start("--concurrency=4") for _ in range(WORKERS)]
    faults = ["worker"] * WORKER_KILLS + ["Redis"] * REDIS_KILLS
    dice.shuffle(faults)
    killed: set[int] = set()
    try:
        for fault in faults:
            victim = _a_working_one(site, workers, dice)
            time.sleep(dice.uniform(0, 0.5))
            if fault == "Redis":
                site.server.kill()
                time.sleep(dice.uniform(0, 0.3))
            if fault == "worker" or dice.random() < 0.5:
                victim.kill()
                killed.add(victim.pid)
                workers[workers.index(victim)] = site.start("--concurrency=4")
            if fault == "Redis":
                time.sleep(dice.uniform(0, 0.3))
                site.server.start()
        until.touch()
        for producer in producers:
            assert producer.wait(SECONDS) == 0
    finally:
        for producer in producers:
            producer.kill()
            producer.wait()
    confirmed = [
        json.loads(line)
        for number in range(PRODUCERS)
        for line in Path(_confirmed(site, number)).read_text().splitlines()
    ]
    wait_until_sync(lambda: all(map(site.is_idle, QUEUES)), seconds=SECONDS)
    for worker in workers:
        worker.wait_ready()
        worker.process.terminate()
    for worker in workers:
        assert worker.wait_end() == 0, worker.log
    tasks = {task.id: task for queue in QUEUES for task in _tasks(site, queue)}
    assert_as_demanded(tasks, confirmed)
    assert_each_run_is_explained(site, tasks, killed)
    assert_unique(tasks, site.notes())
    assert_not_early(confirmed, site.notes())
    assert_no_key_is_left(site)
    for worker in site.workers:
        assert not [line for line in worker.log.splitlines() if " ERROR   realtime" in line]


def _confirmed(site: TaskSite, number: int) -> str:
    return str(site.directory / f"confirmed{number}")


def _a_working_one(site: TaskSite, workers: list[Worker], dice: random.Random) -> Worker:
    """Wait until workers have begun tasks, and choose one of them."""
    notes = site.directory / "notes"

    def working() -> list[Worker]:
        for worker in workers:
            assert worker.process.poll() is None, worker.log
        text = notes.read_bytes() if notes.exists() else b""
        return [worker for worker in workers if b'"pid": %d,' % worker.pid in text]

    return dice.choice(wait_until_sync(working, seconds=SECONDS))


def _tasks(site: TaskSite, queue: str) -> Iterator[Task]:
    prefix = Keys().task(queue, "")
    for key in site.client.scan_iter(match=f"{prefix.replace('{', '[{]')}*", count=1000):
        fields: Any = site.client.hgetall(key)
        errors = [error.exception_class_path for error in errors_of(fields)]
        yield Task(key.decode().removeprefix(prefix), fields, workers_of(fields), errors)


def assert_as_demanded(tasks: Mapping[str, Task], confirmed: list[dict[str, Any]]) -> None:
    """Each confirmed task is there and has ended as its function demands; and no other is unfinished."""
    assert len(confirmed) >= PRODUCERS * LEAST
    assert {task.status for task in tasks.values()} == {"SUCCESSFUL", "FAILED"}
    missing = [each for each in confirmed if each["id"] not in tasks]
    assert not missing
    wrong = []
    for each in confirmed:
        task = tasks[each["id"]]
        if task.errors.count(LOST) >= DEATHS_LIMIT:
            # Three workers died with it: that is what it must tell.
            is_right = task.status == "FAILED" and task.errors.count(LOST) == DEATHS_LIMIT
        elif each["kind"] in ("always_fails", "rejects"):
            is_right = task.status == "FAILED" and task.errors[-1] in RAISING
        elif each["kind"] == "fails_at_first":
            # Attempts that were lost count.
            value = json.loads(task.fields.get(b"value", b"0"))
            is_right = task.status == "SUCCESSFUL" and value == len(task.workers) >= each["expected"]
        else:
            is_right = task.status == "SUCCESSFUL" and json.loads(task.fields[b"value"]) == each["expected"]
        if not is_right:
            wrong.append((each, task))
    assert not wrong


def assert_each_run_is_explained(site: TaskSite, tasks: Mapping[str, Task], killed: set[int]) -> None:
    """The notes of the functions agree with `worker_ids` and `errors`; attempts were lost only by kills."""
    held_up = {worker.pid for worker in site.workers if any(text in worker.log for text in HELD_UP)}
    notes: defaultdict[tuple[str, int], list[Note]] = defaultdict(list)
    for note in site.notes():
        notes[note.task, note.attempt].append(note)
    lost_count = 0
    for task in tasks.values():
        outcomes = [*task.errors, *(["success"] if task.status == "SUCCESSFUL" else [])]
        assert len(outcomes) == len(task.workers), task
        for attempt, (outcome, worker) in enumerate(zip(outcomes, task.workers, strict=True), start=1):
            found = notes.pop((task.id, attempt), [])
            assert {note.worker for note in found} <= {worker}, (task, found)
            whats = [note.what for note in found]
            if outcome == LOST:
                lost_count += 1
                assert pid_of(worker) in killed | held_up, (task, found)
                assert whats in ([], [BEGIN], [BEGIN, END], [BEGIN, RAISED]), (task, found)
            else:
                assert whats == [BEGIN, RAISED if outcome in RAISING else END], (task, found)
    assert not notes, "these runs are in no result"
    assert lost_count, "no kill has hit a task"


def assert_unique(tasks: Mapping[str, Task], notes: list[Note]) -> None:
    """Of the tasks of a queue with the same unique key, one runs only after the end of another."""
    runs: defaultdict[tuple[str, bytes], defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, note in enumerate(notes):
        if unique := tasks[note.task].fields.get(b"unique"):
            runs[note.task.partition(".")[0], unique][note.task].append(place)
    assert runs
    for of_key in runs.values():
        for earlier, later in pairwise(sorted(of_key.values())):
            assert earlier[-1] < later[0]


def assert_not_early(confirmed: list[dict[str, Any]], notes: list[Note]) -> None:
    """No task begins before its time."""
    began: dict[str, float] = {}
    for note in notes:
        began.setdefault(note.task, note.at)
    assert not [each for each in confirmed if each["id"] in began and began[each["id"]] < each["due"]]


def assert_no_key_is_left(site: TaskSite) -> None:
    """What stays is permanent by name, or expires."""
    names = Keys()
    permanent = {names.streams()}
    for queue in QUEUES:
        stream = names.task_queue(queue)
        permanent |= {stream, names.group_made(stream, GROUP), names.successful_tasks(queue), names.failed_tasks(queue)}
    left = [key.decode() for key in site.client.scan_iter(count=1000) if site.client.ttl(key) == -1]
    assert not set(left) - permanent
