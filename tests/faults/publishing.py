"""
The process that publishes: `python -m tests.faults.publishing JOB`, a counted load with a seed.

Owns calling notify() so and so often, each call under an idempotency key of its own: a killed process is started
again with the same job and goes on where it was, as a task queue would. Does not own starting it again (load).
"""

import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import django

__all__ = ["recipients_of"]

RETRY_SECONDS = 0.1


def recipients_of(seed: int, number: int, users: list[int]) -> list[int]:
    """Whom the call with this number tells: one to three of the users."""
    chance = random.Random(f"{seed}:{number}")  # noqa: S311 - a schedule, no secret
    return chance.sample(users, chance.randint(1, 3))


def main(job: dict[str, Any]) -> None:
    """Make the calls that are not done yet; each done is a line of the job's file. SIGTERM ends after a call."""
    from django.db import InterfaceError, OperationalError

    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    chance = random.Random(job["seed"])  # noqa: S311 - a schedule, no secret
    path = Path(job["done"])
    done = path.read_text().split() if path.exists() else []
    with path.open("a", buffering=1) as file:
        for number in range(job["calls"]):
            pause = chance.uniform(0, 2 * job["pause_seconds"])
            if str(number) in done:
                continue
            if stopping:
                return
            if number % job["burst"] == 0:
                time.sleep(pause)
            while True:
                try:
                    _call(job, number, is_last=number in job["deaths"] and f"died:{number}" not in done, path=path)
                    break
                except (OperationalError, InterfaceError):
                    # The database is away: nothing was written, and this is the caller's to try again.
                    time.sleep(RETRY_SECONDS)
            file.write(f"{number}\n")


def _call(job: dict[str, Any], number: int, *, is_last: bool, path: Path) -> None:
    from django.db import transaction

    from notifications.services import notify

    with transaction.atomic():
        if is_last:
            transaction.on_commit(functools.partial(_die, path, number))
        notify(
            recipients_of(job["seed"], number, job["users"]),
            f"Message {number}",
            idempotency_key=f"{job['seed']}:{number}",
        )


def _die(path: Path, number: int) -> None:
    """Between commit and publishing: hooks run in the order in which they were registered."""
    with path.open("a") as file:
        file.write(f"died:{number}\n")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    django.setup()
    main(json.loads(sys.argv[1]))
