"""The project's settings with one transport; BENCHMARK_TRANSPORT, _PORT and _KEYS say which, and where it leads."""

import base64
import os

from project.settings import *  # noqa: F403 - all of them
from project.settings import DATABASES

PORT, KEYS = os.environ["BENCHMARK_PORT"], os.environ["BENCHMARK_KEYS"]
TRANSPORT = os.environ["BENCHMARK_TRANSPORT"]
# One that was made for the run, where the server has others.
DATABASES["default"]["NAME"] = os.environ.get("BENCHMARK_DATABASE") or DATABASES["default"]["NAME"]

NOTIFICATIONS = {
    "DEFAULT_TRANSPORTS": [TRANSPORT],
    "TRANSPORTS": {
        TRANSPORT: {
            "nothing": {"BACKEND": "benchmarks.providers.nothing.NothingTransport", "OPTIONS": {"keys": KEYS}},
            "webhook": {
                "BACKEND": "notifications.transports.webhook.WebhookTransport",
                "OPTIONS": {
                    "url": f"http://127.0.0.1:{PORT}/",
                    "secret": "whsec_" + base64.b64encode(bytes(24)).decode(),
                    "allow_private": True,
                },
            },
            "email": {"BACKEND": "notifications.transports.email.EmailTransport"},
        }[TRANSPORT]
    },
}
MAILERS = {
    "default": {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {"host": "127.0.0.1", "port": int(PORT), "timeout": 10},
    }
}
