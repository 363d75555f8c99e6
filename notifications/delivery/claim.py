"""
Claims the due deliveries of notifications, after planning them if necessary.

Owns the order of these steps, in a few statements for any number of notifications. Does not own which transports are
used (plan), recording results (records) or calling providers (bot). All functions are sync: call them in a thread.

The transaction of the claim locks the notification and reads its current state. So a notification that was read,
archived or replaced before is not sent, and marking it as read waits for the end of the transaction.

A delivery is claimed with an UPDATE … WHERE before the provider is called, and only the holder of the claim may record
the result. So a delivery that is known to be sent is never sent again, even if the notification is on the stream twice.
A claim lapses after DELIVERY_CLAIM_SECONDS by the database's clock, so the clocks of the bots' machines do not matter.
"""

import datetime
import random
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from notifications import conf
from notifications.content.stream_entry import StreamedNotification
from notifications.database.clock import database_time
from notifications.database.row_locks import lock, lock_clause, locked
from notifications.database.transactions import write_transaction
from notifications.delivery.changes import hold, note_lapsed, postpone, reopen, skip
from notifications.delivery.holding import is_held
from notifications.delivery.plan import Draft, deliveries_of, draft_all
from notifications.delivery.records import TO_SEND, Claim, claim_end, database, insert, rows
from notifications.models import QUIET_HOURS_RELATION, Delivery, Digest, Notification
from realtime.exceptions import EntryRejected
from realtime.process_name import process_name

__all__ = ["Claims", "StreamTask", "begin", "begin_many"]

