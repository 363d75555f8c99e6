"""A process for test_custom_user.py: makes two users and notifies them in every way; prints ids and errors as JSON."""

import json
import sys
from typing import Any

import django
from django.core.management import call_command


def main() -> None:
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)

    from django.contrib.auth import get_user_model

    from notifications.exceptions import InvalidNotification
    from notifications.services import mark_read, notify, send_notification

    users: Any = get_user_model()
    names = ["alice@example.com", "bob@example.com"]
    alice, bob = (users.objects.create(**{users.USERNAME_FIELD: name}) for name in names)
    errors = []
    for wrong in (7, "nobody", True):
        try:
            notify(wrong, "to nobody")
        except InvalidNotification as error:
            errors.append(str(error))
    notify([alice, alice.pk, str(bob.pk)], "each once", actor=bob)
    notify(users.objects.all(), "all", actor=bob.pk)
    send_notification(alice.pk, "one")
    call_command("notify", *names, str(bob.pk), "by name or id", stdout=sys.stderr)
    report = {"ids": [str(alice.pk), str(bob.pk)], "read_count": mark_read(alice.pk), "errors": errors}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
