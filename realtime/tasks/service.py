"""
The service of `manage.py run_task_worker`: a task worker, in one process.

Owns what runs beside the worker, and its name. Does not own signals (management.service), nor the tasks (worker).
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Sequence

from realtime.conf import get_settings
from realtime.tasks.backend import RedisStreamBackend
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

    Guarantees:
        Outages of Redis do not end `run()`.
    """

    def __init__(self, backend: RedisStreamBackend, queues: Sequence[str], *, concurrency: int) -> None:
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # Set when all queues are read.
        self.ready = asyncio.Event()
        self._worker = TaskWorker(
            backend, queues, concurrency=concurrency, consumer=self.consumer, url=get_settings().redis_url
        )
        self._queues = queues
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0

    async def run(self) -> None:
        """
        Work until `stop()`. Can be called once.

        Raises:
            ExceptionGroup: The worker failed because of a defect.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._worker.run(), name="task worker")
            ready = tasks.create_task(self._set_ready(), name="ready")
            await self._stopping.wait()
            ready.cancel()
            await self._worker.stop(deadline_seconds=self._deadline_seconds)

    def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """End `run()`: let running tasks finish within the deadline, and leave the rest to others. Idempotent."""
        if not self._stopping.is_set():
            self._deadline_seconds = deadline_seconds
            self._stopping.set()

    async def _set_ready(self) -> None:
        await self._worker.wait_ready()
        logger.info("tasks of %s running, consumer %s", " and ".join(self._queues), self.consumer)
        self.ready.set()
