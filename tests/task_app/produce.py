"""
Enqueues tasks of every kind, in bursts: `python -m tests.task_app.produce SEED FILE UNTIL`.

For each task that Redis confirmed, FILE gets a line of JSON: `id`, `kind`, `expected` (the value; null if the task must
fail, or returns None) and `due` (seconds since 1970). It ends when the file UNTIL exists
and it has enqueued enough, or after some thousand tasks.
"""

import asyncio
import json
import os
import random
import sys
from datetime import timedelta
from typing import Any

import django
from django.utils import timezone

__all__ = ["LEAST", "main"]

BURST, LEAST, LIMIT = 20, 600, 3000
PAUSE_SECONDS = 0.3
RETRY_SECONDS = 0.05
# Few, so that a task with the same key often waits or runs.
UNIQUE_KEYS = 5


async def main(seed: str, file: str, until: str) -> None:
    """Enqueue until told to stop."""
    dice = random.Random(seed)  # noqa: S311 - the same tasks each time
    with open(file, "a", buffering=1) as confirmed:  # noqa: ASYNC230 - nothing else runs here
        for count in range(0, LIMIT, BURST):
            if count >= LEAST and os.path.exists(until):  # noqa: ASYNC240 - likewise
                break
            for _ in range(BURST):
                confirmed.write(f"{json.dumps(await _enqueue(dice))}\n")
            await asyncio.sleep(dice.uniform(0, PAUSE_SECONDS))


async def _enqueue(dice: random.Random) -> dict[str, Any]:
    from realtime.exceptions import TasksUnavailable

    kind, arguments, options, expected = _call(dice)
    if dice.random() < 0.1:
        options["priority"] = dice.randint(-100, 100)
    if dice.random() < 0.1:
        options["run_after"] = timezone.now() + timedelta(seconds=dice.uniform(0, 2))
    if dice.random() < 0.1:
        options["queue_name"] = "mail"
    task = _tasks()[kind].using(**options)
    is_async = dice.random() < 0.5
    while True:
        try:
            result = await task.aenqueue(*arguments) if is_async else task.enqueue(*arguments)
        except TasksUnavailable:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            due = options["run_after"].timestamp() if "run_after" in options else 0.0
            # A task with a unique key may be another call's, which was due at once.
            return {"id": result.id, "kind": kind, "expected": expected, "due": 0.0 if "unique_key" in options else due}


def _call(dice: random.Random) -> tuple[str, list[Any], dict[str, Any], Any]:
    """A task, its arguments and options, and what it returns."""
    number, seconds = dice.randrange(1000), dice.uniform(0.001, 0.2)
    retries = {"max_attempts": 5, "backoff": dice.choice([0.0, [0.0, 0.5], 0.2])}
    weighted: list[tuple[int, str, list[Any], dict[str, Any], Any]] = [
        (35, "quick", [number], {}, number),
        (15, "async_nothing", [], {}, None),
        (12, "waits", [seconds], {}, seconds),
        (12, "async_waits", [seconds], {}, seconds),
        (3, "waits", [seconds], {"timeout": 60.0}, seconds),
        (8, "fails_at_first", [until := dice.randint(2, 3)], retries, until),
        (5, "always_fails", [], {**retries, "max_attempts": 2}, None),
        (3, "rejects", [], {"max_attempts": 5}, None),
        (7, "waits", [0.02], {"unique_key": f"key {dice.randrange(UNIQUE_KEYS)}"}, 0.02),
    ]
    ((_, *call),) = dice.choices(weighted, [each[0] for each in weighted])
    kind, arguments, options, expected = call
    return kind, arguments, dict(options), expected


def _tasks() -> dict[str, Any]:
    from tests.task_app import tasks

    return vars(tasks)


if __name__ == "__main__":
    django.setup()
    asyncio.run(main(*sys.argv[1:]))
