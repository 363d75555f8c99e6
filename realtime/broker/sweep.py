"""
Removes the keys of a snapshot that have been silent for too long.

Owns finding them, and that one process does it for each topic. Does not own when it is done (live) nor how a removal is
published (publish).
"""

from collections.abc import Callable, Sequence
from typing import Final

import redis
import redis.asyncio

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Crypter
from realtime.broker.publish import Keyed, PublishCall, Published, PublishRequest, publish_all, publish_all_async
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.redis import scripts
from realtime.redis.keys import Keys

__all__ = ["Sweep"]

# Keys removed in one round trip: each is a publication.
_KEYS_AT_A_TIME: Final = 50
# Round trips of one sweep. The rest waits for the next.
_ROUND_TRIPS: Final = 20

_FIND: Final = scripts.Script("find_silent_keys", answer=list)


class Sweep:
    """
    Publishes the removal of each key of a topic that has been silent for too long.

    Args:
        policy: Has `absent_after_seconds`.
        history: How much history of the topic Redis keeps.
        holder: The id of this process. It gets the topic's lease, unless another one has it.
        lease_seconds: How long the lease keeps other processes from sweeping the topic; each run renews it.

    Guarantees:
        A key that is published again meanwhile is not removed.
    """

    def __init__(
        self,
        topic: str,
        policy: Snapshot,
        *,
        history: HistoryPolicy,
        holder: str,
        lease_seconds: float,
        keys: Keys,
        channel_of: Callable[[str], str],
        crypter: Crypter | None,
    ) -> None:
        assert policy.absent_after_seconds is not None  # noqa: S101 - the caller's condition
        self._topic, self._policy, self._history = topic, policy, history
        self._keys, self._channel_of, self._crypter = keys, channel_of, crypter
        self._silent_ms = round(policy.absent_after_seconds * 1000)
        self._names = [keys.topic_sweep(topic), keys.topic_seen(topic)]
        self._arguments = [holder, round(lease_seconds * 1000), self._silent_ms, _KEYS_AT_A_TIME]

    async def arun(self, client: redis.asyncio.Redis) -> int:
        """
        Find the silent keys and publish their removal.

        Returns:
            How many were removed; 0 if another process has the lease.

        Raises:
            redis.RedisError, OSError: Redis did not answer.
        """
        removed_count = 0
        for _ in range(_ROUND_TRIPS):
            found = await _FIND.arun(client, self._names, self._arguments)
            if found:
                removed_count += _count(await publish_all_async(client, [self._removals(found)]))
            if len(found) < _KEYS_AT_A_TIME:
                break
        return removed_count

    def run(self, client: redis.Redis) -> int:
        """The sync twin of `arun`."""
        removed_count = 0
        for _ in range(_ROUND_TRIPS):
            found = _FIND.run(client, self._names, self._arguments)
            if found:
                removed_count += _count(publish_all(client, [self._removals(found)]))
            if len(found) < _KEYS_AT_A_TIME:
                break
        return removed_count

    def _removals(self, found: Sequence[bytes]) -> PublishCall:
        removals = [
            Keyed(Relevance(key.decode(), is_removed=True), self._policy, silent_ms=self._silent_ms) for key in found
        ]
        return PublishCall(
            [PublishRequest(self._topic, b"null", self._history, keyed=removal) for removal in removals],
            keys=self._keys,
            channel_of=self._channel_of,
            crypter=self._crypter,
        )


def _count(published: Sequence[Published]) -> int:
    return sum(each.position.offset > 0 for each in published)
