"""
The tasks for Celery, with Redis as its broker and for results.

Owns its set-up, by "Optimizing" and "Using Redis" of its manual: many tasks fetched before they are needed, no events,
rate limits nor remote control, tasks acked before they run, which is its default. Results stay for a day, its default.
"""

import os
from typing import Any

from celery import Celery

from benchmarks.tasks.ledger import Ledger

__all__ = ["ENQUEUE", "app", "enqueue_many", "nothing", "read_result", "sleep"]

LEDGER = Ledger.of_environment()
_URL = os.environ["REDIS_URL"]
app = Celery(
    "benchmark", broker=_URL.replace("unix://", "redis+socket://"), backend=_URL.replace("unix://", "redis+socket://")
)
app.conf.update(
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="nothing")
def nothing(number: int) -> int:
    """Do nothing."""
    return LEDGER.run(number, 0.0)


@app.task(name="sleep")
def sleep(number: int) -> int:
    """Sleep for 1 ms."""
    return LEDGER.run(number, 0.001)


ENQUEUE = {"nothing": nothing.delay, "sleep": sleep.delay}


def enqueue_many(name: str, numbers: range) -> None:
    """On one connection of its pool: "Calling Tasks", "Connections"."""
    task = {"nothing": nothing, "sleep": sleep}[name]
    with app.producer_pool.acquire() as producer:
        for number in numbers:
            task.apply_async((number,), producer=producer)


def read_result(handle: Any) -> Any:
    """None if there is none yet."""
    return handle.result
