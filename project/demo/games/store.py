"""
The state of the games in Redis, which stays there until a sink has written it into files.

Owns two keys for each game: a hash with its result, and a hash with the damage that each hero has done. They expire if
no sink deletes them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realtime.conf import keys, sync_redis

__all__ = ["GameState", "delete_game", "finish_game", "load_game", "save_damage"]

# The TTL of the keys, from the last write.
LIFETIME_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class GameState:
    """
    A game that is over.

    Attributes:
        about: "players", "rounds" and "timeouts" (how many), "seed", and "winner" (a name).
        damage: The name of a hero → the points of health that it has taken from others.
        ranks: The names of the heroes, the winner first.
    """

    about: dict[str, Any]
    damage: dict[str, int]
    ranks: Sequence[str]


def save_damage(token: str, damage: dict[str, int]) -> None:
    """Store the damage that each hero has done so far, by name."""
    if damage:
        with sync_redis().pipeline(transaction=False) as pipeline:
            pipeline.hset(_damage_key(token), mapping=damage)  # type: ignore[arg-type]
            pipeline.expire(_damage_key(token), LIFETIME_SECONDS)
            pipeline.execute()


def finish_game(token: str, about: dict[str, Any], ranks: Sequence[str]) -> None:
    """Store the result of a game; see GameState."""
    with sync_redis().pipeline(transaction=True) as pipeline:
        pipeline.hset(_key(token), mapping={"about": json.dumps(about), "ranks": json.dumps(ranks)})
        pipeline.expire(_key(token), LIFETIME_SECONDS)
        pipeline.execute()


def load_game(token: str) -> GameState | None:
    """The state of a game; None if the game is not over, was deleted, or has expired."""
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
    """Delete both keys of a game. Idempotent."""
    sync_redis().delete(_key(token), _damage_key(token))


def _key(token: str) -> str:
    return f"{keys().prefix}demo:{{game:{token}}}"


def _damage_key(token: str) -> str:
    return f"{_key(token)}:damage"
