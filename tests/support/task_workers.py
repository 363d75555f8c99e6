"""A task worker in a thread of the tests, which may end as an orderly one or as a killed one."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from realtime.tasks.attempt import Attempt
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.periodic_tasks import PeriodicTask
from realtime.tasks.service import TaskService

__all__ = ["ThreadWorker", "task_worker"]


class ThreadWorker:
    """
    A TaskService on an event loop of its own.

    Args:
        backend: The backend whose tasks it runs.
        queues: Their names; by default all of the backend.
        concurrency: How many tasks run at a time.
        periodic_tasks: Those that it enqueues, if it holds their lease.
    """

    def __init__(
        self,
        backend: RedisStreamBackend,
        queues: Sequence[str] = (),
        *,
        concurrency: int = 1,
        periodic_tasks: Sequence[PeriodicTask] = (),
    ) -> None:
        self._service: TaskService
        self._backend, self._concurrency, self._periodic_tasks = backend, concurrency, periodic_tasks
        self._queues = queues or sorted(backend.queues)
        self._loop = asyncio.new_event_loop()
        self._started, self._is_dead = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="task worker under test", daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Stop it in order, and wait for its end. Does nothing if it is dead."""
        if not self._is_dead:
            self._loop.call_soon_threadsafe(lambda: self._service.stop(deadline_seconds=deadline_seconds))
            self._thread.join()

    def die(self) -> None:
        """End it without any goodbye: it gives nothing back, and what its threads still do has no effect."""
        self._is_dead = True
        self._loop.call_soon_threadsafe(self._break_off)
        self._thread.join()

    def _break_off(self) -> None:
        async def leave(attempts: Sequence[Attempt]) -> None: ...

        for queue in self._service._worker._queues.values():
            queue._leave = leave  # type: ignore[method-assign]
        self._running.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._work())
        self._loop.close()

    async def _work(self) -> None:
        self._service = TaskService(
            self._backend, self._queues, concurrency=self._concurrency, periodic_tasks=self._periodic_tasks
        )
        self._running = asyncio.create_task(self._service.run())
        ready = asyncio.create_task(self._service.ready.wait())
        await asyncio.wait([self._running, ready], return_when=asyncio.FIRST_COMPLETED)
        self._started.set()
        await self._running


@contextlib.contextmanager
def task_worker(backend: RedisStreamBackend, queues: Sequence[str] = (), **options: Any) -> Iterator[ThreadWorker]:
    """Run a worker in the block; the arguments are those of ThreadWorker."""
    worker = ThreadWorker(backend, queues, **options)
    try:
        yield worker
    finally:
        worker.stop()
