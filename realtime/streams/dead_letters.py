"""
Dead letters: finding, replaying and purging them.

Owns the format of a dead letter and its way back. Does not own creating them (group) nor confirmations (commands).
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from realtime.streams.group import stream_script
from realtime.streams.keys import GroupKeys

__all__ = ["DeadLetter", "find", "purge", "replay"]

# Letters of one call: a script must not block Redis for long.
BATCH_SIZE = 200
_REPLAY = stream_script("replay", answer=list)
# The fields of a dead letter that precede the fields of its entry.
_OWN_FIELDS = (b"_id", b"_reason", b"_attempts", b"_error", b"_first_seen", b"_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An entry that a group has given up."""

    # The id of the letter, which contains the time of giving up.
    id: str
    # The id of the entry.
    entry_id: str
    # "failed": every attempt failed. "rejected" by its handler. "unfinished": no attempt came to an end. "unreadable":
    # its parked record could not be read.
    reason: str
    attempts: int
    error: str
    # The key of the entry: a notification's recipient. The entry's id, if the entry has no key.
    key: str
    # The fields of the entry.
    fields: Mapping[bytes, bytes]

    @property
    def given_up_at(self) -> float:
        """When, in seconds since the epoch by the clock of Redis."""
        return int(self.id.partition("-")[0]) / 1000


def find(
    client: redis.Redis,
    keys: GroupKeys,
    *,
    ids: Container[str] | None = None,
    is_wanted: Callable[[DeadLetter], bool] | None = None,
    older_than_seconds: float | None = None,
    since: str = "-",
    until: str | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> Iterator[list[DeadLetter]]:
    """
    Read the dead letters of a group, 200 at a time, and yield the matching ones of each 200.

    Args:
        ids: Only letters with one of these ids, of the letter or of its entry.
        is_wanted: Only letters for which this returns True.
        older_than_seconds: Only entries given up at least this long ago; `until` is ignored then.
        since, until: Only letters from this id to this id, both included.
        limit: The most letters.
        newest_first: Newest first instead of oldest first.

    Raises:
        redis.RedisError: Redis is unavailable.

    Guarantees:
        Letters that are created after the beginning are left out: an entry that is replayed and fails again meanwhile
        does not come twice.
    """
    if older_than_seconds is not None:
        seconds, microseconds = client.time()
        until = f"{max(0, int(seconds * 1000 + microseconds // 1000 - older_than_seconds * 1000))}"
    elif until is None:
        newest: Any = client.xrevrange(keys.dead_letters, count=1)
        until = newest[0][0].decode() if newest else "+"
    left = limit if limit is not None else -1
    while left != 0:
        found: Any = (
            client.xrevrange(keys.dead_letters, until, since, count=BATCH_SIZE)
            if newest_first
            else client.xrange(keys.dead_letters, since, until, count=BATCH_SIZE)
        )
        if not found:
            return
        is_last = len(found) < BATCH_SIZE
        if newest_first:
            until = "(" + found[-1][0].decode()
        else:
            since = "(" + found[-1][0].decode()
        letters = [_read(id, fields) for id, fields in found]
        letters = [letter for letter in letters if ids is None or letter.id in ids or letter.entry_id in ids]
        letters = [letter for letter in letters if is_wanted is None or is_wanted(letter)]
        letters = letters[:left] if left > 0 else letters
        left -= len(letters) if left > 0 else 0
        yield letters
        # Do not ask again: Redis refuses a range after the largest possible id.
        if is_last:
            return


def replay(client: redis.Redis, keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
    """
    Move entries back to the backlogs of their keys, without their earlier attempts. Workers find them within seconds.

    Returns:
        How many were moved. The others were replayed or purged by somebody else, or are in a backlog already.

    Guarantees:
        An entry is never both a dead letter and in a backlog: one Lua call moves up to 200. A replayed entry is handled
        before all newer entries of its key that are not finished. Other groups of the stream do not get it again.
    """
    count = 0
    for start in range(0, len(letters), BATCH_SIZE):
        ids = [letter.id for letter in letters[start : start + BATCH_SIZE]]
        count += len(_REPLAY.run(client, [*keys.for_scripts, keys.dead_letters], [keys.group, "", "", *ids]))
    return count


def purge(client: redis.Redis, keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
    """Delete dead letters. Returns how many still existed. Raises redis.RedisError."""
    count = 0
    for start in range(0, len(letters), BATCH_SIZE):
        ids = [letter.id for letter in letters[start : start + BATCH_SIZE]]
        count += int(client.xdel(keys.dead_letters, *ids))
    return count


def _read(id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    attempts = fields.get(b"_attempts", b"")
    entry_id = fields.get(b"_id", id).decode(errors="replace")
    return DeadLetter(
        id=id.decode(),
        entry_id=entry_id,
        reason=fields.get(b"_reason", b"").decode(errors="replace"),
        attempts=int(attempts) if attempts.isdigit() else 0,
        error=fields.get(b"_error", b"").decode(errors="replace"),
        key=fields.get(b"_key", entry_id.encode()).decode(errors="replace"),
        fields={name: value for name, value in fields.items() if name not in _OWN_FIELDS},
    )