State = Delivery.State
# A delivery whose first attempt was due later than this after it was planned has waited on purpose.
_PROMPT = datetime.timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTask:
    """
    A notification from the stream, and on which transports a bot can send now.

    Attributes:
        entry_id: The id of its entry.
        attempt: Which attempt of the entry this is. The attempts of a replayed dead letter start at 1 again.
        only: The only transport to consider; "" for all.
        busy: Transports without a free slot: their due deliveries are not claimed.
        saturated: Those of the busy transports for which nothing should wait: their due deliveries are postponed.
    """

    notification: StreamedNotification
    entry_id: str
    attempt: int
    only: str = ""
    busy: frozenset[str] = frozenset()
    saturated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims for one notification."""

    recipient: Any
    granted: tuple[Claim, ...]
    # The transports with a due delivery that must wait for a slot.
    waiting: tuple[str, ...] = ()


# The claims; None if the notification or its user was deleted; EntryRejected if the entry is another user's.
type Answer = Claims | EntryRejected | None


class _Due(NamedTuple):
    """The columns of a due delivery that a claim needs. A tuple, because model instances take much longer to make."""

    pk: int
    notification_id: int
    transport: str
    key: uuid.UUID
    attempts: int
    outcomes: Any
    if_unread: bool
    due_at: datetime.datetime
    created_at: datetime.datetime

    @property
    def was_delayed(self) -> bool:
        return self.due_at - self.created_at > _PROMPT


class _Locked(NamedTuple):
    """The state of a notification that the transaction of the claim has locked."""

    # Whether its deliveries were planned before.
    is_planned: bool
    is_read_or_archived: bool
    is_replaced: bool


def begin(notification: StreamedNotification, *, entry_id: str, attempt: int) -> Claims | None:
    """`begin_many` for one. Raises EntryRejected."""
    (answer,) = begin_many([StreamTask(notification=notification, entry_id=entry_id, attempt=attempt)])
    if isinstance(answer, EntryRejected):
        raise answer
    return answer


def begin_many(tasks: Sequence[StreamTask]) -> list[Answer]:
    """
    Plan the deliveries of notifications that have none yet, and claim those that are due.

    Returns:
        The answer to each task: its claims; None if the notification or its user was deleted; EntryRejected if the
        notification is another user's.
    """
    found = _find(tasks)
    checked = [_check(each, found.get(each.notification.notification_id)) for each in tasks]
    wanted = {each.pk: each for each in checked if isinstance(each, Notification)}
    if not wanted:
        return [each for each in checked if not isinstance(each, Notification)]
    # Before the transaction: during it, nobody else can write on SQLite, and notify() waits.
    drafts = draft_all(list(wanted.values()), now=_now_of(wanted))
    with write_transaction(database()):
        states = _lock_and_mark(wanted)
        # Notifications that were deleted meanwhile have no claims.
        answers = [None if isinstance(each, Notification) and each.pk not in states else each for each in checked]
        pairs = [
            (task, answer) for task, answer in zip(tasks, answers, strict=True) if isinstance(answer, Notification)
        ]
        claimed = iter(_plan_and_claim(pairs, drafts, states))
        return [next(claimed) if isinstance(answer, Notification) else answer for answer in answers]


def _find(tasks: Sequence[StreamTask]) -> dict[int, Notification]:
    notifications = Notification.objects.using(database()).select_related("event", f"recipient__{QUIET_HOURS_RELATION}")
    return notifications.annotate(_now=database_time()).in_bulk({each.notification.notification_id for each in tasks})


def _lock_and_mark(notification_ids: Iterable[int]) -> dict[int, _Locked]:
    """
    Lock notifications until the transaction ends, mark their deliveries as planned, and read their state.

    It is one statement, which locks the rows in the order of ids (row_locks). Deleted notifications are left out.
    """
    # RETURNING has the columns themselves, because `IS NOT NULL` in RETURNING is always true on SQLite 3.40.
    connection, table = connections[database()], Notification._meta.db_table
    ids = ", ".join(str(pk) for pk in sorted(notification_ids))
    sql = f"""
        UPDATE {table} SET dispatched_at = COALESCE(dispatched_at, %s),
            dispatched_by = CASE WHEN dispatched_at IS NULL THEN %s ELSE dispatched_by END
        WHERE id IN (SELECT id FROM {table} WHERE id IN ({ids}) ORDER BY id {lock_clause(database())})
        RETURNING id, dispatched_at <> %s, COALESCE(read_at, archived_at), replaced_at
    """  # noqa: S608 - a name and numbers of our own
    now = Notification._meta.get_field("dispatched_at").get_db_prep_save(timezone.now(), connection)
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, process_name(), now])
        return {
            pk: _Locked(
                is_planned=bool(is_planned),
                is_read_or_archived=done_at is not None,
                is_replaced=replaced_at is not None,
            )
            for pk, is_planned, done_at, replaced_at in cursor.fetchall()
        }


def _now_of(found: Mapping[int, Any]) -> datetime.datetime:
    """The database's time when they were found."""
    now: datetime.datetime = next(iter(found.values()))._now
    return now


def _check(each: StreamTask, found: Notification | None) -> Notification | EntryRejected | None:
    if found is not None and str(found.recipient_id) != each.notification.user_id:
        return EntryRejected(f"u is not the recipient of notification {found.pk}")
    return found


