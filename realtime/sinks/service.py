"""
The service of `manage.py run_log_sink`: a worker for each sink, in one process.

Owns which workers run, and what they share. Does not own signals (management.service), the work of a sink (content,
rolling) nor the intake of published records (logs.intake).
"""

import asyncio
import functools
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import redis.asyncio
from django.core.exceptions import ImproperlyConfigured

from realtime.conf import get_settings, keys
from realtime.logs.handler import is_in_sink, send_spilled
from realtime.logs.intake import Intake
from realtime.logs.stream import DEFAULT_STREAM, STREAM_LIMIT
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.sinks.base import Sink, SinkHandler, SinkResources, all_sinks, call_in_thread
from realtime.sinks.storage import Storage, storage_of
from realtime.streams import StreamWorker

__all__ = ["SinkService"]

logger = logging.getLogger(__name__)

# The threads of each sink, for the project's functions, compression and the storage.
THREADS = 8


class SinkService:
    """
    Runs one worker for each sink, until it is stopped.

    Args:
        sinks: The sinks to run.
        channels: Redis channels: log records that programs publish on them are appended to the stream `logs`. Only one
            process at a time does this for a channel, the holder of its lease.

    Guarantees:
        Outages of Redis and of the storages do not end `run()`.
    """

    def __init__(self, sinks: Sequence[type[Sink]], *, channels: Sequence[str] = ()) -> None:
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # Set when all workers read their streams.
        self.ready = asyncio.Event()
        self._sinks = [sink() for sink in sinks]
        self._workers: dict[Sink, StreamWorker] = {}
        # Each channel once, even if it was given twice.
        self._channels = tuple(dict.fromkeys(channels))
        self._redis_outage = Outage("Redis")
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0

    async def run(self) -> None:
        """
        Work until `stop()`. Can be called once.

        Raises:
            ImproperlyConfigured: A sink cannot be run, for example because its URL means nothing; names the sink.
            ExceptionGroup: A worker or the intake failed because of a defect.
        """
        in_sink = is_in_sink.set(True)
        url = get_settings().redis_url
        client = clients.async_publisher(url)
        readers = [clients.async_reader(url) for _ in self._sinks]
        executors = [ThreadPoolExecutor(THREADS, f"sink {sink.name}") for sink in self._sinks]
        handlers: list[SinkHandler] = []
        try:
            for sink, reader, executor in zip(self._sinks, readers, executors, strict=True):
                handler = await self._make_handler(sink, executor, client)
                handlers.append(handler)
                self._workers[sink] = self._make_worker(sink, handler, reader, client)
            # Otherwise spilled records stay on the disk until a process logs something.
            send_spilled()
            await self._run_workers([*self._workers.values()], client, url)
        finally:
            for handler in handlers:
                await handler.close()
            for executor in executors:
                executor.shutdown(wait=False, cancel_futures=True)
            for each in (client, *readers):
                await each.aclose()
            # The caller may go on with other work.
            is_in_sink.reset(in_sink)

    def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """End `run()`: finish and ack running work within the deadline, and leave the rest to others. Idempotent."""
        if not self._stopping.is_set():
            self._deadline_seconds = deadline_seconds
            self._stopping.set()

    async def _make_handler(self, sink: Sink, executor: ThreadPoolExecutor, client: redis.asyncio.Redis) -> SinkHandler:
        try:
            storage = await call_in_thread(_open_storage, sink, executor=executor)
            return sink.make_handler(
                SinkResources(
                    storage=storage,
                    executor=executor,
                    redis=client,
                    redis_outage=self._redis_outage,
                    files_key=keys().written_files(sink.stream, sink.name),
                    consumer=self.consumer,
                    still_held=functools.partial(self._still_held, sink),
                )
            )
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"sink {sink.name}: {error}") from error

    def _make_worker(
        self, sink: Sink, handler: SinkHandler, reader: redis.asyncio.Redis, client: redis.asyncio.Redis
    ) -> StreamWorker:
        return StreamWorker(
            reader,
            keys().stream(sink.stream),
            sink.name,
            handler.handle,
            redis=client,
            registry_key=keys().streams(),
            # All sinks of the stream, also those of other processes: trimming waits until each has finished an entry.
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

    async def _run_workers(self, workers: Sequence[StreamWorker], client: redis.asyncio.Redis, url: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            intakes = []
            for channel in self._channels:
                name = f"log intake {channel}"
                lease = Lease(client, keys().lease(name), holder=self.consumer, outage=self._redis_outage)
                work = functools.partial(self._run_intake, client, url, channel)
                intakes.append(tasks.create_task(lease.run_while_held(work), name=f"lease of {name}"))
            for worker, sink in zip(workers, self._sinks, strict=True):
                tasks.create_task(worker.run(), name=f"sink {sink.name}")
            ready = tasks.create_task(self._say_ready(workers), name="ready")
            await self._stopping.wait()
            ready.cancel()
            for intake in intakes:
                intake.cancel()
            await asyncio.gather(*(worker.stop(deadline_seconds=self._deadline_seconds) for worker in workers))

    async def _say_ready(self, workers: Sequence[StreamWorker]) -> None:
        for worker in workers:
            await worker.wait_ready()
        if workers:
            running = " and ".join(sink.name for sink in self._sinks) + (" are" if len(workers) > 1 else " is")
            logger.info("%s running, consumer %s", running, self.consumer)
        self.ready.set()

    async def _run_intake(self, client: redis.asyncio.Redis, url: str, channel: str) -> None:
        """Append records that are published on a channel to the stream. Runs while this process holds its lease."""
        reader = clients.async_reader(url)
        intake = Intake(
            client,
            names=keys(),
            stream=DEFAULT_STREAM,
            stream_limit=STREAM_LIMIT,
            channels=(channel,),
            outage=self._redis_outage,
        )
        try:
            async with Multiplexer(reader, publisher=client, probe_channel=keys().probe_channel()) as multiplexer:
                await intake.run(multiplexer)
        finally:
            await reader.aclose()


def _open_storage(sink: Sink) -> Storage:
    """Runs in a thread. Raises ImproperlyConfigured."""
    storage = storage_of(sink.url, sink.storage_options)
    storage.check()
    try:
        storage.tidy()
    except OSError:
        logger.warning("sink %s: old temporary files could not be removed", sink.name, exc_info=True)
    return storage
