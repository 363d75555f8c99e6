"""The project's settings for a site under fault; NOTIFICATIONS comes from the environment, as JSON."""

import json
import os
from pathlib import Path

from project.settings import *  # noqa: F403
from project.settings import DATABASES
from tests.faults import clock

NOTIFICATIONS = json.loads(os.environ["NOTIFICATIONS"])
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Shorter than the outage, so that it is an error to those who write and not a long wait.
    DATABASES["default"]["OPTIONS"]["timeout"] = 2
if "CLOCK_FILE" in os.environ:
    clock.follow(Path(os.environ["CLOCK_FILE"]))
