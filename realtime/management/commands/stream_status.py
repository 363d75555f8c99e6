"""`manage.py stream_status`: the state of each stream and consumer group."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from realtime.management.streams import StreamsCommand
from realtime.streams.status import GroupStatus, StreamStatus

COLUMNS = (
    *("stream", "length", "group", "lag", "pending", "delayed", "standing", "dead", "oldest"),
    *("consumers", "workers"),
)
LEFT = ("stream", "group")


class Command(StreamsCommand):
    help = """\
Shows the state of each stream and consumer group.

  length     entries on the stream; entries that all groups have finished are trimmed, except for the last one
  lag        on the stream and not read by the group: grows if there are too few workers, or none
  pending    in flight in workers: does not change while lag grows if the workers are stuck
  delayed    parked until their next attempt, or behind an older entry of the same user
  standing   stuck keys: no worker holds their entries, and they are not due; workers repair this within a lease
  dead       dead letters: see replay_dead_letters and purge_dead_letters
  oldest     the age of the oldest entry that is neither finished nor a dead letter
  consumers  consumers in Redis, including dead ones until others have taken their entries
  workers    workers that are alive: with 0, nothing of the group is handled"""
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
        group.oldest,
        str(group.consumers),
        str(group.workers),
    ]
