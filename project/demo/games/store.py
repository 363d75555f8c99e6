"""
The state of the games in Redis, until a sink has written it into files.

Owns these keys: for each game a hash with what is known of it, and one with the damage that each hero has done. A game
that nobody cleans up expires.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realtime.conf import keys, sync_redis

__all__ = ["GameState", "delete_game", "finish_game", "load_game", "save_damage"]

LIFETIME_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class GameState:
    """
    A game that is over.

    Attributes:
        about: players, rounds, timeouts, seed, winner.
        damage: Hero → damage.
        ranks: The heroes, the winner first.
    """

    about: dict[str, Any]
    damage: dict[str, int]
    ranks: Sequence[str]


def save_damage(token: str, damage: dict[str, int]) -> None:
    """After each round: what each hero has done until now."""
    if damage:
        with sync_redis().pipeline(transaction=False) as pipeline:
            pipeline.hset(_damage_key(token), mapping=damage)  # type: ignore[arg-type]
            pipeline.expire(_damage_key(token), LIFETIME_SECONDS)
            pipeline.execute()


def finish_game(token: str, about: dict[str, Any], ranks: Sequence[str]) -> None:
    """At the end of the game."""
    with sync_redis().pipeline(transaction=True) as pipeline:
        pipeline.hset(_key(token), mapping={"about": json.dumps(about), "ranks": json.dumps(ranks)})
        pipeline.expire(_key(token), LIFETIME_SECONDS)
        pipeline.execute()


def load_game(token: str) -> GameState | None:
    """The state of a game that is over; None if it is not, or was deleted."""
    with sync_redis().pipeline(transaction=True) as pipeline:
        pipeline.hgetall(_key(token))
        pipeline.hgetall(_damage_key(token))
        found, damage = pipeline.execute()
    if not found:
        return None
    return GameState(
        about=json.loads(found[b"about"]),
        damage={hero.decode(): int(points) for hero, points in damage.items()},
        ranks=json.loads(found[b"ranks"]),
    )


def delete_game(token: str) -> None:
    """Remove all of it. Idempotent."""
    sync_redis().delete(_key(token), _damage_key(token))


def _key(token: str) -> str:
    return f"{keys().prefix}demo:{{game:{token}}}"


def _damage_key(token: str) -> str:
    return f"{_key(token)}:damage"
