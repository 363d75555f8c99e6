"""The project's settings with the Sites framework, and a database of one process's own."""

import os

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sites"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
NOTIFICATIONS = {
    "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.email.EmailTransport"}},
    "DEFAULT_TRANSPORTS": ["email"],
    "DELIVERY": "console",
    "BASE_URL": os.environ.get("GIVEN_BASE_URL", ""),
}
if "GIVEN_SITE_ID" in os.environ:
    SITE_ID = int(os.environ["GIVEN_SITE_ID"])
