"""
`manage.py seed_demo --users N --cookies FILE`: creates many users with sessions, for load tests.

Owns the command line, which is stable, and the form of FILE. The users `user1` … `userN` have no usable password: only
the sessions in FILE sign them in, and only the owner of FILE may read it.
"""

import os
import tempfile
from collections.abc import Iterable
from importlib import import_module
from itertools import batched
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.hashers import make_password
from django.contrib.sessions.backends.base import VALID_KEY_CHARS
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore
from django.core.management.base import CommandError, CommandParser
from django.utils.crypto import get_random_string
from rich.console import Console
from rich.progress import track

from realtime.management.base import EscapingCommand

BATCH_SIZE = 1_000
SESSION_KEY_LENGTH = 32


class Command(EscapingCommand):
    help = "Create user1 … userN and a session for each, and write a line user_id<TAB>sessionid for each. DEBUG only."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--users", type=int, required=True, metavar="N", help="how many users")
        parser.add_argument("--cookies", type=Path, required=True, metavar="FILE", help="written with mode 600")

    def handle(self, *args: Any, **options: Any) -> None:
        count: int = options["users"]
        cookies: Path = options["cookies"]
        if not settings.DEBUG:
            raise CommandError("everybody who has the file can act as these users: seed_demo only runs with DEBUG on")
        if count < 1:
            raise CommandError(f"--users is {count}: it must be 1 or more")
        if not cookies.absolute().parent.is_dir():
            raise CommandError(f"--cookies {cookies}: there is no directory {cookies.absolute().parent}")
        batches = batched((f"user{number}" for number in range(1, count + 1)), BATCH_SIZE)
        shown = track(
            batches,
            description=f"Seeding {count} users",
            total=-(-count // BATCH_SIZE),
            console=Console(file=self.stderr),  # type: ignore[arg-type]
            disable=count <= BATCH_SIZE or not options["verbosity"],
        )
        _write_private(cookies, (f"{user_id}\t{key}\n" for names in shown for user_id, key in _seed(names)))
        if options["verbosity"]:
            self.stdout.write(f"{count} users are signed in; their cookies are in {cookies}")


def _seed(names: tuple[str, ...]) -> list[tuple[Any, str]]:
    """Create the missing ones of these users, and a session for each; returns (user id, session key) in order."""
    user_model = get_user_model()
    user_model.objects.bulk_create(
        [user_model(username=name, password=make_password(None)) for name in names], ignore_conflicts=True
    )
    users = {user.get_username(): user for user in user_model.objects.filter(username__in=names)}
    return [(users[name].pk, key) for name, key in zip(names, _log_in(users[name] for name in names), strict=True)]


def _log_in(users: Iterable[AbstractBaseUser]) -> list[str]:
    """Create a session for each user in the project's session backend. Returns their keys in the same order."""
    store_class = import_module(settings.SESSION_ENGINE).SessionStore
    backend = settings.AUTHENTICATION_BACKENDS[0]
    keys, rows = [], []
    for user in users:
        session = {
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: backend,
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
        if issubclass(store_class, DatabaseSessionStore):
            # In bulk, because save() needs three queries for each session.
            store = store_class(get_random_string(SESSION_KEY_LENGTH, VALID_KEY_CHARS))
            store.clear()
            rows.append(store.create_model_instance(session))
        else:
            store = store_class()
            store.update(session)
            store.save()
        keys.append(store.session_key)
    if rows:
        type(rows[0]).objects.bulk_create(rows)
    return keys


def _write_private(path: Path, lines: Iterable[str]) -> None:
    """Write a file that only its owner may read. It is written completely or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(lines)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
