"""
The demo's sinks: two files for each game, and an archive of all records of the games.

Owns the content of these files. Does not own the records (games.play) nor the state of a game (games.store).
"""

from typing import Any

from django.conf import settings

from project.demo.games.play import CLEANING, QUEUE
from project.demo.games.store import GameState, delete_game, load_game
from realtime.exceptions import PermanentError
from realtime.logs import LogRecord
from realtime.sinks import ContentSink, NdjsonSink

__all__ = ["GameLog", "Games"]


class Games(ContentSink):
    """`meta/<token>.json.gz` and `podium/<token>.json.gz` of each game that is over."""

    url = f"{settings.GAMES_URL}/games"
    queues = (QUEUE,)
    kinds = ("meta", "podium")
    lease_seconds = settings.GAMES_LEASE_SECONDS

    def select(self, record: LogRecord) -> bool:
        return record.message == CLEANING

    def key(self, record: LogRecord) -> str:
        token: str = record.task["game_token"]
        return token

    def fetch(self, record: LogRecord) -> GameState:
        game = load_game(self.key(record))
        if game is None:
            raise PermanentError("Redis has nothing of this game")
        return game

    def transform(self, record: LogRecord, fetched: GameState) -> dict[str, Any]:
        ranks = [
            {"rank": rank, "hero": hero, "damage": fetched.damage.get(hero, 0)}
            for rank, hero in enumerate(fetched.ranks, 1)
        ]
        meta = {**fetched.about, "token": self.key(record), "damage": sum(fetched.damage.values())}
        return {"meta": {**meta, "ended_at": record.timestamp}, "podium": ranks}

    def clean_up(self, record: LogRecord) -> None:
        delete_game(self.key(record))


class GameLog(NdjsonSink):
    """All records of the games."""

    url = f"{settings.GAMES_URL}/log"
    queues = (QUEUE,)
    lease_seconds = settings.GAMES_LEASE_SECONDS
