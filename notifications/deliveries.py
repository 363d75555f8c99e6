"""
What became of each notification on each transport: the only writer of Delivery rows.

Owns planning (which transports), claims (who may call a provider now), results, and finding what is overdue. Does not
own calling providers (bot) nor the stream (refill). Sync; run it in a thread from async code.

A delivery is claimed by one UPDATE … WHERE before the provider is called, and its end is recorded by whoever holds the
claim. So what is known to have been sent is never sent again, whoever hands the notification out again. A claim lapses
when its holder is not heard of: the clocks of machines must agree to within some seconds.
"""

import datetime
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import router, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from notifications import conf
from notifications.handlers import StreamedNotification
from notifications.kinds import find_kind
from notifications.models import ANSWER_LIMIT, Delivery, Notification
from notifications.preferences import wanted_transports
from realtime.exceptions import EntryRejected

__all__ = ["Claim", "Job", "Result", "begin", "find_overdue", "keep", "mark_queued", "record", "reopen"]

State = Delivery.State
UNFINISHED = (State.PENDING, State.SENDING)
# What the sweep has put on the stream is put there again if nothing has come of it for so long.
QUEUED_SECONDS = 60.0


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


def begin(notification: StreamedNotification, *, entry_id: str, attempt: int) -> Job | None:
    """
    Decide on the transports, if nobody has, and claim what is due.

    Args:
        entry_id: The entry of the stream that it came with.
        attempt: Which attempt of the entry this is. The first one, of an entry that was a dead letter: somebody has
            put it back, so what was given up with it is tried again.

    Returns:
        What to do now; None if the notification has been deleted, or its user.

    Raises:
        EntryRejected: The notification is another user's.
    """
    database = _database()
    notifications = Notification.objects.using(database).select_related("recipient")
    found = notifications.filter(pk=notification.notification_id).first()
    if found is None:
        return None
    if str(found.recipient_id) != notification.user_id:
        raise EntryRejected(f"u is not the recipient of notification {found.pk}")
    with transaction.atomic(using=database):
        if not _rows().filter(notification=found).exists():
            _plan(found, notification.envelope.kind)
        elif attempt == 1:
            reopen(_rows().filter(notification=found, dead_letter=entry_id))
        return Job(recipient=found.recipient, claims=_claim(found, entry_id))


def keep(claim: Claim, outcomes: dict[str, str]) -> bool:
    """
    Note what is done with, and hold the claim for its full time again.

    Returns:
        False if somebody else has it: nothing more may be sent.
    """
    return _held(claim).update(outcomes=outcomes, due_at=_claim_end()) == 1


def record(claim: Claim, result: Result) -> bool:
    """
    Write down how an attempt ended, and give the claim up.

    Returns:
        False if the claim had lapsed and somebody else has it, or the delivery was deleted; nothing was written.
    """
    now = timezone.now()
    is_over = result.state not in UNFINISHED
    return (
        _held(claim).update(
            state=result.state,
            answer=_clip(result.answer),
            outcomes=result.outcomes,
            latency_seconds=result.latency_seconds,
            attempts=F("attempts") if result.is_counted else F("attempts") - 1,
            due_at=None if is_over else now + datetime.timedelta(seconds=result.retry_seconds),
            finished_at=now if is_over else None,
            holder="",
            dead_letter=claim.entry_id if result.state == State.FAILED else "",
        )
        == 1
    )


def find_overdue(limit: int) -> list[int]:
    """The notifications of deliveries whose time has come, or whose holder is gone; the most overdue first."""
    now = timezone.now()
    queued = now - datetime.timedelta(seconds=QUEUED_SECONDS)
    due = _rows().filter(Q(queued_at=None) | Q(queued_at__lt=queued), due_at__lte=now)
    return list(dict.fromkeys(due.order_by("due_at").values_list("notification_id", flat=True)[:limit]))


def mark_queued(notification_ids: Iterable[int]) -> int:
    """These are on the stream. Returns how many deliveries are."""
    due = _rows().filter(notification_id__in=list(notification_ids), due_at__lte=timezone.now())
    return due.update(queued_at=timezone.now())


def reopen(deliveries: QuerySet[Delivery]) -> int:
    """
    Try failed deliveries again: their attempts begin anew, under the key they had.

    Returns:
        How many there were. The sweep puts them on the stream. Addresses that were reached are left out again.
    """
    count = 0
    for delivery in deliveries.using(_database()).filter(state=State.FAILED):
        left = {key: outcome for key, outcome in delivery.outcomes.items() if outcome != "failed"}
        count += (
            _rows()
            .filter(pk=delivery.pk, state=State.FAILED)
            .update(
                state=State.PENDING,
                attempts=0,
                outcomes=left,
                due_at=timezone.now(),
                finished_at=None,
                queued_at=None,
                dead_letter="",
            )
        )
    return count


def _plan(notification: Notification, kind: str) -> None:
    names = wanted_transports(notification.recipient_id, find_kind(kind))
    # Two bots that plan at the same time write each row once.
    _rows().bulk_create([Delivery(notification=notification, transport=name) for name in names], ignore_conflicts=True)
    notifications = Notification.objects.using(_database()).filter(pk=notification.pk, dispatched_at=None)
    notifications.update(dispatched_at=timezone.now())


def _claim(notification: Notification, entry_id: str) -> tuple[Claim, ...]:
    holder = uuid.uuid4().hex
    due = _rows().filter(notification=notification, state__in=UNFINISHED, due_at__lte=timezone.now())
    if not due.update(
        state=State.SENDING, holder=holder, attempts=F("attempts") + 1, due_at=_claim_end(), queued_at=None
    ):
        return ()
    return tuple(
        Claim(
            delivery_id=row.pk,
            transport=row.transport,
            key=row.key.hex,
            attempt=row.attempts,
            outcomes=row.outcomes,
            holder=holder,
            entry_id=entry_id,
        )
        for row in _rows().filter(notification=notification, holder=holder)
    )


def _held(claim: Claim) -> QuerySet[Delivery]:
    return _rows().filter(pk=claim.delivery_id, holder=claim.holder, state=State.SENDING)


def _claim_end() -> datetime.datetime:
    return timezone.now() + datetime.timedelta(seconds=conf.get_settings().delivery_claim_seconds)


def _clip(text: str) -> str:
    # What databases refuse (NUL) and what breaks a line in the admin.
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= ANSWER_LIMIT else text[: ANSWER_LIMIT - 1] + "…"


def _rows() -> QuerySet[Delivery]:
    return Delivery.objects.using(_database())


def _database() -> str:
    return router.db_for_write(Delivery)
