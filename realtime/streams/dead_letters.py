"""
Dead letters: finding them, putting them back, throwing them away.

Owns what a dead letter is and its way back. Does not own burying (group) nor asking an operator (commands).
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from realtime.streams.group import stream_script
from realtime.streams.group_keys import GroupKeys

__all__ = ["DeadLetter", "find", "purge", "replay"]

# Letters of one call: a script must not hold up Redis for long.
BATCH_SIZE = 200
_REPLAY = stream_script("replay", answer=list)
# The fields that a dead letter has before those of its entry.
_OWN_FIELDS = (b"_id", b"_reason", b"_attempts", b"_error", b"_first_seen", b"_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An entry that a group has given up."""

    # The letter's own, which also says when the entry was given up.
    id: str
    # The entry's.
    entry_id: str
    # "failed" in every attempt, "rejected" by its handler, "unfinished": no attempt came to an end, or "unreadable": it
    # was not kept as workers write it.
    reason: str
    attempts: int
    error: str
    # What the entry is kept in order by: a notification's recipient. The entry's id where it has nothing of the kind.
    key: str
    # The entry's own.
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
    Go through the dead letters of a group, 200 at a time; what is not wanted is left out of each time.

    Args:
        ids: Only those whose own id, or whose entry's, is one of these.
        is_wanted: Only those of which this is true.
        older_than_seconds: Only those given up so long ago; `until` is not looked at then.
        since, until: Only from this letter on, and up to this one, by their own ids.
        limit: So many at most.
        newest_first: Else the oldest comes first.

    Raises:
        redis.RedisError: Redis is away.

    Guarantees:
        What is given up after the beginning is left out: what is replayed meanwhile and fails again does not come
        twice.
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
        # Asking again is also refused behind the last id that there can be.
        if is_last:
            return


def replay(client: redis.Redis, keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
    """
    Put entries back into the lines of their keys, as if nobody had tried them; workers find them within seconds.

    Returns:
        How many were put back. The others were put back or thrown away by somebody else, or are in a line already.

    Guarantees:
        Letter and entry are never both there: one Lua call moves up to 200. Of one key an entry that was given up comes
        before all newer ones that are not done. Other groups of the stream do not get it again.
    """
    count = 0
    for start in range(0, len(letters), BATCH_SIZE):
        ids = [letter.id for letter in letters[start : start + BATCH_SIZE]]
        count += len(_REPLAY.run(client, [*keys.for_scripts, keys.dead_letters], [keys.group, "", "", *ids]))
    return count


def purge(client: redis.Redis, keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
    """Throw dead letters away for good. Returns how many were still there. Raises redis.RedisError."""
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
