"""What a bot is given to do and gives back. Owns the values, not what becomes of them in the tables (records)."""

from dataclasses import dataclass
from typing import Any

from notifications.content.stream_entry import StreamedNotification
from notifications.models import Delivery

__all__ = ["Claim", "Claims", "Result", "StreamTask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTask:
    """
    A notification that the stream has handed to a bot, and what the bot can do of it now.

    Attributes:
        entry_id: The entry of the stream that it came with.
        attempt: Which attempt of the entry this is. The attempts of a replayed dead letter start at 1 again.
        only: The one transport that it is about; "" for all that have not been looked at before.
        busy: Transports without a free slot: what is due there is not claimed.
        saturated: Those of them that are waited for too long: what is due there is put off.
    """

    notification: StreamedNotification
    entry_id: str
    attempt: int
    only: str = ""
    busy: frozenset[str] = frozenset()
    saturated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to call one provider for one notification, until it lapses."""

    delivery_id: int
    transport: str
    # The effect key, as 32 hexadecimal digits.
    key: str
    # From 1, this one included.
    attempt: int
    # Addresses that are done with: key → "sent", "failed" or "gone".
    outcomes: dict[str, str]
    holder: str
    # With a digest: which one, and the notifications that it tells of, the oldest first.
    digest_id: int | None = None
    notification_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What is to be done for one notification now, and the transports on which it must wait for a slot."""

    recipient: Any
    granted: tuple[Claim, ...]
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    How an attempt ended.

    Attributes:
        state: Pending if there will be another attempt, else how the delivery ended.
        answer: What was said; 500 characters of it are kept.
        outcomes: As in Claim, with what this attempt did.
        retry_seconds: With pending: when the next attempt may begin.
        latency_seconds: How long it took.
        is_counted: Whether it was an attempt; not if what we need ourselves was away.
    """

    state: Delivery.State
    answer: str
    outcomes: dict[str, str]
    retry_seconds: float = 0.0
    latency_seconds: float | None = None
    is_counted: bool = True
