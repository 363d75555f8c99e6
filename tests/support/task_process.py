"""
A task worker as a process that tests may kill: `python -m tests.support.task_process URL PREFIX CONCURRENCY`.

It prints its name when it is ready.
"""

import asyncio
import os
import sys

import django


async def main(url: str, concurrency: int) -> None:
    """Work until killed."""
    from realtime.tasks.django_api import default_task_backend
    from realtime.tasks.worker import TaskWorker

    consumer = f"process-{os.getpid()}"
    worker = TaskWorker(default_task_backend, ["default"], concurrency=concurrency, consumer=consumer, url=url)
    running = asyncio.create_task(worker.run())
    await worker.wait_ready()
    sys.stdout.write(f"{consumer}\n")
    sys.stdout.flush()
    await running


def configure(url: str, prefix: str) -> None:
    """The settings of the test that starts this process."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from django.conf import settings

    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": url, "KEY_PREFIX": prefix}
    # Before any module with tasks is imported.
    settings.TASKS["default"]["OPTIONS"] = {"lease_seconds": 1.0}
    django.setup()


if __name__ == "__main__":
    configure(*sys.argv[1:3])
    asyncio.run(main(sys.argv[1], int(sys.argv[3])))
