"""Tasks that note in Redis what they do."""

import os
import time
from typing import Any

from realtime.conf import sync_redis
from realtime.tasks import periodic
from realtime.tasks.django_api import task

# A list in Redis of the ticks that have run, as text; and of the processes that have begun `hold`.
TICKS, HELD = "test:ticks", "test:held"


@periodic(every_seconds=1, args=["a tick"], name="each second")
@task(takes_context=True)
def note_tick(context: Any, what: str) -> None:
    assert what == "a tick"
    sync_redis().rpush(TICKS, context.task_result.task.run_after.isoformat())


@periodic(cron="30 2 1 1 *", time_zone="Europe/Zurich")
@task(queue_name="mail")
def tidy() -> None:
    """Runs in no test."""


@task
def hold(path: str) -> int:
    """Run until this file exists. Returns the process."""
    sync_redis().rpush(HELD, os.getpid())
    while not os.path.exists(path):
        time.sleep(0.02)
    return os.getpid()
