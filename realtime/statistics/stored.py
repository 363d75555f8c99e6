"""
Reading from Redis what all processes have counted: minutes, hours, and the processes themselves.

Owns reading these figures, and keeping the maxima of present states. Does not own pushing (pusher) nor the copies in
the database.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from realtime.redis.connection_checks import answer_parsed
from realtime.redis.keys import Keys
from realtime.statistics.pusher import HOUR_SECONDS, MINUTE_SECONDS, About

__all__ = ["ALIVE_SECONDS", "Stored", "StoredProcess", "keep_maxima", "read_hours", "read_minutes", "read_processes"]

# A process that was not seen for this long is not alive.
ALIVE_SECONDS = 10.0
# Characters of an epoch; the column of its copy has this size.
EPOCH_LIMIT = 16
_INTEGER = re.compile(rb"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One minute or hour. `epoch` identifies the hash in Redis; figures are by field."""

    epoch: str
    figures: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProcess:
    """A process that has pushed in the last day. Times are seconds since the epoch, by the clock of Redis."""

    about: About
    seen_at: float
    # Seen in the last ten seconds, and has not said that it ends.
    is_alive: bool


@answer_parsed("HGETALL")
def read_minutes(client: redis.Redis, keys: Keys, minutes: Iterable[int]) -> dict[int, Stored]:
    """Those of these minutes since the epoch that Redis has. One round trip. Raises redis.RedisError."""
    return _read(client, {minute: keys.statistics_minute(minute) for minute in minutes})


@answer_parsed("HGETALL")
def read_hours(client: redis.Redis, keys: Keys, hours: Iterable[int]) -> dict[int, Stored]:
    """Those of these hours since the epoch that Redis has. One round trip. Raises redis.RedisError."""
    return _read(client, {hour: keys.statistics_hour(hour) for hour in hours})


@answer_parsed("ZRANGE and HGET")
def read_processes(client: redis.Redis, keys: Keys, *, since_seconds: float = 3600.0) -> list[StoredProcess]:
    """The processes seen in the last `since_seconds`, in any order. Two round trips. Raises redis.RedisError."""
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange(keys.statistics_processes(), 0, -1, withscores=True)
    (seconds, microseconds), seen = pipeline.execute()
    now = seconds + microseconds / 1e6
    recent = [
        (id.decode(errors="replace"), score / 1000) for id, score in seen if abs(now - score / 1000) < since_seconds
    ]
    for id, _ in recent:
        pipeline.hget(keys.statistics_process(id), "about")
    found = []
    for (_, seen_at), raw in zip(recent, pipeline.execute(), strict=True):
        about = None
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            about = msgspec.json.decode(raw or b"", type=About)
        if about is not None:
            is_alive = about.is_alive and now - seen_at <= ALIVE_SECONDS
            found.append(StoredProcess(about=about, seen_at=seen_at, is_alive=is_alive))
    return found


@answer_parsed("HMGET and HSET")
def keep_maxima(client: redis.Redis, keys: Keys, now_seconds: float, now: Mapping[str, int]) -> None:
    """
    Store each of these numbers in the running minute and hour, unless a larger one is there. Two round trips.

    One process at a time does it. A minute or hour in which no process has counted anything is not created.

    Args:
        now_seconds: The present time, in seconds since the epoch.
        now: Field of a metric of the kind "now" → number.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    names = [
        keys.statistics_minute(int(now_seconds // MINUTE_SECONDS)),
        keys.statistics_hour(int(now_seconds // HOUR_SECONDS)),
    ]
    fields: Sequence[str] = list(now)
    if not fields:
        return
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.exists(name)
        pipeline.hmget(name, fields)
    replies: list[Any] = pipeline.execute()
    for name, exists, known in zip(names, replies[::2], replies[1::2], strict=True):
        larger = {
            field: now[field]
            for field, old in zip(fields, known, strict=True)
            if not (old and _INTEGER.fullmatch(old)) or int(old) < now[field]
        }
        if exists and larger:
            pipeline.hset(name, items=[word for pair in larger.items() for word in pair])
    pipeline.execute()


def _read(client: redis.Redis, names: Mapping[int, str]) -> dict[int, Stored]:
    pipeline = client.pipeline(transaction=False)
    for name in names.values():
        pipeline.hgetall(name)
    found = {}
    for number, raw in zip(names, pipeline.execute(), strict=True):
        if raw:
            figures = {_text(field): int(value) for field, value in raw.items() if _INTEGER.fullmatch(value)}
            figures.pop("epoch", None)
            found[number] = Stored(epoch=_text(raw.get(b"epoch", b""))[:EPOCH_LIMIT], figures=figures)
    return found


def _text(raw: bytes) -> str:
    # Columns cannot hold a NUL.
    return raw.decode(errors="replace").replace("\0", "\ufffd")
