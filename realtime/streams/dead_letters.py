"""
Dead letters: finding them, putting them back, throwing them away.

Owns what a dead letter is and its way back. Does not own burying (group) nor asking an operator (commands).
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from realtime.streams.group import script_text
from realtime.streams.group_keys import GroupKeys

__all__ = ["DeadLetter", "find", "purge", "replay"]

# Letters of one call: a script must not hold up Redis for long.
BATCH_SIZE = 200
# The fields that a dead letter has before those of its entry.
_OWN_FIELDS = (b"_id", b"_reason", b"_attempts", b"_error", b"_first_seen", b"_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An entry that a group has given up."""

    # The letter's own, which also says when the entry was given up.
    id: str
    # The entry's.
    entry_id: str
    # "failed" in every attempt, "rejected" by its handler, or "unfinished": no attempt came to an end.
    reason: str
    attempts: int
    error: str
    # The entry's own.
    fields: Mapping[bytes, bytes]


def find(
    client: redis.Redis,
    keys: GroupKeys,
    *,
    ids: Container[str] | None = None,
    older_than_seconds: float | None = None,
    limit: int | None = None,
) -> Iterator[list[DeadLetter]]:
    """
    Go through the dead letters of a group, oldest first, some at a time.

    Args:
        ids: Only those whose own id, or whose entry's, is one of these.
        older_than_seconds: Only those given up so long ago.
        limit: So many at most.

    Raises:
        redis.RedisError: Redis is away.
    """
    first, last = "-", "+"
    if older_than_seconds is not None:
        seconds, microseconds = client.time()
        last = f"{max(0, int(seconds * 1000 + microseconds // 1000 - older_than_seconds * 1000))}"
    left = limit if limit is not None else -1
    while left != 0:
        found: Any = client.xrange(keys.dead_letters, first, last, count=BATCH_SIZE)
        if not found:
            return
        first = "(" + found[-1][0].decode()
        letters = [_read(id, fields) for id, fields in found]
        if ids is not None:
            letters = [letter for letter in letters if letter.id in ids or letter.entry_id in ids]
        letters = letters[:left] if left > 0 else letters
        left -= len(letters) if left > 0 else 0
        yield letters


def replay(client: redis.Redis, keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
    """
    Put entries back into the lines of their keys, as if nobody had tried them; workers find them within seconds.

    Returns:
        How many were put back. The others were put back or thrown away by somebody else, or are in a line already.

    Guarantees:
        Letter and entry are never both there: one Lua call moves up to 200. Of one key an entry that was given up comes
        before all newer ones that are not done. Other groups of the stream do not get it again.
    """
    script = client.register_script(script_text("replay"))
    count = 0
    for start in range(0, len(letters), BATCH_SIZE):
        ids = [letter.id for letter in letters[start : start + BATCH_SIZE]]
        count += len(script([*keys.for_scripts, keys.dead_letters], [keys.group, "", "", *ids]))
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
    return DeadLetter(
        id=id.decode(),
        entry_id=fields.get(b"_id", id).decode(errors="replace"),
        reason=fields.get(b"_reason", b"").decode(errors="replace"),
        attempts=int(attempts) if attempts.isdigit() else 0,
        error=fields.get(b"_error", b"").decode(errors="replace"),
        fields={name: value for name, value in fields.items() if name not in _OWN_FIELDS},
    )
