"""`manage.py simulate_games`: plays games of heroes, whose log records `run_log_sink` turns into files."""

import json
import logging
import random
import signal
import sys
import time
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
  manage.py simulate_games --games 4 --pause 1        slowly: to watch the pipeline at work
  manage.py simulate_games --seed 7 --json            the same games each time; one JSON object for programs

Run this beside it, as often as you like: its workers share the games.

  manage.py run_log_sink

Each game is logged as it is played, by a logger whose handler is RedisStreamHandler. At its end, the record
"Cleaning Game Records" lets a sink write two files, meta/<token>.json.gz and podium/<token>.json.gz, and then delete
the game in Redis.
"""
GAMES_AT_A_TIME = 8


class Command(EscapingCommand):
    """Shows a progress bar while it runs, and one sentence at the end."""

    help = "Simulate games of superheroes, whose log records become files."
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
        seeds = random.Random(options["seed"])  # noqa: S311 - games
        began = time.monotonic()
        tokens: list[str] = []
        stderr = options.get("stderr") or sys.stderr
        with (
            redis_errors(),
            progress(stderr, "games", count=options["games"]) as advance,
            ThreadPoolExecutor(GAMES_AT_A_TIME) as threads,
        ):
            games = [
                threads.submit(
                    play,
                    players=options["players"],
                    seed=seeds.getrandbits(32),
                    pause=lambda: time.sleep(options["pause"]),
                )
                for _ in range(options["games"])
            ]
            try:
                for game in as_completed(games):
                    tokens.append(game.result())
                    advance("games", 1)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        # The handlers of this process have sent everything when it ends.
        for handler in logging.getLogger("project.demo.games").handlers:
            handler.flush()
        seconds = round(time.monotonic() - began, 1)
        if options["as_json"]:
            self.stdout.write(json.dumps({"games": len(tokens), "seconds": seconds, "tokens": sorted(tokens)}))
        else:
            self.stdout.write(
                f"{len(tokens)} games were played in {seconds} s: manage.py run_log_sink writes their files"
            )


def _check(options: dict[str, Any]) -> None:
    if not 1 <= options["games"] <= 100_000:
        raise CommandError("--games must be from 1 to 100000")
    if not 2 <= options["players"] <= 1_000:
        raise CommandError("--players must be from 2 to 1000")
    if not 0 <= options["pause"] <= 60:
        raise CommandError("--pause must be from 0 to 60 seconds")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
