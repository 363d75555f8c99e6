"""
The common parts of the commands about streams.

Owns their arguments, finding the streams, groups and dead letters, and the output. Does not own what is done with dead
letters (the commands).
"""

import argparse
import contextlib
import json
import re
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser, DjangoHelpFormatter

from realtime.conf import keys, sync_redis
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.sinks import all_sinks
from realtime.streams.dead_letters import DeadLetter, find
from realtime.streams.keys import GroupKeys
from realtime.streams.status import StreamStatus, known_streams, read_status

__all__ = ["DeadLettersCommand", "HelpFormatter", "StreamsCommand", "parse_age", "redis_errors"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class StreamsCommand(EscapingCommand):
    """A command about streams; `epilog` has its examples."""

    epilog = ""
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "streams", nargs="*", metavar="stream", help="e.g. notifications; by default all that have had a worker"
        )
        parser.add_argument("--group", metavar="NAME", help="only this consumer group, e.g. bot")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    def read(self, options: dict[str, Any]) -> list[StreamStatus]:
        """The streams and groups that the arguments select. Raises CommandError if one does not exist."""
        with redis_errors():
            client = sync_redis()
            named = [keys().stream(name) for name in options["streams"]]
            found = read_status(client, named or known_streams(client, keys().streams()))
        for stream in found:
            if named and not stream.groups:
                if stream.length:
                    raise CommandError(_no_worker_yet(stream))
                known = ", ".join(known_streams(client, keys().streams())) or "none"
                raise CommandError(f"the stream {stream.key} does not exist; known streams: {known}")
        group = options["group"]
        groups = sorted({each.name for stream in found for each in stream.groups})
        if group is not None and group not in groups:
            raise CommandError(f"there is no group {group!r}; groups: {', '.join(groups) or 'none'}")
        return found


class DeadLettersCommand(StreamsCommand):
    """A command that does one thing with all dead letters that match its filters."""

    # What was done, for the output: "replayed".
    done = ""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--id",
            action="append",
            dest="ids",
            metavar="ID",
            help="only this dead letter, by its own id or that of its entry; may be given several times",
        )
        parser.add_argument(
            "--older-than", type=parse_age, metavar="AGE", help="only those given up longer ago: 90s, 15m, 2h, 7d"
        )
        parser.add_argument("--limit", type=_positive, metavar="N", help="at most N of each group, the oldest first")

    def handle(self, *args: Any, **options: Any) -> None:
        self.check_filters(options)
        groups = [
            (GroupKeys(stream.key, group.name), group.dead)
            for stream in self.read(options)
            for group in stream.groups
            if options["group"] in (None, group.name)
        ]
        counts = []
        missing = set(options["ids"] or ())
        stderr, total = options.get("stderr") or sys.stderr, sum(dead for _, dead in groups)
        with redis_errors(), progress(stderr, "dead letters", count=total) as advance:
            for group_keys, dead_count in groups:
                count = 0
                filters = {"older_than_seconds": options["older_than"], "limit": options["limit"]}
                ids = frozenset(options["ids"]) if options["ids"] else None
                for letters in find(sync_redis(), group_keys, ids=ids, **filters):
                    missing -= {name for letter in letters for name in (letter.id, letter.entry_id)}
                    count += self.do(sync_redis(), group_keys, letters)
                    advance("dead letters", len(letters))
                counts.append((group_keys, count, dead_count - count))
        self._report(counts, as_json=options["as_json"])
        if missing:
            narrowed = any(options[name] for name in ("streams", "group", "older_than", "limit"))
            among = ", among those that the other filters leave" if narrowed else ""
            raise CommandError(f"no dead letter has the id {', '.join(sorted(missing))}{among}")

    def check_filters(self, options: dict[str, Any]) -> None:
        """Raise CommandError if the arguments are not acceptable."""

    @abstractmethod
    def do(self, client: redis.Redis, group_keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
        """Do it with these dead letters, and return how many were done."""

    def _report(self, counts: list[tuple[GroupKeys, int, int]], *, as_json: bool) -> None:
        if as_json:
            groups = [
                {"stream": group.stream, "group": group.group, f"{self.done}_count": count, "left_count": left}
                for group, count, left in counts
            ]
            self.stdout.write(json.dumps({f"{self.done}_count": sum(each[1] for each in counts), "groups": groups}))
            return
        if not counts:
            self.stdout.write("no stream has had a worker, so there are no dead letters")
        for group, count, left in counts:
            self.stdout.write(f"{group.stream}, {group.group}: {count} {self.done}, {left} left")


@contextlib.contextmanager
def redis_errors() -> Iterator[None]:
    """Report errors of Redis and a wrong REALTIME as a CommandError of one line."""
    try:
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    except redis.RedisError as error:
        raise CommandError(f"Redis: {type(error).__name__}: {error}") from error


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""


def parse_age(text: str) -> float:
    """The seconds of an age on a command line: 90s, 15m, 2h, 7d. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def _no_worker_yet(stream: StreamStatus) -> str:
    entries = "1 entry waits" if stream.length == 1 else f"{stream.length:,} entries wait"
    is_of_sink = stream.key in {keys().stream(sink.stream) for sink in all_sinks()}
    start = "start manage.py run_log_sink" if is_of_sink else "start one"
    return f"{entries} on the stream {stream.key}, and no worker has run yet: {start}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
