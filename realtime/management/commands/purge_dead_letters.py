"""`manage.py purge_dead_letters`: deletes entries that were given up."""

from collections.abc import Sequence
from typing import Any

import redis
from django.core.management.base import CommandError, CommandParser

from realtime.management.streams import DeadLettersCommand
from realtime.streams.dead_letters import DeadLetter, purge
from realtime.streams.keys import GroupKeys


class Command(DeadLettersCommand):
    done = "purged"
    help = """\
Deletes entries that a consumer group has given up, permanently.

Notifications stay in the database. Without a filter nothing is deleted unless --all is given."""
    epilog = """\
examples:
  manage.py purge_dead_letters --older-than 30d
  manage.py purge_dead_letters --group bot --id 1795269929959-0
  manage.py purge_dead_letters --all
"""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--all", action="store_true", help="all of them, regardless of age")

    def check_filters(self, options: dict[str, Any]) -> None:
        if not (options["all"] or options["ids"] or options["older_than"] is not None or options["limit"]):
            raise CommandError("select some: --older-than AGE, --id ID, --limit N, or --all")

    def do(self, client: redis.Redis, group_keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
        return purge(client, group_keys, letters)
