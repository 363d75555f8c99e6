"""Settings for a run_bot_subscriber on the database of the test run: kinds that wait, and the test's mail server."""

import json
import os

from tests.support.subscriber_settings import *  # noqa: F403

DATABASES["default"]["NAME"] = os.environ["DATABASE_NAME"]  # noqa: F405
INSTALLED_APPS = [*INSTALLED_APPS, "tests.timed_app"]  # noqa: F405
MAILERS = json.loads(os.environ["MAILERS"])
