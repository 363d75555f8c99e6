"""
The state of streams and their groups, for operators.

Owns asking Redis and the figures. Does not own showing them (commands, admin).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import redis
from redis.exceptions import ResponseError

from realtime.redis.connection_checks import answer_parsed
from realtime.streams.group import stream_script
from realtime.streams.keys import GroupKeys

__all__ = [
    "ConsumerStatus",
    "GroupStatus",
    "StreamStatus",
    "count_workers",
    "finished_until",
    "known_streams",
    "read_status",
    "read_unfinished",
]


_UNFINISHED = stream_script("unfinished", answer=(list, NoneType))
# The owner of a key that a worker holds: "<consumer> <last entry>", followed by "+" if the key has a backlog.
_HELD = re.compile(rb"(.*) \d+-\d+\+?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStatus:
    """One consumer of a group: a worker, or the name of a dead one until others have taken its entries."""

    # host-pid-random
    name: str
    # Whether it holds its lease.
    is_alive: bool
    # Read by it, and neither finished nor parked.
    pending: int
    # Keys that it holds: it alone handles their entries, in order.
    keys: int
    # Since it last asked Redis for entries.
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """One consumer group. The figures are numbers of entries, unless stated otherwise."""

    name: str
    # On the stream and not read; None if the server does not know (before Redis 7, or after entries were deleted).
    lag: int | None
    # Read from the stream by workers, and neither finished nor parked.
    pending: int
    # Parked: they wait for another attempt, or behind an older entry of their key, or come from a stopped worker.
    delayed: int
    # Stuck keys: no living worker holds them, and they are not due. Workers repair these within a lease.
    standing: int
    # Dead letters.
    dead: int
    # All others that were ever appended: finished, or trimmed before the group read them. None if the server does not
    # know, as for `lag`.
    finished: int | None
    # Consumers in Redis, including dead ones whose entries were not reclaimed yet.
    consumers: int
    # Workers that are alive: consumers that hold their lease. With 0, the group's work is not done.
    workers: int
    # The age of the oldest entry that the group has not finished; None if it has finished all.
    oldest_seconds: float | None
    # Ordered by name.
    members: tuple[ConsumerStatus, ...] = ()

    @property
    def oldest(self) -> str:
        """The age of the oldest unfinished entry as a text, such as "3 min"; "-" if there is none."""
        if self.oldest_seconds is None:
            return "-"
        for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
            if self.oldest_seconds < limit:
                return f"{self.oldest_seconds / size:.0f} {unit}"
        return f"{self.oldest_seconds / 86400:.0f} d"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One stream with its groups, in the order of their names."""

    key: str
    length: int
    # Entries that were ever appended; None before Redis 7.
    added: int | None
    groups: tuple[GroupStatus, ...]


def known_streams(client: redis.Redis, registry_key: str) -> list[str]:
    """The keys of all streams that have had a worker. Raises redis.RedisError."""
    found: Any = client.smembers(registry_key)
    return sorted(key.decode() for key in found)


@answer_parsed("XINFO and XPENDING")
def read_status(client: redis.Redis, stream_keys: Sequence[str], *, groups: Sequence[str] = ()) -> list[StreamStatus]:
    """
    Read the state of streams. A stream that does not exist has length 0.

    Args:
        groups: Groups that each stream has at least. One that does not exist yet has read no entry of its stream.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.

    Guarantees:
        Three round trips for each stream.
    """
    return [_read_stream(client, key, groups) for key in stream_keys]


@answer_parsed("XINFO CONSUMERS")
def count_workers(client: redis.Redis, groups: Sequence[GroupKeys]) -> list[int]:
    """
    How many workers of each group are alive: they hold their lease.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    pipeline = client.pipeline(transaction=False)
    for keys in groups:
        pipeline.xinfo_consumers(keys.stream, keys.group)
    leases: list[list[str]] = []
    for keys, consumers in zip(groups, pipeline.execute(raise_on_error=False), strict=True):
        if isinstance(consumers, ResponseError) and ("no such key" in str(consumers) or "NOGROUP" in str(consumers)):
            # The stream or the group does not exist until its first worker creates it.
            consumers = []
        if isinstance(consumers, Exception):
            raise consumers
        leases.append([keys.worker_lease(each["name"].decode()) for each in consumers])
    alive = _existing(client, [lease for names in leases for lease in names])
    return [len(alive.intersection(names)) for names in leases]


@answer_parsed("XINFO GROUPS and XPENDING")
def finished_until(client: redis.Redis, keys: GroupKeys) -> float | None:
    """
    When the oldest entry was appended that a group has not finished, wherever it is now.

    Returns:
        Seconds since the epoch by the clock of Redis, never in its future: all earlier entries are finished or lost.
        None if the group has finished all entries, or if there is no such stream. A group that does not exist yet has
        finished no entry of the stream.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    _, groups = _stream_and_groups(client, keys.stream)
    return _read_groups(client, [(keys, groups.get(keys.group))])[0].oldest_at


