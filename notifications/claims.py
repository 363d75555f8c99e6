"""What a bot is given to do and gives back. Owns the values, not what becomes of them in the tables (deliveries)."""

from dataclasses import dataclass
from typing import Any

from notifications.models import Delivery

__all__ = ["Claim", "Job", "Result"]


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
    # The stream's entry that it was begun for.
    entry_id: str
    # With a digest: which one, and the notifications that it tells of, the oldest first.
    digest_id: int | None = None
    notification_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done for one notification now."""

    recipient: Any
    claims: tuple[Claim, ...]


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
