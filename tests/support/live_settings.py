"""The project's settings for a site under test that has topics with a snapshot."""

from project.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.live_app"]  # noqa: F405
