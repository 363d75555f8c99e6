"""
`manage.py simulate_games`: plays games of heroes. `run_log_sink` turns their log records into files.

Owns the command line, and playing several games at a time. Does not own a game (games.play).
"""

import contextlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.demo.games.play import play
from project.demo.stopping import StopOrder
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import HelpFormatter, redis_errors

EXAMPLES = """
examples:
  manage.py simulate_games                            24 games of 10 heroes
  manage.py simulate_games --games 4 --pause 1        slowly: to watch the pipeline at work
  manage.py simulate_games --seed 7 --json            the same games each time; one JSON object for programs

Run this beside it, as often as you like: its workers share the games.

  manage.py run_log_sink

The logger of the games has the handler RedisStreamHandler. The last record of each game is "Cleaning Game Records". A
sink then writes two files, meta/<token>.json.gz and podium/<token>.json.gz, and deletes the game in Redis.

Ctrl-C and SIGTERM break off the games that are running, and delete them in Redis. What was played stays. The exit code
is then 130 or 143.
"""
GAMES_AT_A_TIME = 8


class _BrokenOffError(Exception):
    """A game ends before its end."""


class Command(EscapingCommand):
    """Shows a progress bar on a terminal, and one sentence at the end."""

    help = "Simulate games of superheroes. Their log records become files."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXAMPLES, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--games", type=int, default=24, metavar="N", help="how many (default: 24)")
        parser.add_argument("--players", type=int, default=10, metavar="N", help="heroes in each (default: 10)")
        parser.add_argument(
            "--pause", type=float, default=0.1, metavar="S", help="seconds before each round (default: 0.1)"
        )
        parser.add_argument("--seed", type=int, metavar="N", help="the same seed makes the same games, with new tokens")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        stderr = options.get("stderr") or sys.stderr
        # Few games can take long, too.
        is_shown = stderr.isatty() or None
        stop, began = StopOrder(), time.monotonic()
        with (
            stop.on_signals(),
            redis_errors(),
            progress(stderr, "games", count=options["games"], is_shown=is_shown) as advance,
        ):
            tokens = _play_all(options, stop, lambda: advance("games", 1))
            # Then all records are on the stream.
            for handler in logging.getLogger("project.demo.games").handlers:
                handler.flush()
        seconds, count = round(time.monotonic() - began, 1), len(tokens)
        if options["as_json"]:
            self.stdout.write(json.dumps({"games": count, "seconds": seconds, "tokens": sorted(tokens)}))
        if count < options["games"]:
            raise CommandError(
                f"stopped: {count} of {options['games']} games were played. "
                "Those that were not over are deleted in Redis",
                returncode=128 + stop.signal_number,
            )
        if not options["as_json"]:
            games = "1 game was" if count == 1 else f"{count} games were"
            self.stdout.write(f"{games} played in {seconds} s: manage.py run_log_sink writes the files")


def _play_all(options: dict[str, Any], stop: StopOrder, on_played: Callable[[], None]) -> list[str]:
    """
    The tokens of the games that were played: all of them, unless a signal came.

    Raises:
        redis.RedisError: Redis is unavailable. The other games are broken off.
    """
    seeds = random.Random(options["seed"])  # noqa: S311 - games

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise _BrokenOffError

    def play_one(seed: int) -> str:
        # Those that have not begun when a signal comes do not begin.
        pause(0)
        return play(players=options["players"], seed=seed, pause=lambda: pause(options["pause"]))

    tokens: list[str] = []
    with ThreadPoolExecutor(GAMES_AT_A_TIME, "game") as threads:
        games = [threads.submit(play_one, seeds.getrandbits(32)) for _ in range(options["games"])]
        try:
            for game in as_completed(games):
                with contextlib.suppress(_BrokenOffError):
                    tokens.append(game.result())
                    on_played()
        except BaseException:
            stop.give()
            raise
    return tokens


def _check(options: dict[str, Any]) -> None:
    if not 1 <= options["games"] <= 100_000:
        raise CommandError("--games must be from 1 to 100000")
    if not 2 <= options["players"] <= 1_000:
        raise CommandError("--players must be from 2 to 1000")
    if not 0 <= options["pause"] <= 60:
        raise CommandError("--pause must be from 0 to 60 seconds")
