"""A task worker in a thread of the tests, which may end as an orderly one or as a killed one."""

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator, Sequence

from realtime.conf import get_settings
from realtime.tasks.attempt import Attempt
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.worker import TaskWorker

__all__ = ["ThreadWorker", "task_worker"]


class ThreadWorker:
    """
    A TaskWorker on an event loop of its own.

    Args:
        backend: The backend whose tasks it runs.
        queues: Their names; by default all of the backend.
        concurrency: How many tasks run at a time.
    """

    def __init__(self, backend: RedisStreamBackend, queues: Sequence[str] = (), *, concurrency: int = 1) -> None:
        self.consumer = f"test-{secrets.token_hex(4)}"
        self.worker: TaskWorker
        self._backend, self._concurrency = backend, concurrency
        self._queues = queues or sorted(backend.queues)
        self._loop = asyncio.new_event_loop()
        self._started, self._is_dead = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=f"worker {self.consumer}", daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Stop it in order, and wait for its end. Does nothing if it is dead."""
        if not self._is_dead:
            stopping = self.worker.stop(deadline_seconds=deadline_seconds)
            asyncio.run_coroutine_threadsafe(stopping, self._loop).result()
            self._thread.join()

    def die(self) -> None:
        """End it without any goodbye: it gives nothing back, and what its threads still do has no effect."""
        self._is_dead = True
        self._loop.call_soon_threadsafe(self._break_off)
        self._thread.join()

    def _break_off(self) -> None:
        async def leave(attempts: Sequence[Attempt]) -> None: ...

        for queue in self.worker._queues.values():
            queue._leave = leave  # type: ignore[method-assign]
        self._running.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._work())
        self._loop.close()

    async def _work(self) -> None:
        self.worker = TaskWorker(
            self._backend,
            self._queues,
            concurrency=self._concurrency,
            consumer=self.consumer,
            url=get_settings().redis_url,
        )
        self._running = asyncio.create_task(self.worker.run())
        ready = asyncio.create_task(self.worker.wait_ready())
        await asyncio.wait([self._running, ready], return_when=asyncio.FIRST_COMPLETED)
        self._started.set()
        await self._running


@contextlib.contextmanager
def task_worker(
    backend: RedisStreamBackend, queues: Sequence[str] = (), *, concurrency: int = 1
) -> Iterator[ThreadWorker]:
    """Run a worker in the block."""
    worker = ThreadWorker(backend, queues, concurrency=concurrency)
    try:
        yield worker
    finally:
        worker.stop()
