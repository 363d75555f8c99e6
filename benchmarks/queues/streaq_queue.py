"""
streaq with a task that does nothing.

Owns its set-up, the fastest that its documentation offers: no results kept, many tasks at a time, as many again
fetched before they are needed; uvloop.
"""

import uvloop
from streaq import Worker

from benchmarks.queues.ledger import Ledger
from benchmarks.queues.program import run

__all__: list[str] = []

ENQUEUED_AT_ONCE = 500


def enqueue(url: str, count: int) -> None:
    """By its own `enqueue_many`."""
    worker = Worker(redis_url=url)

    @worker.task(ttl=0, name="nothing")
    async def nothing(number: int) -> None: ...

    async def main() -> None:
        async with worker:
            for start in range(0, count, ENQUEUED_AT_ONCE):
                numbers = range(start, min(start + ENQUEUED_AT_ONCE, count))
                await worker.enqueue_many([nothing.enqueue(number) for number in numbers])

    uvloop.run(main())


def work(url: str, ledger: Ledger, concurrency: str) -> None:
    """So many tasks at a time."""
    worker = Worker(redis_url=url, concurrency=int(concurrency), anyio_kwargs={"use_uvloop": True})

    @worker.task(ttl=0, name="nothing")
    async def nothing(number: int) -> None:
        ledger.mark(number)

    worker.run_sync()


if __name__ == "__main__":
    run(enqueue, work)
