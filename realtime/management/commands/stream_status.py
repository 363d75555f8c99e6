"""`manage.py stream_status`: how far the workers of each stream and group are."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from realtime.management.streams import StreamsCommand
from realtime.streams.status import GroupStatus, StreamStatus

COLUMNS = ("stream", "length", "group", "lag", "pending", "delayed", "standing", "dead", "oldest", "consumers")
LEFT = ("stream", "group")


class Command(StreamsCommand):
    help = """\
Shows how far the workers of each stream and consumer group are.

  length     entries on the stream; what all groups have finished is trimmed away, but for the last one
  lag        on the stream and not read by the group: grows if there are too few workers, or none
  pending    in the hands of workers: stands still while lag grows if they are stuck
  delayed    between two attempts, or waiting behind an older entry of the same user
  standing   stuck keys: no worker holds their work, and it is not due; workers repair this within a lease
  dead       given up: see replay_dead_letters and purge_dead_letters
  oldest     how long ago the oldest entry was appended that is none of: done, dead
  consumers  workers"""
    epilog = """\
examples:
  manage.py stream_status
  manage.py stream_status notifications --group bot
  manage.py stream_status --json | jq '.streams[].groups[] | select(.dead > 0)'
"""

    def handle(self, *args: Any, **options: Any) -> None:
        streams = [
            dataclasses.replace(
                stream, groups=tuple(each for each in stream.groups if options["group"] in (None, each.name))
            )
            for stream in self.read(options)
        ]
        if options["as_json"]:
            self.stdout.write(json.dumps({"streams": [dataclasses.asdict(stream) for stream in streams]}))
        elif not streams:
            self.stdout.write("no stream has had a worker: start one with manage.py run_bot_subscriber")
        else:
            rows = [_row(stream, group) for stream in streams for group in stream.groups]
            self.stdout.write("\n".join(_table(rows)))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with a heading and a rule; names are aligned left, numbers right."""
    widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    for number, row in enumerate((COLUMNS, *rows)):
        cells = zip(COLUMNS, row, widths, strict=True)
        yield "  ".join(f"{cell:{'<' if column in LEFT else '>'}{width}}" for column, cell, width in cells).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def _row(stream: StreamStatus, group: GroupStatus) -> list[str]:
    lag = "?" if group.lag is None else f"{group.lag:,}"
    counts = (f"{count:,}" for count in (group.pending, group.delayed, group.standing, group.dead))
    return [
        stream.key,
        f"{stream.length:,}",
        group.name,
        lag,
        *counts,
        _age(group.oldest_seconds),
        str(group.consumers),
    ]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
