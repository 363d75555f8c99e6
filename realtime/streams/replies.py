"""The values that pass between Redis and the stream worker. Owns no behaviour."""

from typing import NamedTuple

from realtime.streams.entry import Entry

__all__ = ["KEY_LIMIT_BYTES", "Move", "Surrendered", "Taken", "Turn"]

# Longer keys are known by their SHA-1.
KEY_LIMIT_BYTES = 100


class Taken(NamedTuple):
    """An entry that was handed out before and has not been finished."""

    # Its fields are empty if the stream no longer has it; it is acked then.
    entry: Entry
    # Whether the attempt that `entry.attempt` names has begun by this; else none may begin before Redis knows of it.
    is_begun: bool


class Turn(NamedTuple):
    """What one `take` brought."""

    # From lines: retries, and what dead or leaving workers held.
    taken: list[Taken]
    # From the stream.
    new: list[Entry]
    # How many were read and made to wait in lines.
    lined_up_count: int
    # How soon the next line is due; None if none is.
    next_due_seconds: float | None
    # The last entry that the group was handed; empty if this call was handed any.
    last_id: bytes
    # Whether so many wait in lines that nothing new is read.
    is_full: bool
    # How many in lines could not be read; they are dead letters now.
    unreadable_count: int


class Move(NamedTuple):
    """An entry on its way back to its line."""

    entry: Entry
    # How many attempts it has had.
    attempts: int
    delay_seconds: float


class Surrendered(NamedTuple):
    """What became of a consumer."""

    moved_count: int
    # False if it is alive, or had more than one call moves.
    is_gone: bool
    # Entries that somebody had deleted from the stream.
    vanished_count: int
