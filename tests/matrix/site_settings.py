"""Settings of the site of the matrix: the project's own, with mails as files in VAR_DIR, and background tasks."""

import django

from project.settings import *  # noqa: F403
from project.settings import NOTIFICATIONS as PROJECT_NOTIFICATIONS
from project.settings import VAR_DIR

_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
_MAILS = str(VAR_DIR / "mails")
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _BACKEND, "OPTIONS": {"file_path": _MAILS}}}
else:
    EMAIL_BACKEND, EMAIL_FILE_PATH = _BACKEND, _MAILS

NOTIFICATIONS = {
    **PROJECT_NOTIFICATIONS,
    "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.email.EmailTransport"}},
    "DEFAULT_TRANSPORTS": ["email"],
}

TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}}
