"""
The tasks for huey, with Redis.

Owns its set-up, by "Redis" and "Consuming Tasks" of its guide: Redis storage with blocking reads, results kept until
they are read. Its own decorator, as most of its users have it.
"""

import os
from typing import Any

from huey import RedisHuey

from benchmarks.tasks.ledger import Ledger

__all__ = ["ENQUEUE", "huey", "nothing", "read_result", "sleep"]

LEDGER = Ledger.of_environment()
huey = RedisHuey("benchmark", url=os.environ["REDIS_URL"])


@huey.task()
def nothing(number: int) -> int:
    """Do nothing."""
    return LEDGER.run(number, 0.0)


@huey.task()
def sleep(number: int) -> int:
    """Sleep for 1 ms."""
    return LEDGER.run(number, 0.001)


ENQUEUE = {"nothing": nothing, "sleep": sleep}


def read_result(handle: Any) -> Any:
    """None if there is none yet."""
    return handle.get()
