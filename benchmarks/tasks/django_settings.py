"""
The smallest Django project that has tasks: BENCHMARK_BACKEND says with which backend.

Owns what each backend's documentation asks for. REDIS_URL and BENCHMARK_DATABASE say where the servers are.
"""

import os
from typing import Any
from urllib.parse import urlsplit

BACKEND = os.environ["BENCHMARK_BACKEND"]
REDIS_URL = os.environ["REDIS_URL"]

SECRET_KEY = "benchmark"  # noqa: S105 - it signs nothing
USE_TZ = True
DEBUG = False
ALLOWED_HOSTS: list[str] = []
# Django logs each task at INFO. Without handlers that is work for nothing: it is off for all.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {name: {"level": "WARNING"} for name in ("django.tasks", "django_tasks", "rq.worker", "rq")},
}


def _database() -> dict[str, Any]:
    url = urlsplit(os.environ.get("BENCHMARK_DATABASE", ""))
    if url.scheme == "sqlite":
        # Django's page on databases, "Database is locked" errors and "Setting pragma options".
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": url.path,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            },
        }
    if not url.scheme:
        return {"ENGINE": "django.db.backends.dummy"}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.strip("/"),
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        # Django's page on databases, "Persistent connections". Else the worker connects again for each task.
        "CONN_MAX_AGE": None,
    }


DATABASES = {"default": _database()}

match BACKEND:
    case "signalbox":
        INSTALLED_APPS = [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "realtime",
        ]
        REALTIME = {"REDIS_URL": REDIS_URL}
        CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}}
        TASKS: dict[str, Any] = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default"]}}
    case "threadmill":
        # Its README, "Setup".
        INSTALLED_APPS = ["threadmill"]
        TASKS = {"default": {"BACKEND": "threadmill.backends.redis.RedisTaskBackend", "REDIS_URL": REDIS_URL}}
    case "django-tasks-db":
        # Its README, "Installation"; ids in the order of time, "Customizing the task id", would need Python 3.14.
        INSTALLED_APPS = ["django_tasks_db"]
        TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default"]}}
    case "django-tasks-rq":
        # Its README, "Installation" and "Usage". RQ keeps a result for 500 seconds.
        INSTALLED_APPS = ["django_rq", "django_tasks_rq"]
        TASKS = {"default": {"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": ["default"]}}
        RQ_QUEUES = {"default": {"URL": REDIS_URL}}
    case "huey":
        # huey's guide, "Django", "django.tasks".
        INSTALLED_APPS = ["huey.contrib.djhuey"]
        HUEY = {"name": "benchmark", "url": REDIS_URL, "immediate": False}
        TASKS = {"default": {"BACKEND": "huey.contrib.djhuey.tasks_backend.HueyBackend", "QUEUES": ["default"]}}
