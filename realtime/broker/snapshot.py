"""
The snapshot that Redis keeps of a topic: the newest publication of each key.

Owns reading it, and its limits. Does not own writing it (publish), removing silent keys (sweep), nor which topics have
one (topics).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
        or has been silent for too long.
    """

    def __init__(self, client: redis.asyncio.Redis, *, keys: Keys, crypter: Crypter | None) -> None:
        self._client, self._keys, self._crypter = client, keys, crypter
        self._reads = SharedReads(self._read, name="snapshot reader", limit=TOPICS_PER_READING)

    async def read(self, topic: str, policy: Snapshot) -> Loaded:
        """
        The snapshot of a topic, read after this call.

        Raises:
            redis.RedisError, OSError: Redis did not answer.
            SubscriptionClosed: The reader was stopped meanwhile.
        """
        return await self._reads.ask(topic, policy)

    async def stop(self) -> None:
        """Cancel the current reading. The reader can be used again."""
        await self._reads.stop()

    async def _read(self, topics: Sequence[tuple[str, Snapshot]]) -> list[Loaded]:
        positions, payloads = await self._read_keys([topic for topic, _ in topics])
        silent = await self._read_silent(topics)
        snapshots = []
        for topic, position in positions.items():
            found = []
            for number, (key, payload) in enumerate(payloads[topic].items(), 1):
                if key not in silent[topic] and (publication := parse(payload, self._crypter)) is not None:
                    found.append(publication)
                if not number % _PARSED_AT_A_TIME:
                    await asyncio.sleep(0)
            snapshots.append(Loaded(position=position, publications=found))
        return snapshots

    async def _read_keys(self, topics: Sequence[str]) -> tuple[dict[str, Position], dict[str, dict[bytes, bytes]]]:
        """Positions, and the payload of each key. A large hash is read in parts, while it may change."""
        positions: dict[str, Position] = {}
        payloads: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
        cursors: dict[str, Any] = dict.fromkeys(topics, 0)
        while cursors:
            async with self._client.pipeline(transaction=False) as pipeline:
                for topic in cursors:
                    pipeline.hmget(self._keys.topic_position(topic), ["offset", "epoch"])
                    pipeline.hscan(self._keys.topic_snapshot(topic), cursors[topic], count=KEYS_PER_READING)
                answers = await pipeline.execute()
            for topic, (offset, epoch), (cursor, part) in zip(tuple(cursors), answers[::2], answers[1::2], strict=True):
                # The position of the first part: later publications are in the other parts, or arrive later.
                positions.setdefault(topic, Position(int(offset or 0), (epoch or b"").decode()))
                payloads[topic] |= part
                cursors[topic] = cursor
                if not cursor:
                    del cursors[topic]
        return positions, payloads

    async def _read_silent(self, topics: Sequence[tuple[str, Snapshot]]) -> dict[str, set[bytes]]:
        """The keys that have been silent for too long, but that no process has removed yet."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for topic, policy in topics:
                if policy.absent_after_seconds is not None:
                    pipeline.zrange(self._keys.topic_seen(topic), 0, 0, withscores=True)
            now, *oldest = await pipeline.execute()
        now_ms = now[0] * 1000 + now[1] // 1000
        silent: dict[str, set[bytes]] = {topic: set() for topic, _ in topics}
        due = [(topic, policy) for topic, policy in topics if policy.absent_after_seconds is not None]
        for (topic, policy), first in zip(due, oldest, strict=True):
            last_ms = now_ms - policy.absent_after_seconds * 1000  # type: ignore[operator]
            if first and first[0][1] <= last_ms:
                found: Any = await self._client.zrangebyscore(self._keys.topic_seen(topic), "-inf", last_ms)
                silent[topic] = set(found)
        return silent
