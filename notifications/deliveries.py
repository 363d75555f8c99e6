"""
What became of each notification on each transport: the only writer of Delivery rows.

Owns claims (who may call a provider now), what is no longer to be sent, results, and finding what is overdue. Does not
own which transports and when (planning), calling providers (bot) nor the stream (refill). Sync; run it in a thread from
async code.

A delivery is claimed by one UPDATE … WHERE before the provider is called, and its end is recorded by whoever holds the
claim. So what is known to have been sent is never sent again, whoever hands the notification out again. A claim lapses
when its holder is not heard of: the clocks of machines must agree to within some seconds.
"""

import datetime
import uuid
from collections.abc import Iterable

from django.db import router, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from notifications import conf
from notifications.claims import Claim, Job, Result
from notifications.handlers import StreamedNotification
from notifications.kinds import find_kind
from notifications.models import ANSWER_LIMIT, Delivery, Digest, Notification
from notifications.planning import plan, quiet_until
from realtime.exceptions import EntryRejected

__all__ = [
    "Claim",
    "Job",
    "Result",
    "begin",
    "find_overdue",
    "keep",
    "mark_queued",
    "record",
    "reopen",
    "skip_replaced",
]

State = Delivery.State
UNFINISHED = (State.PENDING, State.SENDING)
# What the sweep has put on the stream is put there again if nothing has come of it for so long.
QUEUED_SECONDS = 60.0


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
    notifications = Notification.objects.using(database).select_related("event", "recipient__notification_quiet_hours")
    found = notifications.filter(pk=notification.notification_id).first()
    if found is None:
        return None
    if str(found.recipient_id) != notification.user_id:
        raise EntryRejected(f"u is not the recipient of notification {found.pk}")
    with transaction.atomic(using=database):
        rows = list(_rows().filter(notification=found))
        if not rows:
            _plan(found)
        elif attempt == 1:
            reopen(_parts_of(rows).filter(dead_letter=entry_id))
        _skip_pointless(found)
        until = quiet_until(found.recipient, find_kind(found.event.kind))
        if until is not None:
            _due(_parts_of(rows) | _rows().filter(notification=found)).update(
                state=State.PENDING, holder="", due_at=until, queued_at=None
            )
            return Job(recipient=found.recipient, claims=())
        claims = _claim(found, entry_id)
        for digest_id in {row.digest_id for row in rows if row.digest_id is not None}:
            claims += _claim_digest(digest_id, entry_id)
        return Job(recipient=found.recipient, claims=claims)


def keep(claim: Claim, outcomes: dict[str, str]) -> bool:
    """
    Note what is done with, and hold the claim for its full time again.

    Returns:
        False if somebody else has it: nothing more may be sent.
    """
    return _held(claim).update(outcomes=outcomes, due_at=_claim_end()) > 0


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
        > 0
    )


def find_overdue(limit: int) -> list[int]:
    """
    The notifications of deliveries whose time has come, or whose holder is gone; the most overdue first.

    Of a digest, one: it stands for all.
    """
    now = timezone.now()
    queued = now - datetime.timedelta(seconds=QUEUED_SECONDS)
    due = _rows().filter(Q(queued_at=None) | Q(queued_at__lt=queued), due_at__lte=now).order_by("due_at")
    found: dict[int, None] = {}
    digests: set[int] = set()
    for notification_id, digest_id in due.values_list("notification_id", "digest_id")[:limit]:
        if digest_id is None:
            found[notification_id] = None
        elif digest_id not in digests:
            digests.add(digest_id)
            found[notification_id] = None
    return list(found)


def mark_queued(notification_ids: Iterable[int]) -> int:
    """These are on the stream, and the digests that they stand for. Returns how many deliveries are."""
    due = _rows().filter(due_at__lte=timezone.now())
    named = due.filter(notification_id__in=list(notification_ids))
    digests = set(named.exclude(digest=None).values_list("digest_id", flat=True))
    count = named.filter(digest=None).update(queued_at=timezone.now())
    return count + (due.filter(digest_id__in=digests).update(queued_at=timezone.now()) if digests else 0)


