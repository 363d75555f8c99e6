"""The project's settings with task queues, for the processes of tests/support/task_site.py."""

import os

from project.settings import *  # noqa: F403

# As in production: a process whose event loop stays blocked ends.
DEBUG = False
TASKS = {
    "default": {
        "BACKEND": "realtime.tasks.RedisStreamBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"lease_seconds": float(os.environ["TASK_LEASE_SECONDS"])},
    },
    "at once": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
    "any": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": []},
}
