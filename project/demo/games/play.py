"""
Plays a game: applies the rules, stores the state, and logs what happens.

Owns the log records of the games. The sinks know of a game only what these records and Redis contain. Does not own the
rules (combat) nor the keys in Redis (store).
"""

import contextlib
import logging
import random
import secrets
from collections.abc import Callable

import redis

from project.demo.games.combat import Attack, Death, Event, Game, MatchStarted, RoundStarted, Timeout
from project.demo.games.store import delete_game, finish_game, save_damage

__all__ = ["CLEANING", "QUEUE", "play"]

logger = logging.getLogger(__name__)

# The queue of all records.
QUEUE = "demo.games"
# The message that ends a game. A sink then writes the files of the game, and deletes it in Redis.
CLEANING = "Cleaning Game Records"


def play(*, players: int, seed: int, pause: Callable[[], object] = lambda: None) -> str:
    """
    Play one game. Its last log record makes a sink write its files.

    Args:
        players: How many heroes take part.
        seed: The same seed and number of players make the same game.
        pause: Called in each round, before its matches. If it raises, the game is broken off, and deleted in Redis.

    Returns:
        The token of the game, by which its records, its keys and its files are named.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    token = secrets.token_hex(16)
    try:
        _play(token, players=players, seed=seed, pause=pause)
    except BaseException:
        # If Redis is unavailable, it expires there.
        with contextlib.suppress(redis.RedisError):
            delete_game(token)
        raise
    return token


def _play(token: str, *, players: int, seed: int, pause: Callable[[], object]) -> None:
    game = Game.with_players(players, random.Random(seed))  # noqa: S311 - a game
    for event in game.play():
        if isinstance(event, RoundStarted):
            save_damage(token, {hero.name: hero.damage for hero in game.heroes})
            pause()
        message, *arguments = _message(event)
        logger.info(message, *arguments, extra={"queue": QUEUE, "task": {"game_token": token}})
    ranks = [hero.name for hero in (*game.living, *reversed(game.dead))]
    save_damage(token, {hero.name: hero.damage for hero in game.heroes})
    finish_game(
        token,
        {
            "players": players,
            "seed": seed,
            "rounds": game.round_count,
            "timeouts": game.timeout_count,
            "winner": ranks[0],
        },
        ranks,
    )
    logger.info("%s has won", ranks[0], extra={"queue": QUEUE, "task": {"game_token": token}})
    task = {"game_token": token, "user_token": secrets.token_hex(16)}
    logger.info(CLEANING, extra={"queue": QUEUE, "task": task})


def _message(event: Event) -> tuple[object, ...]:
    """The log message of an event: its format, and the arguments."""
    match event:
        case RoundStarted():
            return "Round %d: %d heroes are left", event.number, event.hero_count
        case MatchStarted():
            return "%s meets %s", event.one.name, event.other.name
        case Attack():
            return "%s attacks %s: %d points", event.attacker.name, event.defender.name, event.damage
        case Death():
            return "%s dies, defeated by %s, and is number %d", event.hero.name, event.winner.name, event.rank
        case Timeout():
            return "%s and %s part: time is over", event.one.name, event.other.name
