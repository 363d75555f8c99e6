"""Task workers for tests, and what Redis says of their tasks."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import redis

from realtime.conf import get_settings, keys
from realtime.redis import scripts
from realtime.streams.keys import GroupKeys
from realtime.tasks import waiting
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import AnyTaskResult, task_backends
from realtime.tasks.store import GROUP
from realtime.tasks.worker import TaskWorker
from tests.support.tasks_of_tests import calls, gates

__all__ = ["Tasks", "backend_settings", "tasks_of"]

# Of the workers of most tests: a dead one is found soon.
LEASE_SECONDS = 1.0


def backend_settings(*queues: str, **options: Any) -> dict[str, Any]:
    """One backend in TASKS, with these queues and OPTIONS."""
    return {
        "BACKEND": "realtime.tasks.RedisStreamBackend",
        "QUEUES": list(queues),
        "OPTIONS": {"lease_seconds": LEASE_SECONDS, **options},
    }


class Tasks:
    """
    The tasks of one test, and workers for them.

    Args:
        settings: Django's settings; `configure` changes TASKS.
        client: For questions to Redis.
    """

    def __init__(self, settings: Any, client: redis.Redis) -> None:
        self._settings, self._client = settings, client
        self.configure()

    def configure(self, *queues: str, **options: Any) -> None:
        """Set the queues (by default "default" and "mail") and the OPTIONS of the default backend."""
        self._settings.TASKS = {
            "default": backend_settings(*(queues or ("default", "mail")), **options),
            "other": backend_settings("other", **options),
        }

    @property
    def backend(self) -> RedisStreamBackend:
        """The default backend."""
        found = task_backends["default"]
        assert isinstance(found, RedisStreamBackend)
        return found

    @contextlib.asynccontextmanager
    async def working(
        self,
        *queues: str,
        alias: str = "default",
        concurrency: int = 2,
        url: str = "",
        deadline_seconds: float = 5.0,
    ) -> AsyncIterator[TaskWorker]:
        """A running worker; it is stopped at the end."""
        backend = task_backends[alias]
        assert isinstance(backend, RedisStreamBackend)
        worker = TaskWorker(
            backend,
            queues or sorted(backend.queues),
            concurrency=concurrency,
            consumer=f"test-{secrets.token_hex(4)}",
            url=url or get_settings().redis_url,
        )
        running = asyncio.create_task(worker.run(), name="task worker under test")
        try:
            await worker.wait_ready()
            yield worker
        except BaseException:
            # The test has failed: let its tasks end.
            for gate in gates.values():
                gate.set()
            raise
        finally:
            await worker.stop(deadline_seconds=deadline_seconds)
            await running

    def fields(self, id: str) -> dict[str, str]:
        """The hash of a task."""
        found: Any = self._client.hgetall(self.backend.queue(id.rpartition(".")[0]).task_key(id))
        return {name.decode(): value.decode() for name, value in found.items()}

    def status(self, result: AnyTaskResult) -> str:
        """The status of a task, or "" if there is none."""
        return self.fields(result.id).get("status", "")

    def is_over(self, *results: AnyTaskResult) -> bool:
        """Whether these have finished."""
        return all(self.status(result) in ("SUCCESSFUL", "FAILED") for result in results)

    def left_count(self, queue: str = "default") -> int:
        """How many entries of the queue's stream a worker holds or has parked, or nobody has read."""
        stream = keys().task_queue(queue)
        (group,) = [each for each in self._client.xinfo_groups(stream) if each["name"] == GROUP.encode()]
        unread = self._client.xrange(stream, min=f"({group['last-delivered-id'].decode()}")
        return group["pending"] + len(unread) + self._client.hlen(GroupKeys(stream, GROUP).parked)

    def take_from(self, worker: TaskWorker, queue: str = "default") -> None:
        """Let Redis hand all that a worker holds to others, as if it had been silent for longer than its lease."""
        names = GroupKeys(keys().task_queue(queue), GROUP)
        self._client.delete(names.worker_lease(worker.consumer))
        text = scripts.Script("streams/shared", "streams/members", "streams/reclaim", answer=list).text
        arguments = [GROUP, "", "", worker.consumer, 0, 1, 1000]
        self._client.eval(text, len(names.for_scripts), *names.for_scripts, *arguments)

    def held_count(self, worker: TaskWorker, queue: str = "default") -> int:
        """How many tasks Redis has handed to a worker, and not given to others."""
        names = GroupKeys(keys().task_queue(queue), GROUP)
        owners = self._client.hvals(names.owners)
        parked = sum(owner.decode().startswith(f"{worker.consumer} ") for owner in owners)
        pending = self._client.xpending_range(names.stream, GROUP, "-", "+", 1000, consumername=worker.consumer)
        return parked + len(pending)

    def hand_over(self, id: str, owner: TaskWorker, *others: TaskWorker) -> bool:
        """Take a task from its owner, unless one of the others has it."""
        holder = self.fields(id).get("claim", "").partition(" ")[0]
        if holder == owner.consumer:
            self.take_from(owner, id.rpartition(".")[0])
        return holder in [other.consumer for other in others]

    def clean_up(self, prefix: str) -> None:
        """Delete the tasks that have not finished, which Redis keeps for ever, and those that do not end."""
        for gate in gates.values():
            gate.set()
        gates.clear()
        calls.clear()
        for room in waiting._rooms.values():
            room.close()
        waiting._rooms.clear()
        for key in self._client.scan_iter(match=f"*{prefix}tasks:*}}:task:*", count=1000):
            if self._client.type(key) != b"hash" or self._client.hget(key, "status") in (b"READY", b"RUNNING"):
                unique = self._client.hget(key, "unique") if self._client.type(key) == b"hash" else None
                if unique is not None:
                    self._client.delete(key.partition(b":task:")[0] + b":unique:" + unique)
                self._client.delete(key)


@contextlib.contextmanager
def tasks_of(settings: Any, client: redis.Redis, prefix: str) -> Iterator[Tasks]:
    """The tasks of a test. At its end no gate is closed and nothing waits for a result."""
    tasks = Tasks(settings, client)
    yield tasks
    tasks.clean_up(prefix)