def skip_replaced(notification_ids: Iterable[int]) -> int:
    """These were replaced by newer ones: what waits is not sent. Returns how many deliveries that are."""
    waiting = _rows().filter(notification_id__in=list(notification_ids), state=State.PENDING)
    return _skip(waiting, "replaced by a newer notification")


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


def _plan(notification: Notification) -> None:
    # Two bots that plan at the same time write each row once.
    _rows().bulk_create(plan(notification), ignore_conflicts=True)
    notifications = Notification.objects.using(_database()).filter(pk=notification.pk, dispatched_at=None)
    notifications.update(dispatched_at=timezone.now())


def _skip_pointless(notification: Notification) -> None:
    """What is not to be sent any more, because of what has become of the notification meanwhile."""
    rows = _rows().filter(notification=notification)
    if notification.replaced_at is not None:
        _skip(_due(rows) | rows.filter(state=State.PENDING), "replaced by a newer notification")
    elif notification.read_at is not None or notification.archived_at is not None:
        _skip(_due(rows).filter(if_unread=True, digest=None), "read before it was due")


def _skip(rows: QuerySet[Delivery], reason: str) -> int:
    return rows.update(state=State.SKIPPED, answer=reason, due_at=None, holder="", finished_at=timezone.now())


def _parts_of(rows: Iterable[Delivery]) -> QuerySet[Delivery]:
    """These and those of the digests that they are in."""
    digests = {row.digest_id for row in rows if row.digest_id is not None}
    mine = Q(pk__in=[row.pk for row in rows])
    return _rows().filter(mine | Q(digest_id__in=digests) if digests else mine)


def _due(rows: QuerySet[Delivery]) -> QuerySet[Delivery]:
    return rows.filter(state__in=UNFINISHED, due_at__lte=timezone.now())


def _claim(notification: Notification, entry_id: str) -> tuple[Claim, ...]:
    holder = _take(_due(_rows().filter(notification=notification, digest=None)))
    if not holder:
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


def _claim_digest(digest_id: int, entry_id: str) -> tuple[Claim, ...]:
    """All that is due of a digest and still unread, as one; nothing if there is nothing."""
    mine = _rows().filter(digest_id=digest_id)
    if not _due(mine).exists():
        return ()
    digest = Digest.objects.using(_database()).select_for_update().get(pk=digest_id)
    if digest.closed_at is None:
        digest.closed_at = timezone.now()
        digest.save(using=_database(), update_fields=["closed_at"])
    gone = Notification.objects.using(_database()).exclude(read_at=None, archived_at=None)
    _skip(_due(mine).filter(notification__in=gone), "read before it was due")
    holder = _take(_due(mine))
    rows = list(mine.filter(holder=holder).order_by("notification_id")) if holder else []
    if not rows:
        return ()
    return (
        Claim(
            delivery_id=rows[0].pk,
            transport=digest.transport,
            key=digest.key.hex,
            attempt=max(row.attempts for row in rows),
            outcomes=rows[0].outcomes,
            holder=holder,
            entry_id=entry_id,
            digest_id=digest_id,
            notification_ids=tuple(row.notification_id for row in rows),
        ),
    )


def _take(due: QuerySet[Delivery]) -> str:
    """Claim these; returns the name of the claim, "" if there were none."""
    holder = uuid.uuid4().hex
    taken = due.update(
        state=State.SENDING, holder=holder, attempts=F("attempts") + 1, due_at=_claim_end(), queued_at=None
    )
    return holder if taken else ""


def _held(claim: Claim) -> QuerySet[Delivery]:
    mine = {"pk": claim.delivery_id} if claim.digest_id is None else {"digest_id": claim.digest_id}
    return _rows().filter(**mine, holder=claim.holder, state=State.SENDING)


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
