"""The values of the stream worker: what a handler gets, and what is counted. Owns no behaviour."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from realtime.statistics import WorkerStatistics

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
