"""
Celery with a task that does nothing, and Redis as its broker.

Owns its set-up, the fastest that its documentation offers for short tasks: results ignored, many tasks fetched before
they are needed, no events, rate limits nor remote control, tasks acked before they run (which is its default).
"""

from typing import Any

from celery import Celery

from benchmarks.queues.ledger import Ledger
from benchmarks.queues.program import run

__all__: list[str] = []


def enqueue(url: str, count: int) -> None:
    """On one connection of its pool."""
    app = _app(url)
    nothing = _task(app, None)
    with app.producer_pool.acquire() as producer:
        for number in range(count):
            nothing.apply_async((number,), producer=producer)


def work(url: str, ledger: Ledger, pool: str, concurrency: str) -> None:
    """In a pool of this kind with so many threads or processes."""
    app = _app(url)
    _task(app, ledger)
    words = ["--pool", pool, "--concurrency", concurrency, "--loglevel", "WARNING"]
    app.worker_main(["worker", *words, "--without-gossip", "--without-mingle", "--without-heartbeat"])


def _app(url: str) -> Celery:
    app = Celery("benchmark", broker=url.replace("unix://", "redis+socket://"))
    app.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=128,
        worker_disable_rate_limits=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
    )
    return app


def _task(app: Celery, ledger: Ledger | None) -> Any:
    @app.task(name="nothing")
    def nothing(number: int) -> None:
        if ledger is not None:
            ledger.mark(number)

    return nothing


if __name__ == "__main__":
    run(enqueue, work)