def read_unfinished(
    client: redis.Redis, keys: GroupKeys, fields: Sequence[str], *, limit: int
) -> list[list[bytes | None]] | None:
    """
    Read some fields of each entry that a group has not finished, wherever it is now. Dead letters are left out.

    Args:
        limit: The most entries: Redis does nothing else meanwhile (some milliseconds for a thousand).

    Returns:
        The values of the fields for each entry, in no order, None for a field that it does not have; None if there are
        more entries.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.

    Guarantees:
        It is one step: no entry is missed because it is read, parked or handed out again meanwhile.
    """
    found: list[list[bytes | None]] | None = _UNFINISHED.run(
        client, keys.for_scripts, [keys.group, "", "", limit, *fields]
    )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What Redis replies about one group, as of one moment."""

    pending: int
    delayed: int
    dead: int
    # Key -> the consumer that holds it, or None if none does.
    holders: dict[bytes, str | None]
    due_keys: set[bytes]
    # Consumer -> the number of its pending entries, and for how many seconds it has been idle.
    consumers: dict[str, tuple[int, float]]
    # Both by the clock of Redis, in seconds since the epoch.
    now: float
    oldest_at: float | None


def _stream_and_groups(client: redis.Redis, stream_key: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The reply of XINFO STREAM, and that of XINFO GROUPS for each group, by its name."""
    pipeline = client.pipeline(transaction=False)
    pipeline.xinfo_stream(stream_key)
    pipeline.xinfo_groups(stream_key)
    stream, groups = pipeline.execute(raise_on_error=False)
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return {"length": 0, "entries-added": 0}, {}
    for reply in (stream, groups):
        if isinstance(reply, Exception):
            raise reply
    return stream, {group["name"].decode(): group for group in groups}


def _read_stream(client: redis.Redis, key: str, expected: Iterable[str]) -> StreamStatus:
    stream, groups = _stream_and_groups(client, key)
    names = sorted({*groups, *expected})
    asked = [(GroupKeys(key, name), groups.get(name)) for name in names]
    found = _read_groups(client, asked)
    leases = [
        keys.worker_lease(consumer)
        for (keys, _), read in zip(asked, found, strict=True)
        for consumer in {*read.consumers, *(holder for holder in read.holders.values() if holder is not None)}
    ]
    alive = _existing(client, leases)
    statuses = [_status(keys, group, read, alive, stream) for (keys, group), read in zip(asked, found, strict=True)]
    return StreamStatus(key=key, length=stream["length"], added=stream.get("entries-added"), groups=tuple(statuses))


def _status(
    keys: GroupKeys, group: dict[str, Any] | None, read: _Read, alive: set[str], stream: dict[str, Any]
) -> GroupStatus:
    lag: int | None = stream["length"] if group is None else group.get("lag")
    added: int | None = stream.get("entries-added")
    unfinished_count = read.pending + read.delayed + read.dead
    held = Counter(read.holders.values())

    def is_alive(consumer: str | None) -> bool:
        return consumer is not None and keys.worker_lease(consumer) in alive

    return GroupStatus(
        name=keys.group,
        lag=lag,
        pending=read.pending,
        delayed=read.delayed,
        standing=sum(not is_alive(holder) for key, holder in read.holders.items() if key not in read.due_keys),
        dead=read.dead,
        finished=None if lag is None or added is None else max(0, added - lag - unfinished_count),
        consumers=len(read.consumers),
        workers=sum(is_alive(consumer) for consumer in read.consumers),
        oldest_seconds=None if read.oldest_at is None else max(0.0, read.now - read.oldest_at),
        members=tuple(
            ConsumerStatus(
                name=name, is_alive=is_alive(name), pending=pending, keys=held[name], idle_seconds=idle_seconds
            )
            for name, (pending, idle_seconds) in sorted(read.consumers.items())
        ),
    )


def _existing(client: redis.Redis, names: Sequence[str]) -> set[str]:
    if not names:
        return set()
    found: Any = client.mget(names)
    return {name for name, value in zip(names, found, strict=True) if value is not None}


def _read_groups(client: redis.Redis, asked: Sequence[tuple[GroupKeys, dict[str, Any] | None]]) -> list[_Read]:
    # First the groups, then, in one step, where entries are now: an entry that is read meanwhile is seen in any case.
    pipeline = client.pipeline(transaction=True)
    pipeline.time()
    for keys, group in asked:
        pipeline.hkeys(keys.parked)
        pipeline.xlen(keys.dead_letters)
        pipeline.hgetall(keys.owners)
        pipeline.zrange(keys.due, 0, -1)
        # Not from "(" on: Redis refuses that for the largest possible id.
        pipeline.xrange(keys.stream, group["last-delivered-id"] if group else "-", count=2)
        if group:
            pipeline.xpending(keys.stream, keys.group)
            pipeline.xinfo_consumers(keys.stream, keys.group)
    (seconds, microseconds), *replies = pipeline.execute()
    each = iter(replies)
    return [
        _parse(group, [next(each) for _ in range(7 if group else 5)], seconds + microseconds / 1e6)
        for _, group in asked
    ]


def _parse(group: dict[str, Any] | None, replies: Sequence[Any], now: float) -> _Read:
    parked, dead_count, owners, due, found, *of_group = replies
    pending, consumers = of_group if group else ({"pending": 0}, [])
    waiting = [id for id, _ in found if not group or id != group["last-delivered-id"]][:1]
    unfinished = [*parked, *waiting, *([pending["min"]] if pending["pending"] else [])]
    holders = {key: _HELD.fullmatch(owner) for key, owner in owners.items()}
    return _Read(
        pending=pending["pending"],
        delayed=len(parked),
        dead=dead_count,
        holders={key: None if held is None else held[1].decode() for key, held in holders.items()},
        due_keys=set(due),
        consumers={each["name"].decode(): (each["pending"], each["idle"] / 1000) for each in consumers},
        now=now,
        oldest_at=min((_appended_at(id, now) for id in unfinished), default=None),
    )


def _appended_at(id: bytes, now: float) -> float:
    # Any program can append an id from the far future, from which Redis goes on counting. Such an id does not say when
    # the entry was appended, so the entry counts as new.
    return min(now, int(id.split(b"-")[0]) / 1000)
