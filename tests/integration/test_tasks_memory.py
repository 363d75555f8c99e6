"""A backend in memory keeps every rule of the conformance suite, and the suite finds each fault in it."""

import uuid
from contextlib import AbstractContextManager
from typing import Any

import pytest

from realtime.tasks.conformance.suite import CAPABILITIES, BackendSuite
from realtime.tasks.django_api import AnyTask
from tests.support.memory_tasks import MemoryBackend, Worker, enqueue_every, worker_of

pytestmark = pytest.mark.database_independent


class TestMemoryBackend(BackendSuite):
    """Everything that the suite knows."""

    capabilities = frozenset(CAPABILITIES)

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        cls = f"{MemoryBackend.__module__}.{MemoryBackend.__qualname__}"
        options = {"store": uuid.uuid4().hex}
        return {"default": {"BACKEND": cls, "QUEUES": ["default", "other"], "OPTIONS": options}}

    def worker(self) -> AbstractContextManager[Worker]:
        return worker_of(self.backend)

    def kill_worker(self, worker: Worker) -> None:
        worker.die()

    def periodically(self, seconds: float, task: AnyTask, *args: Any) -> AbstractContextManager[None]:
        return enqueue_every(seconds, task, *args)
