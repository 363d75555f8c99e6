"""RedisStreamBackend keeps every rule of the conformance suite."""

from contextlib import AbstractContextManager
from typing import Any

import pytest

from realtime.tasks import RedisStreamBackend
from realtime.tasks.conformance.suite import BackendSuite
from tests.support.task_workers import ThreadWorker, task_worker

pytestmark = pytest.mark.database_independent


class TestRedisStreamBackend(BackendSuite):
    """In Redis, with a worker in a thread."""

    capabilities = frozenset(["retries", "enqueue_on_commit", "unique_key", "timeout", "wait", "survives_worker_death"])
    backend: RedisStreamBackend

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
        return task_worker(self.backend)

    def kill_worker(self, worker: ThreadWorker) -> None:
        worker.die()
