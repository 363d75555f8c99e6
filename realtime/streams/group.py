"""
One consumer of one consumer group: every Redis command of the stream worker.

Owns the commands, their scripts and their replies, and making the group again when Redis was wiped. Does not own when
they are sent nor what is done after an error (worker, attempts): all methods raise what redis-py raises.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from types import NoneType
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from realtime.redis import scripts
from realtime.redis.connection_checks import answer_parsed
from realtime.streams.entry import Entry
from realtime.streams.group_keys import GroupKeys
from realtime.streams.replies import KEY_LIMIT_BYTES, Move, Surrendered, Taken, Turn

__all__ = ["ConsumerGroup", "stream_script"]

logger = logging.getLogger(__name__)

# How much longer than its block a read may take before its connection counts as lost.
READ_GRACE_SECONDS = 3.0
# Dead letters kept in one stream; beyond, the oldest go. XINFO STREAM's entries-added tells how many there ever were.
DEAD_LETTERS_LIMIT = 100_000
# Characters of an error's text that go with a dead letter.
ERROR_LIMIT = 2000
# Entries that one call moves out of a dead consumer's hands: one script must not hold up Redis for long.
SURRENDER_LIMIT = 1000
# Entries of one call: Lua passes at most 8000 values at once.
CALL_LIMIT = 1000
# Approximate number of entries or keys that one call of a check looks at.
CHECK_LIMIT = 200
# More than a worker ever holds.
_ALL = 1_000_000

# Which texts a script stands on, beside "shared".
_NEEDS = {
    "take": ("burying", "taking"),
    "bury": ("burying",),
    "own": ("members",),
    "find_dead": ("members",),
    "surrender": ("members",),
}


def stream_script(name: str, *, answer: type | tuple[type, ...]) -> scripts.Script:
    """A script of `realtime/redis/scripts/streams/`, with what it stands on."""
    return scripts.Script(*(f"streams/{part}" for part in ("shared", *_NEEDS.get(name, ()), name)), answer=answer)


# Those for which a lost answer is no harm, and those for which it is.
_SCRIPTS = {
    "finish": stream_script("finish", answer=int),
    "put_back": stream_script("put_back", answer=int),
    "bury": stream_script("bury", answer=(int, NoneType)),
    "begin": stream_script("begin", answer=int),
    "renew": stream_script("renew", answer=int),
    "find_dead": stream_script("find_dead", answer=list),
    "surrender": stream_script("surrender", answer=list),
    "mend": stream_script("mend", answer=list),
    "holdings": stream_script("holdings", answer=list),
}
_READ_SCRIPTS = {
    "take": stream_script("take", answer=(list, NoneType)),
    "own": stream_script("own", answer=list),
}
_CREATE = scripts.Script("create_groups", answer=int)
_TRIM = scripts.Script("trim_stream", answer=int)


class ConsumerGroup:
    """
    Args:
        reader: Client for what may not be sent twice (`connections.async_reader`).
        redis: Client for all else (`connections.async_publisher`).
        keys: The names.
        consumer: The name of this consumer, unique among all that live.
        groups: All groups of the stream, made together: none can miss what another one's trimming removes.
        order_field: The field by whose value entries are handled in order, or "" for no order.
        dead_letter_key: The stream of what this group has given up, by default as in `keys`.
        registry_key: Where the stream is made known to operators' commands, or "".
    """

    def __init__(
        self,
        *,
        reader: redis.asyncio.Redis,
        redis: redis.asyncio.Redis,
        keys: GroupKeys,
        consumer: str,
        groups: Iterable[str],
        order_field: str,
        dead_letter_key: str = "",
        registry_key: str = "",
    ) -> None:
        self.consumer = consumer
        self.group = keys.group
        # Where entries in lines are.
        self.kept_key = keys.kept
        self._keys = keys
        self._names = keys.for_scripts
        self._reader = reader
        self._redis = redis
        self._groups = list(dict.fromkeys([keys.group, *groups]))
        self._order_field = order_field.encode()
        self._dead_letter_key = dead_letter_key or keys.dead_letters
        self._registry_key = registry_key

    async def create(self) -> None:
        """Make the stream and all its groups, from its first entry on; those that are there stay as they are."""
        made = [GroupKeys(self._keys.stream, group).made for group in self._groups]
        await _CREATE.arun(self._redis, [self._keys.stream, *made], self._groups)
        if self._registry_key:
            await self._redis.sadd(self._registry_key, self._keys.stream)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def own(self, session: str, lease_seconds: float) -> list[Taken]:
        """
        Begin a session, which takes the lease and ends all earlier ones, and say what this consumer holds.

        Raises:
            TimeoutError: Redis hangs.
        """
        held = await self._read("own", session, _ms(lease_seconds), _ALL)
        return [self._taken(*each) for each in held]

    async def take(
        self, session: str, lease_seconds: float, count: int, *, limit: int, suspect_deaths: int, max_attempts: int
    ) -> Turn | None:
        """
        Take up to `count` entries whose turn it is, and renew the lease; None if the session is over.

        Args:
            limit: The most entries that may wait in lines; nothing new is taken beyond.
            suspect_deaths, max_attempts: An entry that so many workers died with, or that was tried so often, is handed
                out without its attempt being begun.

        Guarantees:
            When it is cancelled or fails, entries may have been handed out all the same: `own` has them.
        """
        count = min(count, CALL_LIMIT)
        limits = (count, limit, suspect_deaths, max_attempts, DEAD_LETTERS_LIMIT)
        reply = await self._read("take", session, _ms(lease_seconds), *limits, keys=[self._dead_letter_key])
        if reply is None:
            return None
        again, new, lined_up_count, wait_ms, last_id, is_full, now_ms, unreadable_count = reply
        now = int(now_ms) / 1000
        return Turn(
            taken=[self._taken(*each) for each in again],
            new=[self._entry(id, fields, 1, now) for id, fields in new],
            lined_up_count=lined_up_count,
            next_due_seconds=None if wait_ms < 0 else wait_ms / 1000,
            last_id=last_id,
            is_full=bool(is_full),
            unreadable_count=unreadable_count,
        )

    async def wait_for_new(self, last_id: bytes, block_seconds: float) -> None:
        """Wait until the stream has an entry behind `last_id`, or for so long. Hands nothing out."""
        # The reader has no socket timeout: a server that accepts and never answers ends here.
        async with asyncio.timeout(block_seconds + READ_GRACE_SECONDS):
            with answer_parsed("XREAD"):
                await self._reader.xread({self._keys.stream: last_id}, count=1, block=max(1, _ms(block_seconds)))

    # Entries in hand -------------------------------------------------------------------------------------------------

    async def renew(self, session: str, lease_seconds: float) -> bool:
        """Renew the lease. False if the session is over."""
        return bool(await self._run("renew", session, _ms(lease_seconds)))

    async def begin_attempt(self, entry: Entry) -> bool:
        """Write down that the next attempt with a suspect begins. False if it is not this consumer's any more."""
        return bool(await self._run("begin", entry.key, entry.id, entry.attempt))

    async def finish(self, entries: Sequence[Entry]) -> bool:
        """The group has finished these entries, whoever has them. Returns whether others are due by it, now or soon."""
        came_due = 0
        for start in range(0, len(entries), CALL_LIMIT):
            arguments: list[bytes] = []
            for entry in entries[start : start + CALL_LIMIT]:
                arguments += (entry.id, entry.key)
            came_due += await self._run("finish", *arguments)
        return came_due > 0

    async def put_back(self, key: bytes, moves: Sequence[Move]) -> bool | None:
        """
        Move all that this consumer holds of a key to the key's line.

        Returns:
            Whether they were moved: False if they are not this consumer's any more; None if it holds more of the key
            than that, which `own` tells.
        """
        arguments: list[Any] = [key]
        for move in moves:
            arguments += (move.entry.id, move.entry.attempt, move.attempts, _ms(move.delay_seconds))
        moved = int(await self._run("put_back", *arguments))
        return None if moved < 0 else bool(moved)

    async def bury(self, entry: Entry, *, reason: str, error: str) -> bool | None:
        """
        Move an entry to the dead letters.

        Returns:
            Whether others are due by it, now or soon; None if it is not this consumer's any more.
        """
        text = error[:ERROR_LIMIT].encode(errors="backslashreplace")
        came_due = await self._run(
            "bury", entry.key, entry.id, entry.attempt, reason, text, DEAD_LETTERS_LIMIT, keys=[self._dead_letter_key]
        )
        return None if came_due is None else bool(came_due)

    # Others ----------------------------------------------------------------------------------------------------------

    async def find_dead(self, silence_seconds: float) -> list[bytes]:
        """Consumers without a lease that were silent for so long."""
        dead: list[bytes] = await self._run("find_dead", _ms(silence_seconds))
        return dead

    async def surrender(self, consumer: bytes, silence_seconds: float) -> Surrendered:
        """Hand over what a dead consumer holds, so many entries at most, and forget it if that is all."""
        moved_count, is_gone, vanished_count = await self._run(
            "surrender", consumer, _ms(silence_seconds), 1, SURRENDER_LIMIT
        )
        return Surrendered(moved_count, bool(is_gone), vanished_count)

    async def leave(self, unbegun: Iterable[Entry]) -> int:
        """
        End this consumer: what it holds is due for others at once. Returns how many entries that are.

        Args:
            unbegun: Those of which no attempt has begun, though one was counted when they were handed out.
        """
        ids = [entry.id for entry in unbegun]
        moved_count, _, _ = await self._run("surrender", self.consumer, 0, 0, _ALL, *ids)
        return int(moved_count)

    async def mend(self, turn_seconds: float, longest_wait_seconds: float) -> int:
        """
        Find stuck lines, which nothing would ever make due, and repair them.

        Args:
            turn_seconds: Only one worker of the group checks in this time: this call does nothing if another has.
            longest_wait_seconds: The longest wait of an entry between two attempts.

        Returns:
            How many entries, keys and lines were repaired.

        Guarantees:
            Each call looks at about 200 entries or keys, so that Redis is never blocked for long.
        """
        with answer_parsed("SET"):
            is_our_turn = await self._redis.set(self._keys.check, self.consumer, nx=True, px=max(1, _ms(turn_seconds)))
        if not is_our_turn:
            return 0
        pieces = [self._scan("mend", part, _ms(longest_wait_seconds)) for part in ("kept", "owners", "due")]
        return sum([count for piece in pieces async for count in piece])

    async def holdings(self) -> list[bytes]:
        """The ids that Redis assigns to this consumer: its pending entries, and the last entry of each of its keys."""
        pieces = [self._scan("holdings", part) for part in ("pending", "owners")]
        return [id for piece in pieces async for ids in piece for id in ids]

    async def trim(self) -> int:
        """
        Remove the entries that all groups have finished, and return how many they were.

        Guarantees:
            Nothing is removed while one of `groups` is missing. Such a group is created again, from the first entry on,
            so that it gets all entries that it had not finished.
        """
        removed_count = int(await _TRIM.arun(self._redis, [self._keys.stream], self._groups))
        if removed_count < 0:
            await self._create_again("a group")
        return max(0, removed_count)

    # Tools -----------------------------------------------------------------------------------------------------------

    def _taken(self, id: bytes, attempts: int, is_begun: int, seen_ms: int, fields: list[bytes] | None) -> Taken:
        return Taken(self._entry(id, fields or [], attempts, seen_ms / 1000), bool(is_begun))

    def _entry(self, id: bytes, flat: list[bytes], attempt: int, first_seen: float) -> Entry:
        each = iter(flat)
        fields = dict(zip(each, each, strict=True))
        key = fields.get(self._order_field, id) if self._order_field else id
        if 2 * len(fields) != len(flat) and self._order_field in fields:
            # Some field is there twice. The scripts go by the first.
            key = flat[2 * flat[::2].index(self._order_field) + 1]
        if len(key) > KEY_LIMIT_BYTES:
            key = hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()
        return Entry(id, fields, attempt, key, first_seen)

    async def _scan(self, script: str, part: str, *arguments: Any) -> AsyncIterator[Any]:
        cursor = b"0"
        while True:
            cursor, found = await self._run(script, part, cursor, CHECK_LIMIT, *arguments)
            yield found
            if cursor == b"0":
                return

    async def _read(self, script: str, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        async with asyncio.timeout(READ_GRACE_SECONDS):
            return await self._call(_READ_SCRIPTS[script], self._reader, arguments, keys)

    async def _run(self, script: str, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        return await self._call(_SCRIPTS[script], self._redis, arguments, keys)

    async def _call(
        self, script: scripts.Script, client: redis.asyncio.Redis, arguments: Sequence[Any], keys: Sequence[str]
    ) -> Any:
        names = [*self._names, *keys]
        values = [self.group, self.consumer, self._order_field, *arguments]
        try:
            return await script.arun(client, names, values)
        except ResponseError as error:
            # In a script it stands somewhere in the text.
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
        await self._create_again(f"the group {self.group}")
        return await script.arun(client, names, values)

    async def _create_again(self, missing: str) -> None:
        await self.create()
        logger.warning(
            "%s of the stream %s was gone (was Redis wiped?): created again, from the first entry",
            missing,
            self._keys.stream,
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
