"""
`python -m benchmarks.hot_paths PATH COUNT`: take one of our hot paths this many times, in this process alone.

Owns what each path does, except those of the site (site) and of log records (logs). Does not own counting what it
takes, nor comparing versions (versions), which copies this directory into an earlier version: it uses only what
versions have in common.
"""

import asyncio
import itertools
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import django

from benchmarks.hot_paths import logs, site

__all__ = ["PATHS", "PREPARED", "main", "prepare"]

# Users, and how many notifications they have before anything is counted.
USERS, PREPARED, TOLD_AT_ONCE = 10_000, 400, 50
MESSAGE = "Your order is on its way!"


def main() -> None:
    """Do what the command line says; "prepare" makes the users, and what is to be delivered."""
    name, count = sys.argv[1], int(sys.argv[2])
    _turn_off_timers()
    django.setup()
    # Django logs each task. Without anybody who reads it, that is work for nothing.
    logging.disable(logging.INFO)
    {"prepare": prepare, **PATHS}[name](count)


def _turn_off_timers() -> None:
    """Turn off what happens as often in any second, however much else happens. The scenarios measure it."""
    from project import settings

    settings.REALTIME["RECHECK_SECONDS"] = 3600.0
    if Path("realtime/statistics").is_dir():
        from realtime.broker import publish

        settings.REALTIME["STATISTICS"] = False
        # At most 20 publications a second carry their time. When valgrind counts, that would be all of them.
        publish.TIMED_EVERY_SECONDS = math.inf  # type: ignore[misc]


def prepare(count: int) -> None:
    """Make the users, and tell some of them this many notifications, which `deliver` delivers."""
    from django.contrib.auth import get_user_model

    from notifications.services import notify

    model = get_user_model()
    model.objects.bulk_create(model(username=f"user-{number}", password="!") for number in range(USERS))  # noqa: S106
    for _ in range(0, count, TOLD_AT_ONCE):
        notify(_users(TOLD_AT_ONCE), MESSAGE, kind="benchmark")


def _users(count: int) -> list[int]:
    from django.contrib.auth import get_user_model

    return list(get_user_model().objects.order_by("-pk").values_list("pk", flat=True)[:count])


def _publish(count: int) -> None:
    from realtime.publisher import publish

    for number in range(count):
        publish("news.benchmark", b'{"number":%d,"text":"%s"}' % (number, MESSAGE.encode()))


def _notify(recipients: int) -> Callable[[int], None]:
    def call(count: int) -> None:
        from notifications.services import notify

        users = _users(recipients)
        for _ in range(count):
            notify(users, MESSAGE, kind="benchmark")

    return call


def _deliver(count: int) -> None:
    """Claim deliveries and record what became of them, as the bot does."""
    from notifications.content import stream_entry
    from notifications.delivery import claim, records
    from realtime.conf import keys, sync_redis
    from realtime.streams import Entry

    told = sync_redis().xrange(keys().stream("notifications"), count=count)
    if len(told) != count:
        raise SystemExit(f"{len(told)} of {count} notifications are on the stream")
    for part in itertools.batched(told, TOLD_AT_ONCE):
        found = [stream_entry.decode(Entry(id, fields, 1)) for id, fields in part]
        tasks = [claim.StreamTask(notification=each, entry_id=f"{n}-1", attempt=1) for n, each in enumerate(found)]
        result = records.Result(state="sent", answer="250 ok", outcomes={"address": "sent"}, latency_seconds=0.1)
        ended = [(each, result) for claims in claim.begin_many(tasks) for each in claims.granted]
        if len(ended) != len(part) or not all(records.record_many(ended)):
            raise SystemExit(f"{len(ended)} of {len(part)} deliveries were claimed, or some not recorded")


def _handle(count: int) -> None:
    """Append entries to a stream, and handle them by a worker that does nothing with them."""
    from benchmarks.queues import signalbox_queue as queue
    from realtime.conf import get_settings
    from realtime.redis import clients
    from realtime.streams import Entry, StreamWorker

    url = get_settings().redis_url
    queue.enqueue(url, count)

    async def work() -> None:
        left, is_done = count, asyncio.Event()

        async def handle(entries: Sequence[Entry]) -> None:
            nonlocal left
            left -= len(entries)
            if left <= 0:
                is_done.set()

        async with clients.async_reader(url) as reader, clients.async_publisher(url) as publisher:
            worker = StreamWorker(
                *(reader, queue.STREAM, "benchmark", handle),
                redis=publisher,
                order_field="u",
                batch_size=100,
                concurrency=100,
            )
            await _run_until(worker, is_done)

    asyncio.run(work())


def _run_tasks(count: int) -> None:
    """Enqueue background tasks in one call, and run them by a worker with one thread."""
    from benchmarks.hot_paths.tasks import nothing
    from realtime.conf import get_settings
    from realtime.tasks import await_result
    from realtime.tasks.django_api import task_backends
    from realtime.tasks.worker import TaskWorker

    backend: Any = task_backends["default"]
    results = backend.enqueue_many([(nothing, (), {})] * count)

    async def work() -> None:
        worker = TaskWorker(backend, ["default"], concurrency=1, consumer="worker", url=get_settings().redis_url)
        is_done = asyncio.Event()

        async def watch() -> None:
            await await_result(results[-1], 600)
            is_done.set()

        watching = asyncio.create_task(watch())
        await _run_until(worker, is_done)
        await watching

    asyncio.run(work())


async def _run_until(worker: Any, is_done: asyncio.Event) -> None:
    running = asyncio.create_task(worker.run())
    await is_done.wait()
    await worker.stop()
    await running


# Path → what takes it this many times.
PATHS: dict[str, Callable[[int], None]] = {
    "publish": _publish,
    "notify 1": _notify(1),
    "notify 100": _notify(100),
    "notify 10000": _notify(10_000),
    "deliver": _deliver,
    "handle": _handle,
    "tasks": _run_tasks,
    "connect": site.connect,
    "fan-out": site.fan_out,
    "map": site.show_map,
    "log": logs.log,
    "sink": logs.write,
}

if __name__ == "__main__":
    main()
