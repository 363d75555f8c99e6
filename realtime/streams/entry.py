"""The values of the stream worker: what a handler gets and what statistics tell. Owns no behaviour."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

__all__ = ["Entry", "Handler", "WorkerStatistics"]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One record of a Redis Stream in the hands of a worker."""

    # Redis's own: b"<milliseconds>-<number>"; unique in its stream and growing.
    id: bytes
    # As they were appended. Nothing is checked: any program may append.
    fields: Mapping[bytes, bytes]
    # Which attempt this is, from 1; those of workers that died count. Known to Redis, so that it outlives this process.
    attempt: int
    # Entries of one key are handled in order; the id where nothing asks for order.
    key: bytes = b""
    # When the group was first handed it, by Redis's clock, in seconds since 1970; retries do not change it.
    first_seen: float = 0.0


# Called with 1 to `batch_size` entries, those of one key oldest first; see StreamWorker for what it may raise.
type Handler = Callable[[Sequence[Entry]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """What one worker has done since it was made. Counts of entries."""

    # Held now: in a handler or before it.
    in_flight_count: int
    # Handled and acked.
    handled_count: int
    # Attempts that failed and were followed by another one.
    retried_count: int
    # Given up: moved to the dead letters.
    dead_count: int
    # Read, and made to wait behind an older entry of their key that another worker held or that had failed.
    lined_up_count: int
    # Taken from workers that died or went silent, for whoever comes first.
    claimed_count: int
    # Held by this one when Redis had given it up: they may be handled twice.
    lost_count: int
    # Gone from the stream before they were handled: deleted by somebody else, never by trimming.
    vanished_count: int
    # Stuck keys and entries that this worker has repaired: nothing else would have led to their being handled.
    mended_count: int
    # Removed from the stream by this worker, because all groups had finished them.
    trimmed_count: int
