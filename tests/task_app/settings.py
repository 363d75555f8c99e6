"""The project's settings with task queues, for the processes of tests/support/task_site.py."""

import os

from project.settings import *  # noqa: F403

# A worker starts in half of the time without the site.
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "realtime"]
REALTIME = {"REDIS_URL": REDIS_URL}  # noqa: F405
ROOT_URLCONF = "tests.support.no_urls"
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
