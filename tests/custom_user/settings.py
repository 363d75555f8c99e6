"""The least that a project needs to have the two apps; the environment says where and with which user model."""

import os

SECRET_KEY = "only a test"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "tests.custom_user",
    "realtime",
    "notifications",
]
AUTH_USER_MODEL = os.environ["USER_MODEL"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE_FILE"]}}
# As docs/how-to/add-to-your-project.md has it: two threads of this process write.
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [os.environ["REDIS_URL"]]}}
}
NOTIFICATIONS = {
    "SEND_MESSAGE": "tests.custom_user.live_site.send_message",
    "SWEEP_INTERVAL_SECONDS": 0.2,
    "INGRESS_LEASE_SECONDS": 1,
}
ALLOWED_HOSTS = ["testserver"]
REALTIME = {"REDIS_URL": os.environ["REDIS_URL"], "KEY_PREFIX": os.environ["KEY_PREFIX"]}
ROOT_URLCONF = "notifications.urls"
USE_TZ = True
