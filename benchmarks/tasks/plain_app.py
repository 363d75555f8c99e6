"""
The tasks for the least that can be called a task queue: a list in Redis, one thread, and redis-py.

Owns both sides. A task is taken off the list before it runs, so it is lost if the worker dies: no library here is
measured against a promise, but it shows what Redis, redis-py and Python take without one.
"""

import json
import os
import sys
import uuid
from typing import Any

import redis

from benchmarks.tasks.ledger import Ledger

__all__ = ["ENQUEUE", "enqueue_many", "read_result"]

LIST = "tasks"
RESULT_SECONDS = 600
SLEEPS = {"nothing": 0.0, "sleep": 0.001}
CLIENT = redis.Redis.from_url(os.environ["REDIS_URL"])


def _entry(name: str, number: int) -> tuple[str, bytes]:
    task_id = uuid.uuid4().hex
    return task_id, json.dumps({"id": task_id, "task": name, "args": [number]}).encode()


def _enqueue(name: str, number: int) -> str:
    task_id, entry = _entry(name, number)
    CLIENT.rpush(LIST, entry)
    return task_id


ENQUEUE = {
    "nothing": lambda number: _enqueue("nothing", number),
    "sleep": lambda number: _enqueue("sleep", number),
}


def enqueue_many(name: str, numbers: range) -> None:
    """In one command."""
    CLIENT.rpush(LIST, *(_entry(name, number)[1] for number in numbers))


def read_result(handle: Any) -> Any:
    """Raises TypeError if there is none yet."""
    return json.loads(CLIENT.get(handle))  # type: ignore[arg-type]


def work() -> None:
    """One task after the other, until the process is ended."""
    ledger = Ledger.of_environment()
    while True:
        _, entry = CLIENT.blpop([LIST])  # type: ignore[misc]
        task = json.loads(entry)
        result = ledger.run(*task["args"], SLEEPS[task["task"]])
        CLIENT.set(task["id"], json.dumps(result), ex=RESULT_SECONDS)


if __name__ == "__main__" and sys.argv[1:] == ["work"]:
    work()
