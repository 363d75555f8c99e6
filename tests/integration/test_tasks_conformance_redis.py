"""RedisStreamBackend keeps every rule of the conformance suite."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from realtime.tasks import RedisStreamBackend
from realtime.tasks.conformance.suite import BackendSuite
from realtime.tasks.django_api import AnyTask
from realtime.tasks.periodic_tasks import PeriodicTask
from realtime.tasks.schedule import IntervalSchedule
from tests.support.task_workers import ThreadWorker, task_worker

pytestmark = pytest.mark.database_independent


class TestRedisStreamBackend(BackendSuite):
    """In Redis, with a worker in a thread."""

    capabilities = frozenset(
        ["retries", "enqueue_on_commit", "unique_key", "timeout", "wait", "periodic", "survives_worker_death"]
    )
    backend: RedisStreamBackend
    # Those of the workers of this test.
    _periodic_tasks: Sequence[PeriodicTask] = ()

    @pytest.fixture
    def tasks_setting(self, signalbox: Any) -> dict[str, Any]:
        options = {"lease_seconds": 1.0}
        return {
            "default": {
                "BACKEND": "realtime.tasks.RedisStreamBackend",
                "QUEUES": ["default", "other"],
                "OPTIONS": options,
            }
        }

    def worker(self) -> AbstractContextManager[ThreadWorker]:
        return task_worker(self.backend, periodic_tasks=self._periodic_tasks)

    @contextlib.contextmanager
    def periodically(self, seconds: float, task: AnyTask, *args: Any) -> Iterator[None]:
        schedule = IntervalSchedule(seconds)
        self._periodic_tasks = [PeriodicTask(name="again", task=task, schedule=schedule, args=args, kwargs={})]
        yield

    def kill_worker(self, worker: ThreadWorker) -> None:
        worker.die()
