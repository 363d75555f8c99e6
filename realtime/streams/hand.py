"""
The entries that a worker has in hand, from when Redis hands them out until Redis has confirmed their end.

Owns which they are and in which state. Does not own what is done with them (attempts) nor Redis commands (group).
"""

import contextlib
from collections.abc import Iterable, Iterator

from realtime.streams.entry import Entry

__all__ = ["Hand"]


class Hand:
    """Ids of entries, each held and perhaps ending or lost. Its owner bounds it: it reads no more than that."""

    def __init__(self) -> None:
        # Every entry in hand.
        self._ids: set[bytes] = set()
        # Of those: their end is on its way to Redis, so not being pending any more is no loss.
        self._ending: set[bytes] = set()
        # Of those: another consumer has them, or Redis has forgotten them.
        self._lost: set[bytes] = set()
        # What was dropped while `noting_dropped` is on.
        self._noted: set[bytes] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: bytes) -> bool:
        return id in self._ids

    @property
    def ids(self) -> list[bytes]:
        """All of them."""
        return list(self._ids)

    @property
    def unfinished_count(self) -> int:
        """How many there are whose end is not on its way to Redis."""
        return len(self._ids) - len(self._ending)

    @property
    def is_ending(self) -> bool:
        """Whether the end of any is on its way to Redis."""
        return bool(self._ending)

    def has_lost(self, id: bytes) -> bool:
        """Whether it is in hand and not this worker's any more."""
        return id in self._lost

    def has_ending(self, id: bytes) -> bool:
        """Whether its end is on its way to Redis."""
        return id in self._ending

    def is_free_of(self, entries: Iterable[Entry]) -> bool:
        """Whether none of them is in hand."""
        return all(entry.id not in self._ids for entry in entries)

    def hold(self, entries: Iterable[Entry]) -> None:
        """They were handed out to this worker; one that was lost is its own again."""
        ids = [entry.id for entry in entries]
        self._ids.update(ids)
        self._lost.difference_update(ids)

    def begin_end(self, ids: Iterable[bytes]) -> None:
        """Redis is being told of their end."""
        self._ending.update(ids)

    def lose(self, ids: Iterable[bytes]) -> list[bytes]:
        """Redis says that they are not this worker's; returns those for which that is a loss, and news."""
        lost = [id for id in ids if id in self._ids and id not in self._ending and id not in self._lost]
        self._lost.update(lost)
        return lost

    def drop(self, ids: Iterable[bytes]) -> None:
        """They are in hand no more."""
        for state in (self._ids, self._ending, self._lost):
            state.difference_update(ids)
        if self._noted is not None:
            self._noted.update(ids)

    @contextlib.contextmanager
    def noting_dropped(self) -> Iterator[set[bytes]]:
        """
        Note what is dropped within it.

        An answer of Redis about pending entries may be older than the end of one of them that is known here already.
        """
        self._noted = noted = set[bytes]()
        try:
            yield noted
        finally:
            self._noted = None