def _plan_and_claim(
    pairs: Sequence[tuple[StreamTask, Notification]], drafts: Mapping[int, Draft], states: Mapping[int, _Locked]
) -> list[Claims]:
    notifications = {found.pk: found for _, found in pairs}
    # `dispatched_at` is written in the transaction that plans. A notification that has it but no delivery row is
    # planned again: it is from before delivery rows existed, or it ended up with no row.
    known = _rows_of([pk for pk in notifications if states[pk].is_planned])
    known_rows = [row for mine in known.values() for row in mine]
    digest_ids = {row.digest_id for row in known_rows if row.digest_id is not None}
    _plan({pk: drafts[pk] for pk in notifications if pk not in known}, hold=digest_ids)
    if known_rows:
        lock(_with_digests(known_rows))
        if digest_ids or any(row.state == State.SENDING for row in known_rows):
            note_lapsed(_due(_with_digests(known_rows)).filter(state=State.SENDING))
    for each, found in pairs:
        _reopen_replayed(each, known.get(found.pk, []))
    not_now = {
        pk
        for pk, found in notifications.items()
        if _skip_or_postpone(found, states[pk], known.get(pk, []), drafts[pk].quiet_until)
    }
    ready = [(each, found) for each, found in pairs if found.pk not in not_now]
    claims, waiting = _claim(ready)
    for at, (each, found) in enumerate(ready):
        for digest_id, transport in {
            (row.digest_id, row.transport): None for row in known.get(found.pk, []) if row.digest_id is not None
        }:
            _claim_digest(each, digest_id, transport, claims[at], waiting[at])
    claimed = {id(each): (claims[at], waiting[at]) for at, (each, _) in enumerate(ready)}
    return [
        Claims(recipient=found.recipient, granted=tuple(mine), waiting=tuple(names))
        for each, found in pairs
        for mine, names in [claimed.get(id(each), ([], []))]
    ]


def _rows_of(notification_ids: Collection[int]) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    if not notification_ids:
        return found
    mine = rows().filter(notification_id__in=notification_ids)
    for row in mine.only("notification_id", "digest_id", "transport", "state", "dead_letter"):
        found.setdefault(row.notification_id, []).append(row)
    return found


def _plan(drafts: Mapping[int, Draft], *, hold: Collection[int]) -> None:
    planned = deliveries_of(drafts.values(), hold=hold)
    insert(planned)


def _reopen_replayed(each: StreamTask, known: Sequence[Delivery]) -> None:
    """
    If an entry is a replayed dead letter, reopen the deliveries that failed with it.

    Only earlier releases made dead letters of failed deliveries. Such a letter may still be in Redis.
    """
    if each.attempt > 1 or each.only:
        return
    if any(row.digest_id is not None or row.dead_letter == each.entry_id for row in known):
        reopen(_with_digests(known).filter(dead_letter=each.entry_id))


def _skip_or_postpone(
    found: Notification, state: _Locked, known: Sequence[Delivery], quiet_until: datetime.datetime | None
) -> bool:
    """
    Skip deliveries that must no longer be sent. Hold or postpone the others if they must not be sent now.

    Returns:
        Whether nothing may be sent now: NOTIFICATIONS["DELIVERY"] holds it, or the recipient has quiet hours.
    """
    if state.is_replaced:
        mine = _rows_for(found)
        skip(_due(mine) | mine.filter(state=State.PENDING), "replaced by a newer notification")
    elif state.is_read_or_archived:
        skip(_due(_rows_for(found)).filter(if_unread=True, digest=None), "read before it was due")
    if is_held(found.recipient):
        hold(_due(_with_digests(known) | _rows_for(found)))
        return True
    if quiet_until is None:
        return False
    postpone(_due(_with_digests(known) | _rows_for(found)), quiet_until, "the recipient has quiet hours")
    return True


def _claim(pairs: Sequence[tuple[StreamTask, Notification]]) -> tuple[list[list[Claim]], list[list[str]]]:
    """The claims of each task, and its transports that must wait for a slot. Digests are left out."""
    mine = rows().filter(notification_id__in=[notification.pk for _, notification in pairs], digest=None)
    # Locked until the transaction ends, so that they are still due when they are taken.
    found = {row.pk: row for row in map(_Due._make, locked(_due(mine)).values_list(*_Due._fields))}
    due: dict[int, list[_Due]] = {}
    for row in found.values():
        due.setdefault(row.notification_id, []).append(row)
    waiting: list[list[str]] = []
    taken: dict[int, int] = {}
    saturated: list[int] = []
    for at, (each, notification) in enumerate(pairs):
        waiting.append([])
        for row in due.get(notification.pk, ()):
            if (each.only and row.transport != each.only) or row.pk in taken:
                continue
            if row.transport in each.saturated:
                saturated.append(row.pk)
            elif row.transport in each.busy:
                waiting[at].append(row.transport)
            else:
                taken[row.pk] = at
    if saturated:
        _postpone(rows().filter(pk__in=saturated))
    claims: list[list[Claim]] = [[] for _ in pairs]
    holder = _take(rows().filter(pk__in=taken)) if taken else ""
    for pk, at in taken.items():
        row = found[pk]
        claims[at].append(
            Claim(
                delivery_id=pk,
                transport=row.transport,
                key=row.key.hex,
                attempt=row.attempts + 1,
                outcomes=row.outcomes,
                holder=holder,
                has_waited=row.if_unread or (not row.attempts and row.was_delayed),
            )
        )
    return claims, waiting


