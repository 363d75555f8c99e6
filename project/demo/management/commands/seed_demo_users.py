"""`manage.py seed_demo_users`: creates the three demo users. Their passwords are public, so it needs DEBUG."""

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError

from realtime.management.base import EscapingCommand

CUSTOMERS = {"alice": "demo", "bob": "demo"}
STAFF = {"admin": "admin"}


class Command(EscapingCommand):
    help = (
        "Create the demo users alice and bob (password demo) and the superuser admin (password admin). Existing users "
        "are not changed. Needs DEBUG."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("the passwords of demo users are public: they are only created with DEBUG on")
        users = get_user_model().objects
        existing = set(users.filter(username__in=[*CUSTOMERS, *STAFF]).values_list("username", flat=True))
        for name, password in CUSTOMERS.items():
            if name not in existing:
                users.create_user(name, email=f"{name}@example.com", password=password)
        for name, password in STAFF.items():
            if name not in existing:
                users.create_superuser(name, email=f"{name}@example.com", password=password)
        if options["verbosity"]:
            created = sorted({*CUSTOMERS, *STAFF} - existing)
            self.stdout.write(f"created: {', '.join(created)}" if created else "all demo users exist")
