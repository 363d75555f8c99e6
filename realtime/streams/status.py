"""
What an operator wants to know of streams and their groups.

Owns asking Redis and the figures. Does not own showing them (commands, admin).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import ResponseError

from realtime.redis.connection_checks import answer_parsed
from realtime.streams.group_keys import GroupKeys

__all__ = ["GroupStatus", "StreamStatus", "count_workers", "finished_until", "known_streams", "read_status"]


# The owner of a key that a worker holds: "<consumer> <last entry>", with a "+" if a line waits behind it.
_HELD = re.compile(rb"(.*) \d+-\d+\+?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """One consumer group. Counts of entries."""

    name: str
    # On the stream and not read; None where the server does not know (before Redis 7, or after entries were deleted).
    lag: int | None
    # In the hands of workers, as far as they came straight from the stream.
    pending: int
    # In lines: between two attempts, behind an older entry of their key, or on their way from a worker that is gone.
    delayed: int
    # Stuck keys: no living worker holds them, and they are not due. Workers repair these within a lease.
    standing: int
    # Given up.
    dead: int
    # Workers, those included that died and have not been relieved yet.
    consumers: int
    # How long ago the oldest entry was appended that the group has not finished; None if it has finished all.
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One stream with its groups, in the order of their names."""

    key: str
    length: int
    groups: tuple[GroupStatus, ...]


def known_streams(client: redis.Redis, registry_key: str) -> list[str]:
    """The keys of all streams that have had a worker. Raises redis.RedisError."""
    found: Any = client.smembers(registry_key)
    return sorted(key.decode() for key in found)


@answer_parsed("XINFO GROUPS and XPENDING")
def read_status(client: redis.Redis, stream_keys: Sequence[str]) -> list[StreamStatus]:
    """
    Ask Redis for the figures of streams; those that are not there have length 0 and no groups.

    Raises:
        redis.RedisError: It is away, or holds something else under such a key.
    """
    return [_read_stream(client, key) for key in stream_keys]


@answer_parsed("XINFO CONSUMERS")
def count_workers(client: redis.Redis, groups: Sequence[GroupKeys]) -> list[int]:
    """
    How many workers of each group are alive, that is, hold their lease.

    Raises:
        redis.RedisError: It is away, or holds something else under such a key.
    """
    pipeline = client.pipeline(transaction=False)
    for keys in groups:
        pipeline.xinfo_consumers(keys.stream, keys.group)
    leases = []
    for keys, consumers in zip(groups, pipeline.execute(raise_on_error=False), strict=True):
        if isinstance(consumers, ResponseError) and ("no such key" in str(consumers) or "NOGROUP" in str(consumers)):
            # The stream or the group does not exist until its first worker creates it.
            consumers = []
        if isinstance(consumers, Exception):
            raise consumers
        leases.append([keys.worker_lease(each["name"].decode()) for each in consumers])
    pipeline = client.pipeline(transaction=False)
    for keys, names in zip(groups, leases, strict=True):
        # EXISTS needs at least one key: this is the lease of a worker without a name, which there never is.
        pipeline.exists(*(names or [keys.worker_lease("")]))
    return [int(count) for count in pipeline.execute()]


@answer_parsed("XINFO GROUPS and XPENDING")
def finished_until(client: redis.Redis, keys: GroupKeys) -> float | None:
    """
    When the oldest entry was appended that a group has not finished, wherever it is now.

    Returns:
        Seconds since the epoch by the clock of Redis, never in its future: what was appended before, the group has
        finished or Redis has lost. None if the group has finished all, or there is no such stream. A group that does
        not exist yet has finished nothing of the stream.

    Raises:
        redis.RedisError: It is away, or holds something else under such a key.
    """
    for group in _groups_of(client, keys.stream):
        if group["name"].decode() == keys.group:
            return _ask(client, keys, group).oldest_at
    pipeline = client.pipeline(transaction=True)
    pipeline.xrange(keys.stream, count=1)
    pipeline.time()
    found, (seconds, microseconds) = pipeline.execute()
    return _appended_at(found[0][0], seconds + microseconds / 1e6) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unfinished:
    pending: int
    delayed: int
    dead: int
    # Both by the clock of Redis, in seconds since the epoch.
    now: float
    oldest_at: float | None


def _groups_of(client: redis.Redis, stream_key: str) -> list[dict[str, Any]]:
    try:
        found: Any = client.xinfo_groups(stream_key)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return []
    return list(found)


def _read_stream(client: redis.Redis, key: str) -> StreamStatus:
    groups = (_read_group(client, GroupKeys(key, group["name"].decode()), group) for group in _groups_of(client, key))
    return StreamStatus(key=key, length=client.xlen(key), groups=tuple(sorted(groups, key=lambda each: each.name)))


def _read_group(client: redis.Redis, keys: GroupKeys, group: dict[str, Any]) -> GroupStatus:
    found = _ask(client, keys, group)
    return GroupStatus(
        name=keys.group,
        lag=group.get("lag"),
        pending=found.pending,
        delayed=found.delayed,
        standing=_count_standing(client, keys),
        dead=found.dead,
        consumers=group["consumers"],
        oldest_seconds=None if found.oldest_at is None else max(0.0, found.now - found.oldest_at),
    )


def _count_standing(client: redis.Redis, keys: GroupKeys) -> int:
    """The number of keys that are neither due nor held by a living worker."""
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(keys.owners)
    pipeline.zrange(keys.due, 0, -1)
    owners, due = pipeline.execute()
    holders = {key: held[1].decode() for key, owner in owners.items() if (held := _HELD.fullmatch(owner)) is not None}
    consumers = sorted(set(holders.values()))
    # MGET needs at least one key: this is the lease of a worker without a name, which there never is.
    found: Any = client.mget([keys.worker_lease(consumer) for consumer in consumers] or [keys.worker_lease("")])
    alive = {consumer for consumer, lease in zip(consumers, found, strict=False) if lease is not None}
    return sum(holders.get(key) not in alive for key in owners.keys() - set(due))


def _ask(client: redis.Redis, keys: GroupKeys, group: dict[str, Any]) -> _Unfinished:
    # Not read as of a moment ago, in hand and in lines now: an entry that moves on meanwhile is seen all the same.
    pipeline = client.pipeline(transaction=True)
    pipeline.xpending(keys.stream, keys.group)
    # Not from "(" on: of the last id that there can be, that is refused.
    pipeline.xrange(keys.stream, group["last-delivered-id"], count=2)
    pipeline.hkeys(keys.kept)
    pipeline.xlen(keys.dead_letters)
    pipeline.time()
    pending, found, kept, dead_count, time = pipeline.execute()
    waiting = [id for id, _ in found if id != group["last-delivered-id"]][:1]
    unfinished = [*kept, *waiting, *([pending["min"]] if pending["pending"] else [])]
    now = time[0] + time[1] / 1e6
    return _Unfinished(
        pending=pending["pending"],
        delayed=len(kept),
        dead=dead_count,
        now=now,
        oldest_at=min((_appended_at(id, now) for id in unfinished), default=None),
    )


def _appended_at(id: bytes, now: float) -> float:
    # Any program can write an id from the far future, and Redis goes on counting from there: such an id says no time,
    # and its entry counts as new.
    return min(now, int(id.split(b"-")[0]) / 1000)
