"""
The service of `manage.py run_task_worker`: a task worker and a scheduler of periodic tasks, in one process.

Owns the worker's name, what runs beside the worker, and the lease of the process that enqueues periodic tasks. Does not
own signals (management.service), the tasks (worker) nor their ticks (scheduler).
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Sequence

from realtime.conf import get_settings, keys
from realtime.redis import clients
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.periodic_tasks import PeriodicTask
from realtime.tasks.scheduler import Scheduler, check_periodic_tasks
from realtime.tasks.worker import TaskWorker

__all__ = ["TaskService"]

logger = logging.getLogger(__name__)


class TaskService:
    """
    Runs a worker of some queues until it is stopped.

    Args:
        backend: The backend whose tasks it runs.
        queues: The names of the queues.
        concurrency: How many tasks run at a time.
        periodic_tasks: The periodic tasks of the backend, of any queue. One process of the site at a time enqueues
            them: the holder of a lease.

    Guarantees:
        Outages of Redis do not end `run()`.
    """

    def __init__(
        self,
        backend: RedisStreamBackend,
        queues: Sequence[str],
        *,
        concurrency: int,
        periodic_tasks: Sequence[PeriodicTask] = (),
    ) -> None:
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # Set when all queues are read.
        self.ready = asyncio.Event()
        self._backend, self._periodic_tasks = backend, periodic_tasks
        self._outage = Outage("Redis")
        self._worker = TaskWorker(
            backend,
            queues,
            concurrency=concurrency,
            consumer=self.consumer,
            url=get_settings().redis_url,
            outage=self._outage,
        )
        self._queues = queues
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0

    async def run(self) -> None:
        """
        Work until `stop()`. Can be called once.

        Raises:
            ImproperlyConfigured: A periodic task cannot be enqueued as it is declared.
            ExceptionGroup: The worker failed because of a defect.
        """
        check_periodic_tasks(self._backend, self._periodic_tasks)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._worker.run(), name="task worker")
            ready = tasks.create_task(self._set_ready(), name="ready")
            scheduler = tasks.create_task(self._schedule(), name="periodic tasks")
            await self._stopping.wait()
            ready.cancel()
            scheduler.cancel()
            await self._worker.stop(deadline_seconds=self._deadline_seconds)

    def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """End `run()`: let running tasks finish within the deadline, and give back the rest. Idempotent."""
        if not self._stopping.is_set():
            self._deadline_seconds = deadline_seconds
            self._stopping.set()

    async def _set_ready(self) -> None:
        await self._worker.wait_ready()
        logger.info("the task worker of %s is running, consumer %s", " and ".join(self._queues), self.consumer)
        self.ready.set()

    async def _schedule(self) -> None:
        """Enqueue periodic tasks while this process holds the lease, until cancelled."""
        if not self._periodic_tasks:
            return
        client = clients.async_publisher(get_settings().redis_url)
        try:
            scheduler = Scheduler(self._backend, self._periodic_tasks, client, outage=self._outage)
            key = keys().lease(f"tasks:{self._backend.alias}:periodic")
            lease = Lease(client, key, holder=self.consumer, outage=self._outage)
            await lease.run_while_held(scheduler.run)
        finally:
            await client.aclose()
