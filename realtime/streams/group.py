"""
One consumer of one consumer group: every Redis command of the stream worker.

Owns the commands, their scripts and their replies, and making the group again when Redis was wiped. Does not own when
they are sent nor what is done after an error (worker, attempts): all methods raise what redis-py raises.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import batched
from typing import Any, NamedTuple

import redis.asyncio
from redis.exceptions import ResponseError

from realtime import lua
from realtime.streams.entry import Entry

__all__ = ["ConsumerGroup", "Taken"]

logger = logging.getLogger(__name__)

# How much longer than its block a read may take before its connection counts as lost.
READ_GRACE_SECONDS = 3.0
# Dead letters kept in one stream; beyond, the oldest go. XINFO STREAM's entries-added tells how many there ever were.
DEAD_LETTERS_LIMIT = 100_000
# Characters of an error's text that go with a dead letter.
ERROR_LIMIT = 2000
# More than a worker ever holds.
_ALL = 1_000_000


class Taken(NamedTuple):
    """An entry that was handed out before and has not been finished."""

    # Its fields are empty if the stream no longer has it; it is acked then.
    entry: Entry
    # Whether the attempt that `entry.attempt` names begins now; else that one was begun by somebody, and not finished.
    is_begun: bool


class ConsumerGroup:
    """
    Args:
        reader: Client for blocking reads (`connections.async_reader`).
        redis: Client for all else (`connections.async_publisher`): every command here may be sent twice.
        stream_key: The stream; made with its groups if it is not there.
        group: The consumer group.
        consumer: The name of this consumer, unique among all that live.
        groups: All groups of the stream, made together: none can miss what another one's trimming removes.
        dead_letter_key: The stream of what this group has given up.
    """

    def __init__(
        self,
        *,
        reader: redis.asyncio.Redis,
        redis: redis.asyncio.Redis,
        stream_key: str,
        group: str,
        consumer: str,
        groups: Iterable[str],
        dead_letter_key: str,
    ) -> None:
        self.consumer = consumer
        self.group = group
        self.stream_key = stream_key
        self._reader = reader
        self._redis = redis
        self._groups = list(dict.fromkeys([group, *groups]))
        self._dead_letter_key = dead_letter_key
        self._scripts = {
            name: redis.register_script(lua.source(name))
            for name in (
                "take_pending",
                "keep_entries",
                "bury_entry",
                "trim_stream",
                "leave_group",
                "remove_dead_consumers",
            )
        }

    async def create(self) -> None:
        """Make the stream and all its groups, from its first entry on; those that are there stay as they are."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            for group in self._groups:
                pipeline.xgroup_create(self.stream_key, group, id="0", mkstream=True)
            for reply in await pipeline.execute(raise_on_error=False):
                if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
                    raise reply

    async def read_new(self, count: int, block_seconds: float) -> list[Entry]:
        """
        Wait for entries that nobody of the group has got yet.

        Guarantees:
            None when it is cancelled or fails: the entries may have been handed out. `take_own` has them.
        """
        try:
            # The reader has no socket timeout: a server that accepts and never answers ends here.
            async with asyncio.timeout(block_seconds + READ_GRACE_SECONDS):
                reply: Any = await self._reader.xreadgroup(
                    self.group, self.consumer, {self.stream_key: ">"}, count=count, block=max(1, _ms(block_seconds))
                )
        except ResponseError as error:
            await self._heal(error)
            return []
        return [Entry(id, fields, 1) for _, entries in reply for id, fields in entries]

    async def take_own(self, first_id: bytes, count: int, begin_below: int) -> list[Taken]:
        """
        What this consumer was handed and has not finished, oldest first; see `take_dead`.

        Args:
            first_id: Where to begin: b"-" at the oldest, or b"(" and an id behind that one.
        """
        return await self._take(0, first_id, count, begin_below, self.consumer)

    async def take_dead(self, idle_seconds: float, count: int, begin_below: int) -> list[Taken]:
        """
        What others were handed and have neither finished nor renewed for `idle_seconds`; it is this consumer's now.

        Args:
            begin_below: Taking an entry begins its next attempt if fewer than this many were begun. For the others, say
                `begin_attempt` when it begins: what is merely taken along is not counted then.
        """
        return await self._take(_ms(idle_seconds), b"-", count, begin_below, "")

    async def begin_attempt(self, entry: Entry) -> bool:
        """Write down that `entry.attempt` begins, and renew the lease. False if another has claimed the entry."""
        return not await self._run("keep_entries", self.group, self.consumer, entry.attempt, entry.id)

    async def keep(self, ids: Sequence[bytes]) -> list[bytes]:
        """Renew the lease of these entries. Returns those that are not this consumer's (any more)."""
        lost: list[bytes] = await self._run("keep_entries", self.group, self.consumer, "", *ids)
        return lost

    async def ack(self, ids: Sequence[bytes]) -> None:
        """The group has finished these entries, whoever holds them."""
        await self._redis.xack(self.stream_key, self.group, *ids)

    async def bury(self, entry: Entry, *, reason: str, error: str) -> None:
        """Move an entry to the dead letters and ack it, in one step; nothing if the group has finished it."""
        await self._run(
            "bury_entry",
            self.group,
            entry.id,
            reason,
            entry.attempt,
            error[:ERROR_LIMIT].encode(errors="backslashreplace"),
            DEAD_LETTERS_LIMIT,
            keys=[self._dead_letter_key],
        )

    async def trim(self) -> int:
        """Remove what all groups have finished, and return how many entries that were."""
        return int(await self._run("trim_stream"))

    async def remove_dead_consumers(self, silence_seconds: float) -> int:
        """Forget consumers that hold nothing and were silent for so long; returns how many."""
        return int(await self._run("remove_dead_consumers", self.group, _ms(silence_seconds)))

    async def leave(self, idle_seconds: float) -> int:
        """End this consumer; what it holds may be claimed by all who wait for `idle_seconds`. Returns how many."""
        return int(await self._run("leave_group", self.group, self.consumer, _ms(idle_seconds), _ALL))

    async def _take(
        self, idle_ms: int, first_id: bytes, count: int, begin_below: int, only_consumer: str
    ) -> list[Taken]:
        taken = await self._run(
            "take_pending", self.group, self.consumer, idle_ms, first_id, count, begin_below, only_consumer
        )
        return [
            Taken(Entry(id, dict(batched(fields or (), 2)), attempts), bool(is_begun))
            for id, attempts, is_begun, fields in taken
        ]

    async def _run(self, script: str, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        try:
            return await self._scripts[script]([self.stream_key, *keys], arguments)
        except ResponseError as error:
            await self._heal(error)
            return await self._scripts[script]([self.stream_key, *keys], arguments)

    async def _heal(self, error: ResponseError) -> None:
        # A reader that waits on a stream that is deleted gets UNBLOCKED; all else that needs the group gets NOGROUP.
        # In a script either stands somewhere in the text.
        if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
            raise error
        await self.create()
        logger.warning(
            "the group %s of the stream %s was gone (was Redis wiped?): made again, from the first entry",
            self.group,
            self.stream_key,
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
