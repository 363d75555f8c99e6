"""
The tasks for dramatiq, with Redis.

Owns its set-up, by "Redis broker" and "Results" of its guide: the Redis broker, results in Redis for ten minutes, which
is its default. Its middleware is what it has without being asked.
"""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.tasks.ledger import Ledger

__all__ = ["ENQUEUE", "nothing", "read_result", "sleep"]

LEDGER = Ledger.of_environment()
broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(number: int) -> int:
    """Do nothing."""
    return LEDGER.run(number, 0.0)


@dramatiq.actor(store_results=True)
def sleep(number: int) -> int:
    """Sleep for 1 ms."""
    return LEDGER.run(number, 0.001)


ENQUEUE = {"nothing": nothing.send, "sleep": sleep.send}


def read_result(handle: Any) -> Any:
    """Raises ResultMissing if there is none yet."""
    return handle.get_result()
