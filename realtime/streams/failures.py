"""
What follows a failed attempt: another one later, or none.

Owns that decision, the wait, and moving an entry to where it belongs. Does not own calling the handler (attempts).
"""

import logging
import math
import random
from collections.abc import Callable, Sequence

from realtime.exceptions import PermanentError, Retry
from realtime.redis.backoff import Backoff
from realtime.redis.outage import Outage
from realtime.streams.entry import Entry
from realtime.streams.group import ConsumerGroup
from realtime.streams.hand import Hand
from realtime.streams.queue import EntryQueue
from realtime.streams.replies import Move
from realtime.streams.session import Session
from realtime.untrusted.text import printable

__all__ = ["LONGEST_WAIT_SECONDS", "Failures"]

logger = logging.getLogger(__name__)

# Where a handler says when, the next attempts are spread over this share of the wait behind it.
SPREAD = 0.1
# The most characters of an error that are logged and stored.
TEXT_LIMIT = 2000
# No entry waits for longer, whatever its handler says: those behind it wait too.
RETRY_LIMIT_SECONDS = 7 * 86_400.0
# The same with the spread: no entry is ever due later than this.
LONGEST_WAIT_SECONDS = RETRY_LIMIT_SECONDS * (1 + SPREAD)


class Failures:
    """
    Args:
        group, hand, queue, session, ring, outage, max_attempts, backoff: As in Attempts.
        drop: Called with the ids of entries that are in hand no more, and whether they are done.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        *,
        hand: Hand,
        queue: EntryQueue,
        session: Session,
        ring: Callable[[], None],
        drop: Callable[..., None],
        outage: Outage,
        max_attempts: int,
        backoff: Backoff,
    ) -> None:
        self.retried_count = 0
        self.dead_count = 0
        self._group = group
        self._hand = hand
        self._queue = queue
        self._session = session
        self._ring = ring
        self._drop = drop
        self._outage = outage
        self._max_attempts = max_attempts
        self._backoff = backoff

    async def put_away(self, entry: Entry, error: Exception, followers: Sequence[Entry]) -> bool:
        """
        An entry failed alone: it gets another attempt later, or none.

        Args:
            followers: Entries of its key that came with it and have not been tried alone.

        Returns:
            True if all in-flight entries of the key were put back with it, to wait for it.
        """
        # Errors may quote untrusted text that somebody outside has sent.
        text = printable(f"{type(error).__name__}: {error}", limit=TEXT_LIMIT)
        if isinstance(error, PermanentError):
            await self.give_up(entry, "rejected", printable(str(error.reason), limit=TEXT_LIMIT))
            return False
        if entry.attempt >= self._max_attempts:
            await self.give_up(entry, "failed", text, error)
            return False
        delay_seconds = self._delay_seconds(entry, error)
        logger.warning(
            "entry %s of the group %s failed in attempt %d of %d, the next one is in %.1f s: %s",
            entry.id.decode(),
            self._group.group,
            entry.attempt,
            self._max_attempts,
            delay_seconds,
            text,
            # A handler raises Retry on purpose: its traceback is of no use.
            exc_info=None if isinstance(error, Retry) else error,
        )
        self.retried_count += 1
        moves = [Move(entry, entry.attempt, delay_seconds), *(Move(each, each.attempt - 1, 0.0) for each in followers)]
        await self._put_back(entry.key, moves)
        return True

    async def give_up(self, entry: Entry, reason: str, error: str, cause: Exception | None = None) -> None:
        """Move an entry to the dead letters."""
        self._hand.begin_end([entry.id])
        came_due = await self._outage.until_done(self._bury, entry, reason, error)
        self._drop([entry.id], came_due is not None)
        if came_due is None:
            self._session.end()
            self._ring()
            return
        self.dead_count += 1
        logger.error(
            "entry %s of the group %s is a dead letter after %d attempts (%s): %.200s",
            entry.id.decode(),
            self._group.group,
            entry.attempt,
            reason,
            error,
            exc_info=cause,
        )
        if came_due:
            self._ring()

    def say_unreadable(self, count: int) -> None:
        """So many entries of lines could not be read, and Redis has made dead letters of them."""
        self.dead_count += count
        logger.error(
            "%d entries of the group %s were kept in a form that cannot be read and are dead letters: "
            "did another program write to %s?",
            count,
            self._group.group,
            self._group.kept_key,
        )

    async def _put_back(self, key: bytes, moves: list[Move]) -> None:
        """Move entries to the line of their key, with those that wait behind them in hand."""
        while True:
            moves += (Move(each, attempts, 0.0) for each, attempts in self._queue.take_followers(key))
            ids = [move.entry.id for move in moves]
            self._hand.begin_end(ids)
            reconciliation = self._session.reconciliation_count
            if is_moved := await self._outage.until_done(self._group.put_back, key, moves):
                break
            # Redis knows of more, or of another attempt: an answer was lost, or the lease. The worker asks anew.
            self._session.end()
            self._ring()
            if is_moved is False:
                break
            if not await self._session.wait_reconciled(reconciliation):
                return
        self._drop(ids)
        self._ring()

    async def _bury(self, entry: Entry, reason: str, error: str) -> bool | None:
        return await self._group.bury(entry, reason=reason, error=error)

    def _delay_seconds(self, entry: Entry, error: Exception) -> float:
        if isinstance(error, Retry) and not math.isnan(error.after_seconds):
            after_seconds = min(max(0.0, error.after_seconds), RETRY_LIMIT_SECONDS)
            return after_seconds * (1 + random.uniform(0, SPREAD))  # noqa: S311 - spreads load, keeps no secret
        return self._backoff.delay_seconds(entry.attempt - 1)
