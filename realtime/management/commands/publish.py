"""`manage.py publish`: publish on a topic from a shell, once or at a rate. Its form is held fixed."""

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import Progress

from realtime.exceptions import RealtimeError
from realtime.publisher import publish, publish_many

# Publications of one round trip, where no rate is asked for.
_BATCH_SIZE = 500
# Below this many, or this many seconds, there is nothing to watch.
_BAR_FROM = 1000
_BAR_FROM_SECONDS = 2.0


class Command(BaseCommand):
    help = (
        "Publish JSON on a topic: everybody who hears the topic gets it at once, nobody else ever does. "
        'Example: manage.py publish news.today \'{"headline": "It works"}\''
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("topic", help="a topic that some app declares, e.g. news.today or user.42")
        parser.add_argument("data", metavar="JSON", help="what is published; at most 64 KiB")
        parser.add_argument("--repeat", type=int, default=1, metavar="N", help="publish it N times (default: 1)")
        parser.add_argument(
            "--rate", type=float, default=0.0, metavar="R", help="at most R a second (default: no limit)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        topic, repeat, rate = options["topic"], options["repeat"], options["rate"]
        if repeat < 1 or rate < 0:
            raise CommandError("--repeat is at least 1, --rate at least 0 (no limit)")
        try:
            json.loads(options["data"])
        except ValueError as error:
            raise CommandError(f"this is no JSON: {error}. In a shell, put it between single quotes.") from error
        data = options["data"].encode()
        show = repeat >= _BAR_FROM or (rate > 0 and repeat / rate >= _BAR_FROM_SECONDS)
        began = time.monotonic()
        with Progress(console=Console(stderr=True), disable=not show, transient=True) as progress:
            bar = progress.add_task("publishing", total=repeat)
            done = 0
            try:
                while done < repeat:
                    if rate > 0:
                        time.sleep(max(0.0, began + done / rate - time.monotonic()))
                        last = publish(topic, data)
                        count = 1
                    else:
                        count = min(_BATCH_SIZE, repeat - done)
                        last = publish_many([(topic, data)] * count)[-1]
                    done += count
                    progress.update(bar, completed=done)
            except RealtimeError as error:
                raise CommandError(f"{error} (published before that: {done})") from error
        self.stdout.write(
            f"{topic}: {done} published up to offset {last.position.offset}, heard by {last.receiver_count} processes"
        )
