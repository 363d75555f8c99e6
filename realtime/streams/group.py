"""
One consumer of one consumer group: every Redis command of the stream worker.

Owns the commands, their scripts and replies, and creating the group again if it was deleted. Does not own when they are
sent nor what follows an error (worker, attempts): exceptions of redis-py propagate.
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
from realtime.streams.entry import Entry, Parking, Reclaimed, Redelivery, TakeResult
from realtime.streams.keys import GroupKeys, WaitingList

__all__ = ["ConsumerGroup", "stream_script"]

logger = logging.getLogger(__name__)

# How much longer than its block a read may take before its connection counts as lost.
READ_GRACE_SECONDS = 3.0
# Dead letters in one stream; beyond it, the oldest are removed. `entries-added` of XINFO STREAM counts all there were.
DEAD_LETTERS_LIMIT = 100_000
# Entries that one call reclaims from a dead consumer: one script must not block Redis for long.
RECLAIM_LIMIT = 1000
# Entries of one call: Lua passes at most 8000 values at once.
CALL_LIMIT = 1000
# Approximate number of entries or keys that one call of a check looks at.
CHECK_LIMIT = 200
# Of longer keys, the SHA-1 is used.
KEY_LIMIT_BYTES = 100
# More than a worker ever holds.
_ALL = 1_000_000

# The files that a script needs, besides "shared".
_NEEDS = {
    "take": ("dead_lettering", "taking", "waiting_list", "feeding"),
    "dead_letter": ("dead_lettering",),
    "recover": ("members",),
    "find_dead": ("members",),
    "reclaim": ("members",),
}


def stream_script(name: str, *, answer: type | tuple[type, ...]) -> scripts.Script:
    """A script of `realtime/redis/scripts/streams/`, with the files that it needs."""
    return scripts.Script(*(f"streams/{part}" for part in ("shared", *_NEEDS.get(name, ()), name)), answer=answer)


# Scripts that may be called twice, if a reply was lost; and those that may not.
_SCRIPTS = {
    "finish": stream_script("finish", answer=int),
    "park": stream_script("park", answer=int),
    "dead_letter": stream_script("dead_letter", answer=(int, NoneType)),
    "begin": stream_script("begin", answer=list),
    "find_dead": stream_script("find_dead", answer=list),
    "reclaim": stream_script("reclaim", answer=list),
    "repair": stream_script("repair", answer=list),
    "holdings": stream_script("holdings", answer=list),
}
_READ_SCRIPTS = {
    "take": stream_script("take", answer=(list, NoneType)),
    "recover": stream_script("recover", answer=list),
}
# What Redis says of a missing group or stream: the last of these is the answer of XGROUP CREATECONSUMER.
_MISSING = ("NOGROUP", "no such key", "requires the key to exist")
_CREATE = scripts.Script("create_groups", answer=int)
_TRIM = scripts.Script("trim_stream", answer=int)
_RENEW = scripts.Script("renew_lease", answer=int)


class ConsumerGroup:
    """
    Args:
        reader: A client for calls that may not be sent twice (`clients.async_reader`).
        redis: A client for all other calls (`clients.async_publisher`).
        keys: The keys of the group.
        consumer: The name of this consumer, unique among all that live.
        groups: All groups of the stream. They are created together, so that none misses entries that were trimmed.
        order_field: The field whose value is the key of an entry, or "" for no order.
        dead_letter_key: The stream of dead letters, by default as in `keys`.
        registry_key: The set of all streams, for operators' commands; or "".
        waiting_list: The waiting list in front of the stream, if it has one.
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
        waiting_list: WaitingList | None = None,
    ) -> None:
        self.consumer = consumer
        self.keys = keys
        self.group = keys.group
        self._names = keys.for_scripts
        self._reader = reader
        self._redis = redis
        self._groups = list(dict.fromkeys([keys.group, *groups]))
        self._order_field = order_field.encode()
        self._dead_letter_key = dead_letter_key or keys.dead_letters
        self._registry_key = registry_key
        self._waiting_list = (waiting_list.waiting, waiting_list.scheduled) if waiting_list else ()

    async def create(self) -> None:
        """Create the stream and its groups, each from the first entry on. Existing ones stay as they are."""
        made = [GroupKeys(self.keys.stream, group).made for group in self._groups]
        await _CREATE.arun(self._redis, [self.keys.stream, *made], self._groups)
        if self._registry_key:
            await self._redis.sadd(self._registry_key, self.keys.stream)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def recover(self, token: str, lease_seconds: float) -> list[Redelivery]:
        """
        Start a new lease, which invalidates all earlier ones, and return the entries that this consumer holds.

        Raises:
            TimeoutError: Redis does not answer.
        """
        held = await self._read("recover", token, _ms(lease_seconds), _ALL)
        return [self._redelivery(*each) for each in held]

    async def take(
        self, token: str, lease_seconds: float, count: int, *, limit: int, suspect_deaths: int, max_attempts: int
    ) -> TakeResult | None:
        """
        Take up to `count` entries and renew the lease. None if the lease is over.

        Args:
            limit: Take no new entries while this many entries of the group are parked.
            suspect_deaths, max_attempts: An entry with this many dead workers or attempts is handed out without its
                attempt being counted.

        Guarantees:
            If the call fails or is cancelled, entries may have been handed out nevertheless: `recover` returns them.
        """
        count = min(count, CALL_LIMIT)
        limits = (count, limit, suspect_deaths, max_attempts, DEAD_LETTERS_LIMIT)
        reply = await self._read(
            "take", token, _ms(lease_seconds), *limits, keys=[self._dead_letter_key, *self._waiting_list]
        )
        if reply is None:
            return None
        redelivered, new, parked_count, wait_ms, last_id, is_full, now_ms, unreadable_count = reply
        now = int(now_ms) / 1000
        return TakeResult(
            redelivered=[self._redelivery(*each) for each in redelivered],
            new=[self._entry(id, fields, 1, now) for id, fields in new],
            parked_count=parked_count,
            next_due_seconds=None if wait_ms < 0 else wait_ms / 1000,
            last_id=last_id,
            is_full=bool(is_full),
            unreadable_count=unreadable_count,
        )

    async def wait_for_new(self, last_id: bytes, block_seconds: float) -> None:
        """Wait until the stream has an entry after `last_id`, but no longer than this. Reads nothing for the group."""
        # The reader has no socket timeout; this one ends the wait for a server that never answers.
        async with asyncio.timeout(block_seconds + READ_GRACE_SECONDS):
            with answer_parsed("XREAD"):
                await self._reader.xread({self.keys.stream: last_id}, count=1, block=max(1, _ms(block_seconds)))

    # Entries in flight -----------------------------------------------------------------------------------------------

    async def renew(self, token: str, lease_seconds: float) -> bool:
        """Renew the lease. False if it is over."""
        lease_key = self.keys.worker_lease(self.consumer)
        return bool(await _RENEW.arun(self._redis, [lease_key], [token, _ms(lease_seconds)]))

    async def begin_attempts(self, suspects: Sequence[Entry]) -> set[bytes]:
        """Record that the next attempt with each suspect begins. Returns the ids of those that this consumer holds."""
        begun = set[bytes]()
        for start in range(0, len(suspects), CALL_LIMIT):
            arguments: list[Any] = []
            for entry in suspects[start : start + CALL_LIMIT]:
                arguments += (entry.key, entry.id, entry.attempt)
            begun.update(await self._run("begin", *arguments))
        return begun

    async def finish(self, entries: Sequence[Entry]) -> bool:
        """Ack entries for the group, whichever consumer holds them. Returns whether backlogs got a due time by it."""
        came_due = 0
        for start in range(0, len(entries), CALL_LIMIT):
            arguments: list[bytes] = []
            for entry in entries[start : start + CALL_LIMIT]:
                arguments += (entry.id, entry.key)
            came_due += await self._run("finish", *arguments)
        return came_due > 0

    async def park(self, key: bytes, parkings: Sequence[Parking]) -> bool | None:
        """
        Move all entries of a key that this consumer holds to the key's backlog.

        Returns:
            Whether they were moved: False if this consumer does not hold them any more; None if it holds more entries
            of the key, which `recover` returns.
        """
        arguments: list[Any] = [key]
        for entry, attempts, delay_seconds in parkings:
            arguments += (entry.id, entry.attempt, attempts, _ms(delay_seconds))
        moved = int(await self._run("park", *arguments))
        return None if moved < 0 else bool(moved)

    async def dead_letter(self, entry: Entry, reason: str, error: str) -> bool | None:
        """
        Move an entry to the dead letters.

        Args:
            reason: "failed", "rejected" or "unfinished".
            error: Stored as it is: printable text of bounded length.

        Returns:
            Whether a backlog got a due time by it; None if this consumer does not hold the entry any more.
        """
        arguments = (entry.key, entry.id, entry.attempt, reason, error, DEAD_LETTERS_LIMIT)
        came_due = await self._run("dead_letter", *arguments, keys=[self._dead_letter_key])
        return None if came_due is None else bool(came_due)

    # Maintenance -----------------------------------------------------------------------------------------------------

    async def find_dead(self, silence_seconds: float) -> list[bytes]:
        """The consumers without a lease that have been silent for this long."""
        dead: list[bytes] = await self._run("find_dead", _ms(silence_seconds))
        return dead

    async def reclaim(self, consumer: bytes, silence_seconds: float) -> Reclaimed:
        """Move entries of a dead consumer to their backlogs, up to a limit. Delete the consumer when it has no more."""
        moved_count, is_deleted, vanished_count = await self._run(
            "reclaim", consumer, _ms(silence_seconds), 1, RECLAIM_LIMIT
        )
        return Reclaimed(moved_count, bool(is_deleted), vanished_count)

    async def leave(self, unbegun: Iterable[Entry]) -> int:
        """
        Delete this consumer: the entries that it holds are due at once. Returns how many these are.

        Args:
            unbegun: Entries whose attempt was counted when they were handed out, and has not begun.
        """
        ids = [entry.id for entry in unbegun]
        moved_count, _, _ = await self._run("reclaim", self.consumer, 0, 0, _ALL, *ids)
        return int(moved_count)

    async def repair(self, turn_seconds: float, longest_wait_seconds: float) -> int:
        """
        Find and repair stuck backlogs, which would never become due.

        Args:
            turn_seconds: One worker of the group checks in this time: the call does nothing if another one has.
            longest_wait_seconds: The longest wait of an entry between two attempts.

        Returns:
            How many entries, keys and backlogs were repaired.

        Guarantees:
            Each call of Redis looks at about 200 entries or keys, so that Redis is never blocked for long.
        """
        with answer_parsed("SET"):
            is_our_turn = await self._redis.set(self.keys.check, self.consumer, nx=True, px=max(1, _ms(turn_seconds)))
        if not is_our_turn:
            return 0
        pieces = [self._scan("repair", part, _ms(longest_wait_seconds)) for part in ("parked", "owners", "due")]
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
        removed_count = int(await _TRIM.arun(self._redis, [self.keys.stream], self._groups))
        if removed_count < 0:
            await self._create_again("a group")
        return max(0, removed_count)

    # Tools -----------------------------------------------------------------------------------------------------------

    def _redelivery(
        self, id: bytes, attempts: int, is_begun: int, seen_ms: int, fields: list[bytes] | None
    ) -> Redelivery:
        return Redelivery(self._entry(id, fields or [], attempts, seen_ms / 1000), bool(is_begun))

    def _entry(self, id: bytes, flat: list[bytes], attempt: int, first_seen: float) -> Entry:
        each = iter(flat)
        fields = dict(zip(each, each, strict=True))
        key = fields.get(self._order_field, id) if self._order_field else id
        if 2 * len(fields) != len(flat) and self._order_field in fields:
            # A field occurs twice. The scripts use the first one.
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
            # The error of a script quotes it somewhere in its text.
            if not any(text in str(error) for text in _MISSING):
                raise
        await self._create_again(f"the group {self.group}")
        return await script.arun(client, names, values)

    async def _create_again(self, missing: str) -> None:
        await self.create()
        logger.warning(
            "%s of the stream %s was gone (was Redis wiped?): created again, from the first entry",
            missing,
            self.keys.stream,
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
