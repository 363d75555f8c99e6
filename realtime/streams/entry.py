"""The values of the stream worker: what a handler gets, and what Redis replies. Owns no behaviour."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from realtime.statistics import WorkerStatistics

__all__ = ["Entry", "Handler", "Parking", "Reclaimed", "Redelivery", "TakeResult", "WorkerStatistics"]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a Redis Stream, as a worker gets it."""

    # Redis's own: b"<milliseconds>-<number>"; unique in its stream and growing.
    id: bytes
    # As they were appended. Nothing is checked: any program may append.
    fields: Mapping[bytes, bytes]
    # The number of this attempt, from 1. Attempts of workers that died count. Stored in Redis.
    attempt: int
    # Entries of one key are handled in order. The id, if the entry has no key.
    key: bytes = b""
    # When the group first read the entry, by Redis's clock, in seconds since 1970. Retries do not change it.
    first_seen: float = 0.0
    # Workers died with the entry, so it is tried apart from all that are not suspects. A handler that collects entries
    # should finish a suspect without waiting for others.
    is_suspect: bool = False


# Called with 1 to `batch_size` entries, those of one key oldest first; see StreamWorker for the errors it may raise.
type Handler = Callable[[Sequence[Entry]], Awaitable[None]]


class Redelivery(NamedTuple):
    """An entry that was handed out before and is not finished."""

    # Without fields if it was deleted from the stream; it is acked then.
    entry: Entry
    # Whether the attempt `entry.attempt` has begun by this. If not, the worker must record the attempt first.
    is_begun: bool


class TakeResult(NamedTuple):
    """The reply to one `take`."""

    # From backlogs: retries, and entries of dead or stopped workers.
    redelivered: list[Redelivery]
    # From the stream.
    new: list[Entry]
    # How many were read and parked.
    parked_count: int
    # How soon the next backlog is due; None if there is none.
    next_due_seconds: float | None
    # The last id that was delivered to the group; empty if this call delivered any entry.
    last_id: bytes
    # Whether the limit of parked entries is reached, so that no new entries are read.
    is_full: bool
    # How many parked entries could not be read; they are dead letters now.
    unreadable_count: int


class Parking(NamedTuple):
    """An entry to be parked."""

    entry: Entry
    # The attempts to record: those that have begun.
    attempts: int
    delay_seconds: float


class Reclaimed(NamedTuple):
    """The result of reclaiming the entries of a consumer."""

    moved_count: int
    # False if the consumer is alive, or had more entries than one call moves.
    is_deleted: bool
    # Entries that somebody had deleted from the stream.
    vanished_count: int
