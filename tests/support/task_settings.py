"""The project's settings for run_task_worker under test; the prefix of its Redis keys comes from the environment."""

import os

from project.settings import *  # noqa: F403
from project.settings import REALTIME

REALTIME["KEY_PREFIX"] = os.environ["TEST_PREFIX"]
TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}}
