"""`manage.py seed_demo_users`: the three people of the demo. Their passwords are known, so never outside DEBUG."""

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError

from realtime.management.base import EscapingCommand

CUSTOMERS = {"alice": "demo", "bob": "demo"}
STAFF = {"admin": "admin"}


class Command(EscapingCommand):
    help = (
        "Make the demo users alice and bob (password demo) and the superuser admin (password admin). Those who are "
        "there already stay as they are. Refused unless DEBUG is on."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("demo users have passwords that everybody knows: they are made with DEBUG on only")
        users = get_user_model().objects
        there = set(users.filter(username__in=[*CUSTOMERS, *STAFF]).values_list("username", flat=True))
        for name, password in CUSTOMERS.items():
            if name not in there:
                users.create_user(name, email=f"{name}@example.com", password=password)
        for name, password in STAFF.items():
            if name not in there:
                users.create_superuser(name, email=f"{name}@example.com", password=password)
        if options["verbosity"]:
            made = sorted({*CUSTOMERS, *STAFF} - there)
            self.stdout.write(f"made: {', '.join(made)}" if made else "all of them are there")
