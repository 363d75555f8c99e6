"""The project's settings for worker processes under test, with an app that has periodic tasks."""

import os

from project.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.periodic_app"]  # noqa: F405
TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]}}
if os.environ.get("BROKEN_FILE") and os.path.exists(os.environ["BROKEN_FILE"]):
    raise SystemExit("the settings are broken")
