"""
The entries in hand that no handler has yet, in the order of their keys.

Owns which entry may be handled next: of one key, none before all older ones are done. Does not own handling
(attempts) nor what Redis thinks of an entry (hand).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from realtime.streams.entry import Entry

__all__ = ["EntryQueue"]


class EntryQueue:
    """Its owner bounds it: it puts in no more than it reads."""

    def __init__(self) -> None:
        # The first entry of each key that is in hand and not being handled, oldest first; suspects apart.
        self._ready: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        # Every key in hand, with those behind its first entry, which is in a queue above or in a handler.
        self._behind: dict[bytes, deque[Entry] | None] = {}
        # The ids of all suspects here, those behind another entry too.
        self._suspect_ids: set[bytes] = set()

    @property
    def has_ready(self) -> bool:
        """Whether `next_batch` has something."""
        return bool(self._ready)

    @property
    def has_suspects(self) -> bool:
        """Whether `next_suspect` has something."""
        return bool(self._suspects)

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries, those of one key oldest first and after all of the key that were ever put."""
        behind, ready = self._behind, self._ready
        for entry in entries:
            key = entry.key
            if key not in behind:
                behind[key] = None
                ready.append(entry)
            else:
                self._follow(entry)

    def put_suspect(self, entry: Entry) -> None:
        """
        Add an entry that is to be handled alone, and of which no attempt has been counted yet.

        What is newer of its key is in the line; what is older is about to end.
        """
        self._suspect_ids.add(entry.id)
        if entry.key in self._behind:
            self._follow(entry)
        else:
            self._behind[entry.key] = None
            self._suspects.append(entry)

    def next_batch(self, size: int) -> list[Entry]:
        """Up to `size` entries to handle together; say `done` of their keys afterwards."""
        batch: list[Entry] = []
        ready, behind = self._ready, self._behind
        while ready and len(batch) < size:
            entry = ready.popleft()
            batch.append(entry)
            followers = behind[entry.key]
            while followers and len(batch) < size and followers[0].id not in self._suspect_ids:
                batch.append(followers.popleft())
        return batch

    def next_suspect(self) -> Entry | None:
        """An entry to handle alone; say `done` of its key afterwards."""
        if not self._suspects:
            return None
        entry = self._suspects.popleft()
        self._suspect_ids.discard(entry.id)
        return entry

    def done(self, batch: Sequence[Entry]) -> None:
        """What came from here is handled, or gone: the next entries of its keys may be."""
        for key in dict.fromkeys([entry.key for entry in batch]):
            followers = self._behind.pop(key, None)
            if followers:
                first = followers.popleft()
                self._behind[key] = followers
                queue = self._suspects if first.id in self._suspect_ids else self._ready
                queue.appendleft(first)

    def take_followers(self, key: bytes) -> list[tuple[Entry, int]]:
        """Remove and return those behind an entry that is being handled, each with the attempts that have begun."""
        followers = self._behind.get(key) or ()
        self._behind[key] = None
        found = [(entry, entry.attempt - (entry.id not in self._suspect_ids)) for entry in followers]
        self._suspect_ids.difference_update(entry.id for entry in followers)
        return found

    def remove(self, ids: Iterable[bytes]) -> list[bytes]:
        """Remove entries, and return the ids of those that were here."""
        gone = set(ids)
        removed = [entry.id for entry in self._all() if entry.id in gone]
        if not removed:
            return []
        heads = [entry for entry in (*self._ready, *self._suspects) if entry.id in gone]
        for followers in self._behind.values():
            if followers:
                kept = [entry for entry in followers if entry.id not in gone]
                followers.clear()
                followers.extend(kept)
        self._ready = deque(entry for entry in self._ready if entry.id not in gone)
        self._suspects = deque(entry for entry in self._suspects if entry.id not in gone)
        self._suspect_ids -= gone
        self.done(heads)
        return removed

    def unbegun(self) -> list[Entry]:
        """All whose counted attempt has not begun."""
        return [entry for entry in self._all() if entry.id not in self._suspect_ids]

    def _all(self) -> Iterator[Entry]:
        yield from self._ready
        yield from self._suspects
        for followers in self._behind.values():
            yield from followers or ()

    def _follow(self, entry: Entry) -> None:
        followers = self._behind[entry.key]
        if followers is None:
            followers = self._behind[entry.key] = deque()
        followers.append(entry)
