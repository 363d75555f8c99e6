"""
The entries that a worker has in flight: from when Redis hands them out until Redis has confirmed their end.

Owns their states, and which entry may be handled next. Does not own handling (attempts) nor Redis commands (group).
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from realtime.streams.entry import Entry

__all__ = ["InFlight"]


class InFlight:
    """
    The worker bounds it: it reads no more entries than there is room for.

    Guarantees:
        Of one key, no entry is given out to be handled before all older ones are done.
    """

    def __init__(self) -> None:
        # The ids of all entries in flight.
        self._ids: set[bytes] = set()
        # Of those: their ack, or their way back to Redis, is not confirmed yet.
        self._ending: set[bytes] = set()
        # Of those: another consumer holds them, or Redis has forgotten them.
        self._lost: set[bytes] = set()
        # The ids that were removed while `noting_removed` is on.
        self._noted: set[bytes] | None = None
        # The oldest waiting entry of each key that is not being handled. Suspects are apart.
        self._ready: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        # Every key in flight, with the entries behind its first one, which is in a queue above or in a handler.
        self._behind: dict[bytes, deque[Entry] | None] = {}
        # The ids of all waiting suspects, including those behind another entry.
        self._suspect_ids: set[bytes] = set()
        # Entries that Redis handed out again before it had confirmed their end, each with those behind it, by the id of
        # the first one; and whether they are suspects.
        self._redelivered: dict[bytes, tuple[list[Entry], bool]] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: bytes) -> bool:
        return id in self._ids

    @property
    def ids(self) -> list[bytes]:
        """The ids of all entries in flight."""
        return list(self._ids)

    # Adding and removing ---------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[Entry], suspects: Sequence[Entry] = ()) -> None:
        """
        Add entries that Redis has handed out.

        Args:
            entries: Their attempt has begun by being handed out. Those of one key come oldest first.
            suspects: To be handled apart; their attempt is not counted yet. No key is in both lists.
        """
        ids = [entry.id for entry in entries]
        if suspects or not self._ids.isdisjoint(ids):
            entries = self._without_known(entries, are_suspects=False)
            suspects = self._without_known(suspects, are_suspects=True)
            self.hold([*entries, *suspects])
        else:
            self._ids.update(ids)
        self._put(entries)
        for entry in suspects:
            self._put_suspect(entry)

    def hold(self, entries: Iterable[Entry]) -> None:
        """Redis has handed these to this worker. If one was lost, it is the worker's again."""
        ids = [entry.id for entry in entries]
        self._ids.update(ids)
        if self._lost:
            self._lost.difference_update(ids)

    def remove(self, ids: Iterable[bytes], *, is_acked: bool = False) -> list[Entry]:
        """
        Remove entries, because Redis has confirmed their end or because they were lost.

        Returns:
            If they were acked: those that Redis had handed out again before, which must be acked again. They stay.
        """
        self._ids.difference_update(ids)
        self._ending.difference_update(ids)
        if self._lost:
            self._lost.difference_update(ids)
        if self._noted is not None:
            self._noted.update(ids)
        if not self._redelivered:
            return []
        again = list[Entry]()
        for entries, are_suspects in [self._redelivered.pop(id) for id in ids if id in self._redelivered]:
            left = entries[is_acked:]
            self.add(() if are_suspects else left, left if are_suspects else ())
            if is_acked:
                self.hold(entries[:1])
                again += entries[:1]
        return again

    @contextlib.contextmanager
    def noting_removed(self) -> Iterator[set[bytes]]:
        """
        Note the ids that are removed inside the block.

        A reply of Redis about pending entries may be older than an end that is known here already.
        """
        self._noted = noted = set[bytes]()
        try:
            yield noted
        finally:
            self._noted = None

    # States ----------------------------------------------------------------------------------------------------------

    @property
    def unfinished_count(self) -> int:
        """The number of entries that wait or are being handled."""
        return len(self._ids) - len(self._ending)

    @property
    def ending_count(self) -> int:
        """The number of entries whose end is not confirmed yet."""
        return len(self._ending)

    @property
    def has_redelivered(self) -> bool:
        """Whether an entry was handed out again before its end was confirmed."""
        return bool(self._redelivered)

    def has_lost(self, id: bytes) -> bool:
        """Whether the entry is in flight although it is not this worker's any more."""
        return id in self._lost

    def begin_end(self, ids: Iterable[bytes]) -> None:
        """The end of these entries is being sent to Redis. From now on, Redis not knowing them is not a loss."""
        self._ending.update(ids)

    def lose(self, ids: Iterable[bytes]) -> list[bytes]:
        """
        Mark entries as lost: according to Redis, they are not this worker's.

        Returns:
            The newly lost ones. Those whose end is being sent are not lost.
        """
        lost = [id for id in ids if id in self._ids and id not in self._ending and id not in self._lost]
        self._lost.update(lost)
        return lost

    # The queue -------------------------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        """Whether `next_batch` has an entry."""
        return bool(self._ready)

    @property
    def has_suspects(self) -> bool:
        """Whether `next_suspects` has an entry."""
        return bool(self._suspects)

    def next_batch(self, size: int) -> list[Entry]:
        """Up to `size` entries to be handled together. Call `done` with them afterwards."""
        batch: list[Entry] = []
        ready, behind = self._ready, self._behind
        while ready and len(batch) < size:
            entry = ready.popleft()
            batch.append(entry)
            followers = behind[entry.key]
            while followers and len(batch) < size and followers[0].id not in self._suspect_ids:
                batch.append(followers.popleft())
        return batch

    def next_suspects(self, size: int, *, alone_from: int) -> list[Entry]:
        """
        Up to `size` suspects of different keys, to be handled together. Call `done` with them afterwards.

        Args:
            alone_from: An entry with this many attempts is handled alone.
        """
        batch: list[Entry] = []
        while self._suspects and len(batch) < size:
            if batch and self._suspects[0].attempt >= alone_from:
                break
            entry = self._suspects.popleft()
            self._suspect_ids.discard(entry.id)
            batch.append(entry)
            if entry.attempt >= alone_from:
                break
        return batch

    def done(self, batch: Sequence[Entry]) -> None:
        """These entries are handled, or removed: the next ones of their keys may be handled."""
        for key in dict.fromkeys([entry.key for entry in batch]):
            followers = self._behind.pop(key, None)
            if followers:
                first = followers.popleft()
                self._behind[key] = followers
                queue = self._suspects if first.id in self._suspect_ids else self._ready
                queue.appendleft(first)

    def take_followers(self, key: bytes) -> list[tuple[Entry, int]]:
        """Take the entries of a key out of the queue that wait behind the one in a handler, each with its attempts."""
        followers = self._behind.get(key) or ()
        self._behind[key] = None
        found = [(entry, entry.attempt - (entry.id not in self._suspect_ids)) for entry in followers]
        self._suspect_ids.difference_update(entry.id for entry in followers)
        return found

    def withdraw(self, ids: Iterable[bytes]) -> list[bytes]:
        """Take entries out of the queue. Returns the ids of those that were in it."""
        gone = set(ids)
        withdrawn = [entry.id for entry in self._waiting() if entry.id in gone]
        if not withdrawn:
            return []
        heads = [entry for entry in (*self._ready, *self._suspects) if entry.id in gone]
        for followers in self._behind.values():
            if followers:
                left = [entry for entry in followers if entry.id not in gone]
                followers.clear()
                followers.extend(left)
        self._ready = deque(entry for entry in self._ready if entry.id not in gone)
        self._suspects = deque(entry for entry in self._suspects if entry.id not in gone)
        self._suspect_ids -= gone
        self.done(heads)
        return withdrawn

    def unbegun(self) -> list[Entry]:
        """The waiting entries whose attempt is counted and has not begun."""
        return [entry for entry in self._waiting() if entry.id not in self._suspect_ids]

    def _waiting(self) -> Iterator[Entry]:
        yield from self._ready
        yield from self._suspects
        for followers in self._behind.values():
            yield from followers or ()

    def _without_known(self, entries: Iterable[Entry], *, are_suspects: bool) -> list[Entry]:
        """Leave out entries that are in flight already. Those whose end is not confirmed yet are added after it."""
        unknown: list[Entry] = []
        postponed: dict[bytes, list[Entry]] = {}
        for entry in entries:
            if entry.key in postponed:
                postponed[entry.key].append(entry)
            elif entry.id in self._ending:
                postponed[entry.key] = [entry]
                self._redelivered[entry.id] = postponed[entry.key], are_suspects
            elif entry.id in self._ids:
                self.hold([entry])
            else:
                unknown.append(entry)
        return unknown

    def _put(self, entries: Iterable[Entry]) -> None:
        behind, ready = self._behind, self._ready
        for entry in entries:
            key = entry.key
            if key not in behind:
                behind[key] = None
                ready.append(entry)
            else:
                self._follow(entry)

    def _put_suspect(self, entry: Entry) -> None:
        # Newer entries of its key are in the backlog; older ones are about to end.
        self._suspect_ids.add(entry.id)
        if entry.key in self._behind:
            self._follow(entry)
        else:
            self._behind[entry.key] = None
            self._suspects.append(entry)

    def _follow(self, entry: Entry) -> None:
        followers = self._behind[entry.key]
        if followers is None:
            followers = self._behind[entry.key] = deque()
        followers.append(entry)
