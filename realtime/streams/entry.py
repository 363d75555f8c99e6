"""The values of the stream worker: what a handler gets and what statistics tell. Owns no behaviour."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

__all__ = ["Entry", "Handler", "WorkerStatistics"]


class Entry(msgspec.Struct, frozen=True):
    """One record of a Redis Stream in the hands of a worker."""

    # Redis's own: b"<milliseconds>-<number>"; unique in its stream and growing.
    id: bytes
    # As they were appended. Nothing is checked: any program may append.
    fields: Mapping[bytes, bytes]
    # Which attempt this is, from 1; those of workers that died count. Known to Redis, so that it outlives this process.
    attempt: int


# Called with 1 to `batch_size` entries, oldest first; see StreamWorker for what it may raise.
type Handler = Callable[[Sequence[Entry]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """What one worker has done since it was made. Counts of entries."""

    # Held now: in a handler, before it, or between two attempts.
    in_flight_count: int
    # Of those: between two attempts.
    delayed_count: int
    # Handled and acked.
    handled_count: int
    # Attempts that failed and were followed by another one.
    retried_count: int
    # Given up: moved to the dead letters.
    dead_count: int
    # Taken over from workers that died or went silent.
    claimed_count: int
    # Taken by another worker while this one held them: they may be handled twice.
    lost_count: int
    # Gone from the stream before they were handled: deleted by somebody else, never by trimming.
    vanished_count: int
    # Removed from the stream by this worker, because all groups had finished them.
    trimmed_count: int
