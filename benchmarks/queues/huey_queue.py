"""
huey with a task that does nothing.

Owns its set-up, the fastest that its documentation offers: Redis storage with blocking reads, no results, no periodic
tasks.
"""

from typing import Any

from huey import RedisHuey

from benchmarks.queues.ledger import Ledger
from benchmarks.queues.program import run

__all__: list[str] = []


def enqueue(url: str, count: int) -> None:
    """One call each, as there is no other."""
    huey = RedisHuey("benchmark", url=url, results=False)
    nothing = _task(huey, None)
    for number in range(count):
        nothing(number)


def work(url: str, ledger: Ledger, worker_type: str, workers: str) -> None:
    """So many workers: threads, or processes with one each."""
    huey = RedisHuey("benchmark", url=url, results=False)
    _task(huey, ledger)
    huey.create_consumer(workers=int(workers), worker_type=worker_type, periodic=False, check_worker_health=False).run()


def _task(huey: RedisHuey, ledger: Ledger | None) -> Any:
    @huey.task()
    def nothing(number: int) -> None:
        if ledger is not None:
            ledger.mark(number)

    return nothing


if __name__ == "__main__":
    run(enqueue, work)
