"""
A process for test_outbox.py: commits a notification for the user RECIPIENT and ends before it is published.

Run with "killed-after-commit", it kills itself between commit and publishing; with "publishing", it is killed by the
test while it waits for Redis.
"""

import os
import signal
import sys

import django
from django.conf import settings


def main(how: str) -> None:
    settings.DATABASES["default"]["NAME"] = os.environ["TEST_DATABASE"]
    settings.REALTIME = {**settings.REALTIME, "KEY_PREFIX": os.environ["TEST_PREFIX"]}
    django.setup()

    from django.db import transaction

    from notifications.services import notify

    with transaction.atomic():
        if how == "killed-after-commit":
            transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        notify(int(os.environ["RECIPIENT"]), "Your order is on its way!")


if __name__ == "__main__":
    main(sys.argv[1])
