"""
The history that Redis keeps of a topic: the position of its newest publication, and recent publications to resume from.

Owns reading it, and how much is kept. Does not own writing it (publish), the Redis channel and host of a topic (layer),
nor which topics exist (topics).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import redis.asyncio

from realtime.broker.publication import Crypter, History, Position, new_epoch, parse
from realtime.redis import scripts
from realtime.redis.keys import Keys
from realtime.redis.shared_reads import SharedReads

__all__ = ["HistoryPolicy", "HistoryReader"]

# A topic that never had a publication is forgotten after this time: clients that make up names must not fill Redis.
UNPUBLISHED_SECONDS: Final = 600.0
# Topics in one call of a reader: enough for a storm of reconnecting clients, few enough to hold in memory.
TOPICS_PER_READING: Final = 32
# Larger than every offset.
_END: Final = 2**53
_UNPUBLISHED_MS: Final = round(UNPUBLISHED_SECONDS * 1000)

_READ: Final = scripts.Script("read_history", answer=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPolicy:
    """
    How much history of a topic Redis keeps for clients that resume.

    Attributes:
        size: How many publications. With 0, a client that missed one is notified, but cannot get it.
        age_seconds: How long after the last publication all of it is deleted.
    """

    size: int = 100
    age_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.size < 0 or self.age_seconds <= 0:
            raise ValueError(f"a history has a size of at least 0 and an age above 0 seconds, not {self}")


class HistoryReader:
    """
    Reads histories on one Redis host. Requests that arrive during a round trip share the next one.

    So a thousand clients that reconnect at once cost a few round trips, and each topic is read once for all of them.

    Guarantees:
        One round trip at a time: histories are returned in the order in which they were read.
    """

    def __init__(self, client: redis.asyncio.Redis, *, keys: Keys, crypter: Crypter | None) -> None:
        self._client, self._keys, self._crypter = client, keys, crypter
        self._reads = SharedReads(self._read, name="history reader", limit=TOPICS_PER_READING, merge=min)

    async def read(self, topic: str, *, after: int | None) -> History:
        """
        Position and history of a topic, as of one moment after this call.

        Args:
            after: Return publications after this offset; None for the position alone.

        Raises:
            redis.RedisError, OSError: Redis did not answer.
            SubscriptionClosed: The reader was stopped meanwhile.
        """
        return await self._reads.ask(topic, _END if after is None else after)

    async def stop(self) -> None:
        """Cancel the current reading. The reader can be used again."""
        await self._reads.stop()

    async def _read(self, topics: Sequence[tuple[str, int]]) -> list[History]:
        names = [name(topic) for topic, _ in topics for name in (self._keys.topic_position, self._keys.topic_history)]
        offsets = [after for _, after in topics]
        replies = await _READ.arun(self._client, names, [*offsets, _UNPUBLISHED_MS, new_epoch()])
        return [self._history(*reply) for reply in replies]

    def _history(self, offset: int, epoch: bytes, payloads: Sequence[bytes]) -> History:
        newest = expected = Position(offset, epoch.decode())
        frames: list[bytes] = []
        # Newest first. What lies before a gap, or is of an earlier epoch, is of no use.
        for payload in payloads:
            publication = parse(payload, self._crypter)
            if publication is None or publication.position != expected:
                break
            frames.append(publication.frame)
            expected = Position(expected.offset - 1, expected.epoch)
        return History(position=newest, frames=frames[::-1])
