"""The least that a project needs to have the two apps; the environment says where and with which user model."""

import os

SECRET_KEY = "only a test"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "tests.custom_user",
    "realtime",
    "notifications",
]
AUTH_USER_MODEL = os.environ["USER_MODEL"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE_FILE"]}}
REALTIME = {"REDIS_URL": os.environ["REDIS_URL"], "KEY_PREFIX": os.environ["KEY_PREFIX"]}
USE_TZ = True
