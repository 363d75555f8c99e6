"""
Removes the keys of a snapshot that have been silent for too long.

Owns finding them, and that one process does it for each topic. Does not own when it is done (live) nor how a removal is
published (publish).
"""

from collections.abc import Callable
from typing import Final

import redis.asyncio

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Crypter
from realtime.broker.publish import Keyed, PublishCall, PublishRequest, publish_all_async
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.redis import scripts
from realtime.redis.keys import Keys

__all__ = ["sweep"]

# Keys removed in one round trip: each is a publication.
_KEYS_AT_A_TIME: Final = 50
# Round trips of one sweep. The rest waits for the next.
_ROUND_TRIPS: Final = 20

_FIND: Final = scripts.Script("find_silent_keys", answer=list)


async def sweep(
    client: redis.asyncio.Redis,
    topic: str,
    policy: Snapshot,
    *,
    history: HistoryPolicy,
    holder: str,
    lease_seconds: float,
    keys: Keys,
    channel_of: Callable[[str], str],
    crypter: Crypter | None,
) -> int:
    """
    Publish the removal of each key of a topic that has been silent for too long.

    Args:
        policy: Has `absent_after_seconds`.
        history: How much history of the topic Redis keeps.
        holder: The id of this process. It gets the topic's lease, unless another one has it.
        lease_seconds: How long no other process does this, unless this one does it again.

    Returns:
        How many were removed; 0 if another process has the lease.

    Raises:
        redis.RedisError, OSError: Redis did not answer.

    Guarantees:
        A key that is published again meanwhile is not removed.
    """
    assert policy.absent_after_seconds is not None  # noqa: S101 - the caller's condition
    silent_ms = round(policy.absent_after_seconds * 1000)
    names = [keys.topic_sweep(topic), keys.topic_seen(topic)]
    removed_count = 0
    for _ in range(_ROUND_TRIPS):
        found = await _FIND.arun(client, names, [holder, round(lease_seconds * 1000), silent_ms, _KEYS_AT_A_TIME])
        if not found:
            break
        removals = [Keyed(Relevance(key.decode(), is_removed=True), policy, silent_ms=silent_ms) for key in found]
        requests = [PublishRequest(topic, b"null", history, keyed=removal) for removal in removals]
        call = PublishCall(requests, keys=keys, channel_of=channel_of, crypter=crypter)
        published = await publish_all_async(client, [call])
        removed_count += sum(each.position.offset > 0 for each in published)
        if len(found) < _KEYS_AT_A_TIME:
            break
    return removed_count
