"""
The service of `manage.py run_log_sink`: a worker for each sink, in one process.

Owns which workers run, and what they share. Does not own signals (the command) nor the work of the sinks.
"""

import asyncio
import functools
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from realtime.conf import get_settings, keys
from realtime.logs.handler import DEFAULT_STREAM, STREAM_LIMIT, is_in_sink
from realtime.logs.intake import Intake
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.sinks.base import Sink, SinkHandler, Workplace, all_sinks
from realtime.sinks.storage import storage_of
from realtime.streams import StreamWorker

__all__ = ["SinkService"]

# Threads of each sink: for the project's functions, compression and the storage.
THREADS = 8


class SinkService:
    """
    Args:
        sinks: Those to run.
        channels: Redis channels from which log records are taken into the stream `logs`; one of all processes does it.

    Guarantees:
        Outages of Redis and of the storages do not end `run()`.
    """

    def __init__(self, sinks: Sequence[type[Sink]], *, channels: Sequence[str] = ()) -> None:
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # Set when all workers have started to read.
        self.ready = asyncio.Event()
        self._sinks = [sink() for sink in sinks]
        self._workers: dict[Sink, StreamWorker] = {}
        self._channels = channels
        self._redis_outage = Outage("Redis")
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0

    async def run(self) -> None:
        """
        Work until `stop()`; once.

        Raises:
            ImproperlyConfigured: A sink needs a library that is not installed.
            ExceptionGroup: A worker is defective.
        """
        is_in_sink.set(True)
        url = get_settings().redis_url
        redis = clients.async_publisher(url)
        readers = [clients.async_reader(url) for _ in self._sinks]
        executors = [ThreadPoolExecutor(THREADS, f"sink {sink.name}") for sink in self._sinks]
        handlers: list[SinkHandler] = []
        try:
            for sink, reader, executor in zip(self._sinks, readers, executors, strict=True):
                storage = storage_of(sink.url, sink.storage_options)
                await asyncio.get_running_loop().run_in_executor(executor, storage.tidy)
                workplace = Workplace(
                    storage=storage,
                    executor=executor,
                    redis=redis,
                    redis_outage=self._redis_outage,
                    files_key=keys().written_files(sink.stream, sink.name),
                    consumer=self.consumer,
                    still_held=functools.partial(self._still_held, sink),
                )
                handler = sink.make_handler(workplace)
                handlers.append(handler)
                self._workers[sink] = self._make_worker(sink, handler, reader, redis)
            await self._run_workers([*self._workers.values()], redis, url)
        finally:
            for handler in handlers:
                await handler.close()
            for executor in executors:
                executor.shutdown(wait=False, cancel_futures=True)
            for client in (redis, *readers):
                await client.aclose()

    def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """End `run()`: finish and ack running work within the deadline, and leave the rest to others. Idempotent."""
        if not self._stopping.is_set():
            self._deadline_seconds = deadline_seconds
            self._stopping.set()

    def _make_worker(self, sink: Sink, handler: SinkHandler, reader: object, redis: object) -> StreamWorker:
        return StreamWorker(
            reader,  # type: ignore[arg-type]
            keys().stream(sink.stream),
            sink.name,
            handler.handle,
            redis=redis,  # type: ignore[arg-type]
            registry_key=keys().streams(),
            # Trimming must wait for those that do not run in this process, too.
            groups=[other.name for other in all_sinks() if other.stream == sink.stream],
            batch_size=sink.batch_size,
            concurrency=sink.concurrency,
            lease_seconds=sink.lease_seconds,
            max_attempts=sink.max_attempts,
            consumer=self.consumer,
            outage=self._redis_outage,
            on_stop=handler.on_stop,
            on_acked=handler.on_acked,
        )

    async def _still_held(self, sink: Sink, ids: Iterable[bytes]) -> set[bytes]:
        return await self._workers[sink].still_held(ids)

    async def _run_workers(self, workers: Sequence[StreamWorker], redis: Any, url: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._channels:
                lease = Lease(redis, keys().lease("log intake"), holder=self.consumer, outage=self._redis_outage)
                work = functools.partial(self._run_intake, redis, url)
                intake = tasks.create_task(lease.run_while_held(work), name="intake lease")
            for worker, sink in zip(workers, self._sinks, strict=True):
                tasks.create_task(worker.run(), name=f"sink {sink.name}")
            ready = tasks.create_task(self._set_ready(workers), name="ready")
            await self._stopping.wait()
            ready.cancel()
            if self._channels:
                intake.cancel()
            await asyncio.gather(*(worker.stop(deadline_seconds=self._deadline_seconds) for worker in workers))

    async def _set_ready(self, workers: Sequence[StreamWorker]) -> None:
        for worker in workers:
            await worker.wait_ready()
        self.ready.set()

    async def _run_intake(self, redis: Any, url: str) -> None:
        """Take in records from channels, which only the holder of the lease does."""
        reader = clients.async_reader(url)
        intake = Intake(
            redis,
            names=keys(),
            stream=DEFAULT_STREAM,
            stream_limit=STREAM_LIMIT,
            channels=self._channels,
            outage=self._redis_outage,
        )
        try:
            async with Multiplexer(reader, publisher=redis, probe_channel=keys().probe_channel()) as multiplexer:
                await intake.run(multiplexer)
        finally:
            await reader.aclose()
