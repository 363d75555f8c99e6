"""`manage.py redis_url`: prints the URL of the Redis in use, for other programs. Its output is stable."""

from typing import Any

from realtime.conf import get_settings
from realtime.management.base import EscapingCommand
from realtime.management.streams import redis_errors


class Command(EscapingCommand):
    help = (
        "Print the URL of the Redis (or Valkey) that this project uses, e.g. for: redis-cli -u $(manage.py redis_url)"
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def handle(self, *args: Any, **options: Any) -> None:
        with redis_errors():
            self.stdout.write(get_settings().redis_url)
