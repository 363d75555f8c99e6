"""The project's settings for run_bot_subscriber under test; NOTIFICATIONS comes from the environment, as JSON."""

import json
import os

from project.settings import *  # noqa: F403

NOTIFICATIONS = json.loads(os.environ.get("NOTIFICATIONS", "{}"))
