"""
`python -m benchmarks.notifying`: as benchmarks.publishing, but each message is a call of `notify()`.

Owns only that: from the database through stream and relay the project takes it.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import django

from benchmarks.load_client import Progress
from benchmarks.payloads import payload
from benchmarks.publishing import BEHIND_SECONDS

__all__ = ["main"]


def main() -> None:
    """Answer jobs until stdin ends."""
    django.setup()
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        progress = Progress(Path(job["progress"]))
        answer = _notify(progress, users=job["topics"], rate=job["rate"], seconds=job["seconds"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


def _notify(progress: Progress, *, users: list[str], rate: float, seconds: float) -> dict[str, Any]:
    """Each user in turn, each equally often; the payload, with the time before the call, is the notification's data."""
    from notifications.services import notify

    rounds = max(1, round(rate * seconds / len(users)))
    begin, published = time.monotonic(), 0
    for number in range(1, rounds + 1):
        for user in users:
            time.sleep(max(0.0, begin + published / rate - time.monotonic()))
            if published - progress.delivered > rate * BEHIND_SECONDS:
                return {"count": number, "published": published, "fell_behind": True}
            notify([int(user)], "Your order is on its way!", kind="benchmark", data=json.loads(payload(number)))
            published += 1
    return {"count": rounds, "published": published, "fell_behind": False}


if __name__ == "__main__":
    main()
