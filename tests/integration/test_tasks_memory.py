"""A backend in memory keeps every rule of the conformance suite, and the suite finds each fault in it."""

import uuid
from contextlib import AbstractContextManager
from typing import Any

import pytest

from realtime.tasks.conformance.suite import CAPABILITIES, BackendSuite, DjangoSuite
from realtime.tasks.django_api import AnyTask, AnyTaskResult
from tests.support.memory_tasks import MemoryBackend, PlainBackend, Worker, enqueue_every, worker_of

pytestmark = pytest.mark.database_independent


def setting_of(cls: type[MemoryBackend], queues: list[str]) -> dict[str, Any]:
    """An entry of `TASKS`; each has a store of its own."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    return {"BACKEND": path, "QUEUES": queues, "OPTIONS": {"store": uuid.uuid4().hex}}


class TestMemoryBackend(BackendSuite):
    """Everything that the suite knows."""

    capabilities = frozenset(CAPABILITIES)

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        return {"default": setting_of(MemoryBackend, ["default", "other"])}

    def worker(self) -> AbstractContextManager[Worker]:
        return worker_of(self.backend)

    def kill_worker(self, worker: Worker) -> None:
        worker.die()

    def periodically(self, seconds: float, task: AnyTask, *args: Any) -> AbstractContextManager[None]:
        return enqueue_every(seconds, task, *args)


class TestPlainBackend(DjangoSuite):
    """It refuses what a backend may leave out. It is not the default one, and it takes any name of a queue."""

    alias = "plain"

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        return {"default": setting_of(MemoryBackend, ["unused"]), "plain": setting_of(PlainBackend, [])}

    def worker(self) -> AbstractContextManager[Worker]:
        return worker_of(self.backend)

    def read_result(self, result: AnyTaskResult) -> AnyTaskResult:
        assert isinstance(self.backend, PlainBackend)
        return MemoryBackend.get_result(self.backend, result.id)
