"""
`manage.py simulate_games`: plays games of heroes. `run_log_sink` turns their log records into files.

Owns the command line, and playing several games at a time. Does not own a game (games.play).
"""

import json
import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NoReturn

from django.core.management.base import CommandError, CommandParser

from project.demo.games.play import play
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import HelpFormatter, redis_errors

EXAMPLES = """
examples:
  manage.py simulate_games                            24 games of 10 heroes
  manage.py simulate_games --games 4 --pause 1        slowly, to watch the sinks at work
  manage.py simulate_games --seed 7 --json            the same games each time; one JSON object for programs

Run this in one or more other terminals; the processes share the games:

  manage.py run_log_sink

The logger of the games has the handler RedisStreamHandler. The last record of each game is "Cleaning Game Records". A
sink then writes two files, meta/<token>.json.gz and podium/<token>.json.gz, and deletes the game in Redis.
"""
GAMES_AT_A_TIME = 8


class Command(EscapingCommand):
    """Shows a progress bar while it runs, and one sentence at the end."""

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
        parser.add_argument("--seed", type=int, metavar="N", help="the same seed makes the same games")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        signal.signal(signal.SIGTERM, _interrupt)
        began = time.monotonic()
        stderr = options.get("stderr") or sys.stderr
        with redis_errors(), progress(stderr, "games", count=options["games"]) as advance:
            tokens = _play_all(
                options["games"],
                players=options["players"],
                pause_seconds=options["pause"],
                seed=options["seed"],
                on_end=lambda: advance("games", 1),
            )
        # All records are to be on the stream when the games are reported as played.
        for handler in logging.getLogger("project.demo.games").handlers:
            handler.flush()
        seconds = round(time.monotonic() - began, 1)
        if options["as_json"]:
            self.stdout.write(json.dumps({"games": len(tokens), "seconds": seconds, "tokens": sorted(tokens)}))
        else:
            self.stdout.write(
                f"{len(tokens)} games were played in {seconds} s: manage.py run_log_sink writes their files"
            )


def _play_all(
    count: int, *, players: int, pause_seconds: float, seed: int | None, on_end: Callable[[], object]
) -> list[str]:
    """Play games in threads; returns their tokens in the order of their ends. An error or a signal ends it."""
    seeds = random.Random(seed)  # noqa: S311 - games
    tokens: list[str] = []
    with ThreadPoolExecutor(GAMES_AT_A_TIME) as threads:
        games = [
            threads.submit(play, players=players, seed=seeds.getrandbits(32), pause=lambda: time.sleep(pause_seconds))
            for _ in range(count)
        ]
        try:
            for game in as_completed(games):
                tokens.append(game.result())
                on_end()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return tokens


def _check(options: dict[str, Any]) -> None:
    if not 1 <= options["games"] <= 100_000:
        raise CommandError("--games must be from 1 to 100000")
    if not 2 <= options["players"] <= 1_000:
        raise CommandError("--players must be from 2 to 1000")
    if not 0 <= options["pause"] <= 60:
        raise CommandError("--pause must be from 0 to 60 seconds")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
