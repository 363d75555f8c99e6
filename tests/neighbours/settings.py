"""A project with the apps that the environment names; the two apps of Signalbox are not among its own."""

import os

SECRET_KEY = "only a test"
DEBUG = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *os.environ["APPS"].split(),
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["DATABASE_FILE"],
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
# Neither the default of Django nor the type that the tables of the apps have.
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
REALTIME = {"REDIS_URL": os.environ["REDIS_URL"], "KEY_PREFIX": os.environ["KEY_PREFIX"]}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [os.environ["REDIS_URL"]]}}
}
ASGI_APPLICATION = "tests.neighbours.visit.application"
ROOT_URLCONF = "tests.neighbours.urls"
ALLOWED_HOSTS = ["testserver"]
LOGIN_URL = "admin:login"
STATIC_URL = "static/"
USE_TZ = True
