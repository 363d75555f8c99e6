"""The project's settings with kinds that wait, and the mail server of the test."""

import json
import os

from tests.subscriber_settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.timed_app"]  # noqa: F405
MAILERS = json.loads(os.environ["MAILERS"])
