"""
The service of `manage.py run_bot_subscriber`: relay, bot, ingress and sweep in one process.

Owns which parts run, the clients that they share, and the order in which they start and stop. Does not own signals (the
command) or the work of the parts.
"""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

from notifications import conf
from notifications.conf import PARTS, Part
from notifications.content.stream_entry import USER_FIELD
from notifications.delivery.bot import Bot
from notifications.workers.gatherer import Gatherer
from notifications.workers.ingress import Ingress
from notifications.workers.relay import Relay
from notifications.workers.sweeper import Sweeper
from realtime.conf import get_settings as get_realtime_settings
from realtime.conf import keys
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.statistics.pusher import set_role
from realtime.streams import StreamWorker

__all__ = ["Subscriber"]

logger = logging.getLogger(__name__)

# The most batches that the relay handles concurrently.
RELAY_CONCURRENCY = 4


class Subscriber:
    """
    Args:
        parts: The parts that run in this process. Ingress and the sweep belong to the relay; among all relays, only the
            holder of a lease runs them.
        bot_concurrency: The most messages that are sent at a time on each transport; by default as in the settings.

    Guarantees:
        Outages of Redis and the database, and defects of the sweep, do not end `run()`. A defect of any other part ends
        it with an error.
    """

    def __init__(self, *, parts: tuple[Part, ...] = PARTS, bot_concurrency: int | None = None) -> None:
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # Set when all parts have started to read.
        self.ready = asyncio.Event()
        self._parts = parts
        self._settings = conf.get_settings()
        self._bot_concurrency = bot_concurrency
        self._redis_outage, self._database_outage = Outage("Redis"), Outage("the database")
        self._workers: dict[Part, StreamWorker] = {}
        # The handlers of the parts, which have threads.
        self._handlers: list[Relay | Bot] = []
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0

    async def run(self) -> None:
        """
        Work until `stop()`; once.

        Raises:
            ExceptionGroup: A part is defective.
        """
        set_role(" and ".join(self._parts))
        url = get_realtime_settings().redis_url
        redis = clients.async_publisher(url)
        readers = {part: clients.async_reader(url) for part in self._parts}
        try:
            for part in self._parts:
                self._workers[part] = self._make_worker(part, readers[part], redis)
            await self._run_parts(redis, url)
        finally:
            for handler in self._handlers:
                handler.close()
            for client in (redis, *readers.values()):
                await client.aclose()

    def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """End `run()`: finish and ack running work within the deadline, and leave the rest to others. Idempotent."""
        if not self._stopping.is_set():
            self._deadline_seconds = deadline_seconds
            self._stopping.set()

    def _make_worker(self, part: Part, reader: Any, redis: Any) -> StreamWorker:
        handler: Relay | Bot
        on_stop: Callable[[], None] | None = None
        if part == "relay":
            # Several batches at a time, so that the others do not wait while the database records one as relayed. The
            # worker keeps the entries of each user in order all the same.
            handler, batch_size, concurrency = Relay(), self._settings.relay_batch_size, RELAY_CONCURRENCY
        else:
            bot = handler = Bot(concurrency=self._bot_concurrency, database_outage=self._database_outage)
            batch_size, concurrency, on_stop = 1, bot.entries_limit, bot.stop
        self._handlers.append(handler)
        return StreamWorker(
            reader,
            keys().stream(conf.STREAM),
            part,
            handler,
            redis=redis,
            # The entries of one user are handled in order, by all workers together.
            order_field=USER_FIELD,
            registry_key=keys().streams(),
            groups=PARTS,
            batch_size=batch_size,
            concurrency=concurrency,
            lease_seconds=self._settings.stream_lease_seconds,
            max_attempts=self._settings.max_attempts,
            consumer=self.consumer,
            outage=self._redis_outage,
            on_stop=on_stop,
        )

    async def _run_parts(self, redis: Any, url: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part, worker in self._workers.items():
                tasks.create_task(worker.run(), name=part)
            ready = tasks.create_task(self._say_ready(), name="ready")
            stops = [worker.stop for worker in self._workers.values()]
            if "relay" in self._parts:
                lease = Lease(
                    redis,
                    keys().lease("ingress"),
                    ttl_seconds=self._settings.ingress_lease_seconds,
                    holder=self.consumer,
                    outage=self._redis_outage,
                )
                ingress = Ingress(
                    redis,
                    channel=keys().ingress_channel(),
                    counters_key=keys().counters("ingress"),
                    lease=lease,
                    database_outage=self._database_outage,
                )
                work = functools.partial(self._run_leased, ingress, redis, url)
                task = tasks.create_task(lease.run_while_held(work), name="ingress lease")
                stops.append(functools.partial(self._stop_ingress, ingress, task))
            await self._stopping.wait()
            ready.cancel()
            await asyncio.gather(*(stop(deadline_seconds=self._deadline_seconds) for stop in stops))

    async def _stop_ingress(self, ingress: Ingress, task: asyncio.Task[None], *, deadline_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                await ingress.drain()
        # Also gives up the lease.
        task.cancel()

    async def _say_ready(self) -> None:
        for worker in self._workers.values():
            await worker.wait_ready()
        running = " and ".join(self._parts) + (" are" if len(self._parts) > 1 else " is")
        logger.info("%s running, consumer %s", running, self.consumer)
        self.ready.set()

    async def _run_leased(self, ingress: Ingress, redis: Any, url: str) -> None:
        """Run ingress, the sweep and the gathering of statistics, which only the holder of the lease does."""
        reader = clients.async_reader(url)
        try:
            async with (
                Multiplexer(reader, publisher=redis, probe_channel=keys().probe_channel()) as multiplexer,
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(ingress.run(multiplexer), name="ingress")
                sweeper = Sweeper(
                    redis_outage=self._redis_outage,
                    database_outage=self._database_outage,
                    interval_seconds=self._settings.sweep_interval_seconds,
                )
                tasks.create_task(sweeper.run(), name="outbox sweep")
                tasks.create_task(Gatherer().run(), name="statistics")
        finally:
            await reader.aclose()