def _claim_digest(each: StreamTask, digest_id: int, transport: str, claims: list[Claim], waiting: list[str]) -> None:
    """Claim the due deliveries of a digest whose notifications are still unread: together they are one claim."""
    mine = rows().filter(digest_id=digest_id)
    if (each.only and transport != each.only) or not _due(mine).exists():
        return
    if transport in each.saturated:
        _postpone(mine)
        return
    if transport in each.busy:
        waiting.append(transport)
        return
    # It is locked: see `deliveries_of(hold=…)`.
    digest = Digest.objects.using(database()).get(pk=digest_id)
    if digest.closed_at is None:
        digest.closed_at = timezone.now()
        digest.save(using=database(), update_fields=["closed_at"])
    # Two queries: in a single one, the database might search all notifications that were ever read.
    ids = list(_due(mine).values_list("notification_id", flat=True))
    read = Notification.objects.using(database()).filter(pk__in=ids).exclude(read_at=None, archived_at=None)
    skip(_due(mine).filter(notification__in=list(read.values_list("pk", flat=True))), "read before it was due")
    holder = _take(_due(mine))
    parts = list(mine.filter(holder=holder).order_by("notification_id")) if holder else []
    if parts:
        claims.append(
            Claim(
                delivery_id=parts[0].pk,
                transport=digest.transport,
                key=digest.key.hex,
                attempt=max(row.attempts for row in parts),
                outcomes=parts[0].outcomes,
                holder=holder,
                has_waited=True,
                digest_id=digest_id,
                notification_ids=tuple(row.notification_id for row in parts),
            )
        )


def _take(due: QuerySet[Delivery]) -> str:
    """Claim these deliveries. Returns the `holder` of the claim; "" if there were none."""
    holder = uuid.uuid4().hex
    taken = due.update(
        state=State.SENDING,
        holder=holder,
        attempts=F("attempts") + 1,
        attempt_at=timezone.now(),
        attempt_by=process_name(),
        due_at=claim_end(),
        queued_at=None,
    )
    return holder if taken else ""


def _postpone(saturated: QuerySet[Delivery]) -> None:
    """Postpone the deliveries of a saturated transport. They wait in the database; no attempt is counted."""
    # Random, so that they are not all due at the same time.
    seconds = conf.get_settings().delivery_retry_seconds * random.uniform(1, 2)  # noqa: S311 - keeps no secret
    _due(saturated).update(
        state=State.PENDING,
        holder="",
        due_at=database_time(seconds),
        queued_at=None,
        answer="waits for a free slot",
    )


def _rows_for(found: Notification) -> QuerySet[Delivery]:
    return rows().filter(notification=found)


def _with_digests(known: Iterable[Delivery]) -> QuerySet[Delivery]:
    """These deliveries, and all others of their digests."""
    digests = {row.digest_id for row in known if row.digest_id is not None}
    mine = Q(pk__in=[row.pk for row in known])
    return rows().filter(mine | Q(digest_id__in=digests) if digests else mine)


def _due(some: QuerySet[Delivery]) -> QuerySet[Delivery]:
    return some.filter(state__in=TO_SEND, due_at__lte=database_time())
