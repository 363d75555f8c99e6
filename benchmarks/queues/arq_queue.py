"""
arq with a job that does nothing.

Owns its set-up, the fastest that its documentation offers: results are not kept nor logged, many jobs at a time, the
queue is looked at again without waiting; uvloop.
"""

import asyncio
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.queues.ledger import Ledger
from benchmarks.queues.program import run

__all__: list[str] = []

ENQUEUED_AT_ONCE = 100


def enqueue(url: str, count: int) -> None:
    """A hundred calls at a time."""

    async def main() -> None:
        redis = await create_pool(RedisSettings.from_dsn(url))
        for start in range(0, count, ENQUEUED_AT_ONCE):
            numbers = range(start, min(start + ENQUEUED_AT_ONCE, count))
            await asyncio.gather(*(redis.enqueue_job("nothing", number) for number in numbers))

    uvloop.run(main())


def work(url: str, ledger: Ledger, max_jobs: str) -> None:
    """So many jobs at a time."""

    async def nothing(context: dict[str, Any], number: int) -> None:
        ledger.mark(number)

    async def main() -> None:
        worker = Worker(
            functions=[func(nothing, name="nothing")],
            redis_settings=RedisSettings.from_dsn(url),
            max_jobs=int(max_jobs),
            keep_result=0,
            log_results=False,
            poll_delay=0.001,
            handle_signals=False,
        )
        await worker.async_run()

    uvloop.run(main())


if __name__ == "__main__":
    run(enqueue, work)
