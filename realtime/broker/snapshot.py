"""
The snapshot that Redis keeps of a topic: the newest publication of each key.

Owns reading it, and its limits. Does not own writing it (publish), removing silent keys (sweep), nor which topics have
one (topics).
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio

from realtime.broker.publication import Crypter, Position, Publication, parse
from realtime.redis.keys import Keys
from realtime.redis.shared_reads import SharedReads

__all__ = ["Loaded", "Snapshot", "SnapshotReader"]

# Topics in one round trip of a reader, and keys that it asks of each at a time.
TOPICS_PER_READING: Final = 32
KEYS_PER_READING: Final = 2_000
# Other tasks of the event loop run after this many keys.
_PARSED_AT_A_TIME: Final = 500
# The topics of a family whose keys never fall silent are kept as long as their positions.
FOREVER_SECONDS: Final = 86_400.0
_NOWHERE: Final = Position(0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    How much of a topic's state Redis keeps.

    Attributes:
        key_limit: How many keys a topic may have. One more is refused.
        bytes_limit: How large their newest publications may be together.
        absent_after_seconds: A key without a publication for this long is removed; None to keep it until it is removed,
            or until the topic has had no publication for a day.
        gather_seconds: The shortest time between two writes of changes to a filtered subscription, except while topics
            are loaded. Of the publications of a key within this time, only the newest is sent. A longer time saves CPU:
            for data that comes once a second, half a second is enough.
    """

    key_limit: int = 50_000
    bytes_limit: int = 64 << 20
    absent_after_seconds: float | None = None
    gather_seconds: float = 0.1

    def __post_init__(self) -> None:
        if self.key_limit < 1 or self.bytes_limit < 1:
            raise ValueError(f"a snapshot has room for at least one key and one byte, not {self}")
        if self.absent_after_seconds is not None and self.absent_after_seconds <= 0:
            raise ValueError(f"a key is absent after more than 0 seconds, not {self}")
        if self.gather_seconds < 0:
            raise ValueError(f"changes are gathered for at least 0 seconds, not {self}")

    @property
    def kept_seconds(self) -> float:
        """How long after the topic's last publication all of it is deleted."""
        if self.absent_after_seconds is None:
            return FOREVER_SECONDS
        # Longer than its keys may be silent, so that viewers are notified of each removal.
        return self.absent_after_seconds * 2 + 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """
    A snapshot.

    Attributes:
        position: The position of the topic before the keys were read; its epoch is "" if it has none.
        publications: The newest publication of each key; some may be newer than `position`.
    """

    position: Position
    publications: Sequence[Publication]


class SnapshotReader:
    """
    Reads snapshots on one Redis host. Requests of the same moment share round trips.

    Guarantees:
        Every publication up to `position` is in the result, unless a newer one of its key is, or the key was removed,
        or has been silent for too long. A topic that cannot be read affects no other topic of its round trips.
    """

    def __init__(self, client: redis.asyncio.Redis, *, keys: Keys, crypter: Crypter | None) -> None:
        self._client, self._keys, self._crypter = client, keys, crypter
        self._reads = SharedReads(self._read, name="snapshot reader", limit=TOPICS_PER_READING)

    async def read(self, topic: str, policy: Snapshot) -> Loaded:
        """
        The snapshot of a topic, read after this call.

        Raises:
            redis.RedisError, OSError: Redis did not answer, or refused to read this topic.
            ValueError: The topic's position cannot be read: another program wrote it.
            SubscriptionClosed: The reader was stopped meanwhile.
        """
        return await self._reads.ask(topic, policy)

    async def stop(self) -> None:
        """Cancel the current reading. The reader can be used again."""
        await self._reads.stop()

    async def _read(self, topics: Sequence[tuple[str, Snapshot]]) -> list[Loaded | Exception]:
        readings = [_Reading(topic=topic, policy=policy) for topic, policy in topics]
        await self._read_keys(readings)
        await self._find_silent([each for each in readings if each.error is None])
        return [each.error or await self._loaded(each) for each in readings]

    async def _loaded(self, reading: "_Reading") -> Loaded:
        found = []
        for number, (key, payload) in enumerate(reading.payloads.items(), 1):
            if key not in reading.silent and (publication := parse(payload, self._crypter)) is not None:
                found.append(publication)
            if not number % _PARSED_AT_A_TIME:
                await asyncio.sleep(0)
        return Loaded(position=reading.position, publications=found)

    async def _read_keys(self, readings: Sequence["_Reading"]) -> None:
        """Positions, and the payload of each key. A large hash is read in parts, while it may change."""
        while readings:
            async with self._client.pipeline(transaction=False) as pipeline:
                for each in readings:
                    pipeline.hmget(self._keys.topic_position(each.topic), ["offset", "epoch"])
                    pipeline.hscan(self._keys.topic_snapshot(each.topic), each.cursor, count=KEYS_PER_READING)
                answers = await pipeline.execute(raise_on_error=False)
            for each, position, part in zip(readings, answers[::2], answers[1::2], strict=True):
                each.take(position, part)
            readings = [each for each in readings if each.cursor and each.error is None]

    async def _find_silent(self, readings: Sequence["_Reading"]) -> None:
        """The keys that have been silent for too long, but that no process has removed yet."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            limited = [each for each in readings if each.policy.absent_after_seconds is not None]
            for each in limited:
                pipeline.zrange(self._keys.topic_seen(each.topic), 0, 0, withscores=True)
            now, *oldest = await pipeline.execute(raise_on_error=False)
        if isinstance(now, Exception):
            raise now
        now_ms = now[0] * 1000 + now[1] // 1000
        for each, first in zip(limited, oldest, strict=True):
            last_ms = now_ms - each.policy.absent_after_seconds * 1000  # type: ignore[operator]
            if isinstance(first, Exception):
                each.error = first
            elif first and first[0][1] <= last_ms:
                try:
                    found: Any = await self._client.zrangebyscore(self._keys.topic_seen(each.topic), "-inf", last_ms)
                except redis.ResponseError as error:
                    each.error = error
                else:
                    each.silent = set(found)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What was read of one topic so far."""

    topic: str
    policy: Snapshot
    # The position at the first part of the keys: later publications are in the other parts, or arrive later.
    position: Position = _NOWHERE
    # Where the next part of the keys begins; 0 before the first one and after the last one.
    cursor: int = 0
    payloads: dict[bytes, bytes] = field(default_factory=dict)
    silent: Set[bytes] = frozenset()
    # Why it cannot be read: for example, a key of another type has its name.
    error: Exception | None = None

    def take(self, position: Any, part: Any) -> None:
        """Take the answers of one round trip: the present position and a part of the keys, or errors."""
        try:
            for answer in (position, part):
                if isinstance(answer, Exception):
                    raise answer
            offset, epoch = position
            if not self.cursor:
                self.position = Position(int(offset or 0), (epoch or b"").decode())
            self.cursor, payloads = part
            self.payloads |= payloads
        except (redis.ResponseError, ValueError) as error:
            self.error = error
