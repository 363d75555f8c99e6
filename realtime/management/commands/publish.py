"""`manage.py publish`: publishes on a topic from a shell, once or at a rate. Its options are stable."""

import sys
import time
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from realtime.broker.publish import Published
from realtime.exceptions import RealtimeError
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import redis_errors
from realtime.publisher import Item, encode, publish_many

# The most publications in one round trip.
_BATCH_SIZE = 500
# With a rate, the progress bar is shown if publishing takes at least this long.
_BAR_FROM_SECONDS = 2.0


class Command(EscapingCommand):
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration
    help = (
        "Publish JSON on a topic. Its current subscribers get it at once. A client that reconnects gets what it has "
        "missed, if the topic's history still holds it; a client that subscribes later does not get it. "
        'Example: manage.py publish news.today \'{"headline": "It works"}\''
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("topic", help="a topic that an app declares, e.g. news.today or user.42")
        parser.add_argument("data", metavar="JSON", nargs="?", help="the data to publish, at most 64 KiB")
        parser.add_argument("--repeat", type=int, default=1, metavar="N", help="publish it N times (default: 1)")
        parser.add_argument(
            "--rate", type=float, default=0.0, metavar="R", help="at most R a second (default: no limit)"
        )
        keyed = parser.add_argument_group("on topics with a snapshot")
        keyed.add_argument("--key", help="what this is the newest state of")
        keyed.add_argument("--at", type=float, nargs=2, metavar=("LONGITUDE", "LATITUDE"), help="its place, in degrees")
        keyed.add_argument(
            "--bounds",
            type=float,
            nargs=4,
            metavar=("WEST", "SOUTH", "EAST", "NORTH"),
            help="its place, if not a point",
        )
        keyed.add_argument(
            "--tag",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="what filters can compare: a text, a number, true or false; repeat it for more tags",
        )
        keyed.add_argument("--level", type=int, default=0, metavar="Z", help="the lowest zoom at which it is shown")
        keyed.add_argument("--removed", action="store_true", help="the key is gone; leave out JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        topic, repeat, rate = options["topic"], options["repeat"], options["rate"]
        if repeat < 1 or not 0 <= rate < float("inf"):
            raise CommandError("--repeat must be at least 1, --rate at least 0 (no limit)")
        item = _item(topic, options)
        with redis_errors():
            last = self._publish(item, repeat=repeat, rate=rate)
        processes = f"{last.receiver_count} server process{'' if last.receiver_count == 1 else 'es'}"
        self.stdout.write(f"{topic}: {repeat} published up to offset {last.position.offset}, received by {processes}")
        if not last.receiver_count:
            self.stderr.write(
                f"{topic}: no client is connected that subscribes to this topic. Open a page that subscribes to it, "
                "then publish again.",
                self.style.WARNING,
            )

    def _publish(self, item: Item, *, repeat: int, rate: float) -> Published:
        is_shown = (rate > 0 and repeat / rate >= _BAR_FROM_SECONDS) or None
        began = time.monotonic()
        done = 0
        with progress(sys.stderr, "published", count=repeat, is_shown=is_shown) as advance:
            while True:
                # Everything that is due by now goes in one round trip, to keep rates that single calls could not reach.
                due = min(repeat, int((time.monotonic() - began) * rate) + 1 if rate > 0 else repeat)
                count = min(_BATCH_SIZE, due - done)
                if count < 1:
                    time.sleep(max(0.0, began + done / rate - time.monotonic()))
                    continue
                try:
                    last = publish_many([item] * count)[-1]
                except RealtimeError as error:
                    raise CommandError(f"{error} (published before that: {done})") from error
                done += count
                advance("published", count)
                if done == repeat:
                    return last


def _item(topic: str, options: dict[str, Any]) -> Item:
    """What the arguments say. What the topic does not accept is refused when it is published."""
    data, at, bounds = options["data"], options["at"], options["bounds"]
    if (data is None) != options["removed"]:
        raise CommandError("pass JSON, the data to publish; leave it out only with --removed")
    try:
        raw = None if data is None else encode(data.encode())
    except (ValueError, RealtimeError) as error:
        raise CommandError(f"this cannot be published: {error}. In a shell, put JSON in single quotes.") from error
    return Item(
        topic,
        raw,
        key=options["key"],
        at=tuple(at) if at else None,
        bounds=tuple(bounds) if bounds else None,
        tags=dict(map(_tag, options["tag"])),
        level=options["level"],
        removed=options["removed"],
    )


def _tag(argument: str) -> tuple[str, str | float | bool]:
    name, separator, text = argument.partition("=")
    if not name or not separator:
        raise CommandError(f"--tag is NAME=VALUE, not {argument!r}")
    try:
        # A number, true, false, or a text in quotation marks.
        return name, msgspec.json.decode(text, type=str | int | float | bool)
    except msgspec.MsgspecError:
        return name, text
