"""
What a bot may send now: plans the deliveries of a notification, if nobody has, and claims those that are due.

Owns the order of these steps, and that they cost a few statements for however many notifications. Does not own on which
transports (plan), what becomes of a claim (records) nor calling providers (bot). Sync; run it in a thread from
async code.

The transaction of the claim locks the notification and reads its state anew. So a notification that was read, archived
or replaced before is not sent, and marking it as read meanwhile waits for the end of the transaction.

A delivery is claimed by an UPDATE … WHERE before the provider is called, and its end is recorded by whoever holds the
claim. So what is known to have been sent is never sent again, whoever hands the notification out again. A claim lapses
when its holder is not heard of, by the database's clock: those of the machines on which bots run need not agree.
"""

import datetime
import random
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from notifications import conf
from notifications.content.stream_entry import StreamedNotification
from notifications.database.clock import database_time, stored
from notifications.database.row_locks import lock, lock_clause, locked, update_in_order
from notifications.database.transactions import write_transaction
from notifications.delivery.holding import is_held
from notifications.delivery.plan import Draft, deliveries_of, draft_all
from notifications.delivery.records import UNFINISHED, claim_end, database, hold, insert, reopen, rows, skip
from notifications.delivery.values import Claim, Claims, StreamTask
from notifications.models import QUIET_HOURS_RELATION, Delivery, Digest, Notification
from realtime.exceptions import EntryRejected

__all__ = ["begin", "begin_many"]

State = Delivery.State
# Of a delivery that may be claimed, what a claim needs.
_CLAIMED_FIELDS = ("notification_id", "transport", "key", "attempts", "outcomes")

# The claims; None if the notification or its user was deleted; EntryRejected if the entry is another user's.
type Answer = Claims | EntryRejected | None


class _Standing(NamedTuple):
    """The state of a notification that the transaction of the claim has locked."""

    # Whether its deliveries were planned before.
    is_planned: bool
    # Whether it was read or archived.
    is_put_away: bool
    is_replaced: bool


def begin(notification: StreamedNotification, *, entry_id: str, attempt: int) -> Claims | None:
    """`begin_many` for one. Raises EntryRejected."""
    (answer,) = begin_many([StreamTask(notification=notification, entry_id=entry_id, attempt=attempt)])
    if isinstance(answer, EntryRejected):
        raise answer
    return answer


def begin_many(tasks: Sequence[StreamTask]) -> list[Answer]:
    """
    Decide on the transports, where nobody has, and claim what is due.

    Returns:
        The answer to each: what to do now; None if the notification has been deleted, or its user; EntryRejected if the
        notification is another user's.
    """
    found = _find(tasks)
    checked = [_check(each, found.get(each.notification.notification_id)) for each in tasks]
    wanted = {each.pk: each for each in checked if isinstance(each, Notification)}
    if not wanted:
        return [each for each in checked if not isinstance(each, Notification)]
    # Before the transaction: while it lasts, SQLite lets nobody else write, and notify() waits.
    drafts = draft_all(list(wanted.values()), now=_now_of(wanted))
    with write_transaction(database()):
        standings = _lock_and_mark(wanted)
        # Notifications that were deleted since they were found have no claims.
        answers = [None if isinstance(each, Notification) and each.pk not in standings else each for each in checked]
        pairs = [
            (task, answer) for task, answer in zip(tasks, answers, strict=True) if isinstance(answer, Notification)
        ]
        begun = iter(_begin(pairs, drafts, standings))
        return [next(begun) if isinstance(answer, Notification) else answer for answer in answers]


def _find(tasks: Sequence[StreamTask]) -> dict[int, Notification]:
    notifications = Notification.objects.using(database()).select_related("event", f"recipient__{QUIET_HOURS_RELATION}")
    return notifications.annotate(_now=database_time()).in_bulk({each.notification.notification_id for each in tasks})


def _lock_and_mark(notification_ids: Iterable[int]) -> dict[int, _Standing]:
    """
    Lock notifications until the transaction ends, mark their deliveries as planned, and read their state.

    It is one statement, and locks the rows in the order of ids (row_locks). Deleted notifications are waiting out.
    """
    # It returns the columns themselves, because `IS NOT NULL` in RETURNING is always true on SQLite 3.40.
    connection, table = connections[database()], Notification._meta.db_table
    ids = ", ".join(str(pk) for pk in sorted(notification_ids))
    sql = f"""
        UPDATE {table} SET dispatched_at = COALESCE(dispatched_at, %s)
        WHERE id IN (SELECT id FROM {table} WHERE id IN ({ids}) ORDER BY id {lock_clause(database())})
        RETURNING id, dispatched_at <> %s, COALESCE(read_at, archived_at), replaced_at
    """  # noqa: S608 - a name and numbers of our own
    now = Notification._meta.get_field("dispatched_at").get_db_prep_save(timezone.now(), connection)
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, now])
        return {
            pk: _Standing(
                is_planned=bool(is_planned), is_put_away=put_away is not None, is_replaced=replaced is not None
            )
            for pk, is_planned, put_away, replaced in cursor.fetchall()
        }


def _now_of(found: Mapping[int, Any]) -> datetime.datetime:
    """The database's time when they were found."""
    now: datetime.datetime = next(iter(found.values()))._now
    return now


def _check(each: StreamTask, found: Notification | None) -> Notification | EntryRejected | None:
    if found is not None and str(found.recipient_id) != each.notification.user_id:
        return EntryRejected(f"u is not the recipient of notification {found.pk}")
    return found


def _begin(
    pairs: Sequence[tuple[StreamTask, Notification]], drafts: Mapping[int, Draft], standings: Mapping[int, _Standing]
) -> list[Claims]:
    notifications = {found.pk: found for _, found in pairs}
    # `dispatched_at` is written in the transaction that plans. A notification that has it but no delivery row is
    # planned again: it is from before delivery rows existed, or it ended up with no row.
    known = _rows_of([pk for pk in notifications if standings[pk].is_planned])
    known_rows = [row for mine in known.values() for row in mine]
    digest_ids = {row.digest_id for row in known_rows if row.digest_id is not None}
    _plan({pk: drafts[pk] for pk in notifications if pk not in known}, hold=digest_ids)
    if known_rows:
        lock(_parts_of(known_rows))
    for each, found in pairs:
        _reopen_replayed(each, known.get(found.pk, []))
    quiet = {
        pk
        for pk, found in notifications.items()
        if _hold_back(found, standings[pk], known.get(pk, []), drafts[pk].quiet_until)
    }
    awake = [(each, found) for each, found in pairs if found.pk not in quiet]
    claims, waiting = _claim(awake)
    for at, (each, found) in enumerate(awake):
        for digest_id, transport in {
            (row.digest_id, row.transport): None for row in known.get(found.pk, []) if row.digest_id is not None
        }:
            _claim_digest(each, digest_id, transport, claims[at], waiting[at])
    begun = {id(each): (claims[at], waiting[at]) for at, (each, _) in enumerate(awake)}
    return [
        Claims(recipient=found.recipient, granted=tuple(mine), waiting=tuple(names))
        for each, found in pairs
        for mine, names in [begun.get(id(each), ([], []))]
    ]


def _rows_of(notification_ids: Collection[int]) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    if not notification_ids:
        return found
    mine = rows().filter(notification_id__in=notification_ids)
    for row in mine.only("notification_id", "digest_id", "transport", "dead_letter"):
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
        reopen(_parts_of(known).filter(dead_letter=each.entry_id))


def _hold_back(
    found: Notification, standing: _Standing, known: Sequence[Delivery], quiet_until: datetime.datetime | None
) -> bool:
    """
    Skip deliveries that are not to be sent any more, and hold or put off the others if they may not be sent now.

    Returns:
        Whether nothing is to be sent now: NOTIFICATIONS["DELIVERY"] holds it, or the recipient has quiet hours.
    """
    if standing.is_replaced:
        mine = _rows_for(found)
        skip(_due(mine) | mine.filter(state=State.PENDING), "replaced by a newer notification")
    elif standing.is_put_away:
        skip(_due(_rows_for(found)).filter(if_unread=True, digest=None), "read before it was due")
    if is_held(found.recipient):
        hold(_due(_parts_of(known) | _rows_for(found)))
        return True
    if quiet_until is None:
        return False
    waiting = _due(_parts_of(known) | _rows_for(found))
    update_in_order(waiting, state=State.PENDING, holder="", due_at=stored(quiet_until), queued_at=None)
    return True


def _claim(pairs: Sequence[tuple[StreamTask, Notification]]) -> tuple[list[list[Claim]], list[list[str]]]:
    """Claims by task, and the transports without a slot."""
    mine = rows().filter(notification_id__in=[notification.pk for _, notification in pairs], digest=None)
    # Held until the transaction ends: what is due now is so still when it is taken.
    found = {row.pk: row for row in locked(_due(mine)).only(*_CLAIMED_FIELDS)}
    due: dict[int, list[Delivery]] = {}
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
        _put_off(rows().filter(pk__in=saturated))
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
            )
        )
    return claims, waiting


def _claim_digest(each: StreamTask, digest_id: int, transport: str, claims: list[Claim], waiting: list[str]) -> None:
    """All that is due of a digest and still unread, as one; nothing if there is nothing."""
    mine = rows().filter(digest_id=digest_id)
    if (each.only and transport != each.only) or not _due(mine).exists():
        return
    if transport in each.saturated:
        _put_off(mine)
        return
    if transport in each.busy:
        waiting.append(transport)
        return
    # `_begin` has locked it already.
    digest = Digest.objects.using(database()).get(pk=digest_id)
    if digest.closed_at is None:
        digest.closed_at = timezone.now()
        digest.save(using=database(), update_fields=["closed_at"])
    # By their ids: within one statement a database may look through all notifications that were ever read.
    ids = list(_due(mine).values_list("notification_id", flat=True))
    gone = Notification.objects.using(database()).filter(pk__in=ids).exclude(read_at=None, archived_at=None)
    skip(_due(mine).filter(notification__in=list(gone.values_list("pk", flat=True))), "read before it was due")
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
                digest_id=digest_id,
                notification_ids=tuple(row.notification_id for row in parts),
            )
        )


def _take(due: QuerySet[Delivery]) -> str:
    """Claim these; returns the name of the claim, "" if there were none."""
    holder = uuid.uuid4().hex
    taken = due.update(
        state=State.SENDING, holder=holder, attempts=F("attempts") + 1, due_at=claim_end(), queued_at=None
    )
    return holder if taken else ""


def _put_off(saturated: QuerySet[Delivery]) -> None:
    """They wait in the table, and not in a bot, until their transport has recovered; no attempt is counted."""
    # Spread, as all of them come back.
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


def _parts_of(known: Iterable[Delivery]) -> QuerySet[Delivery]:
    """These and those of the digests that they are in."""
    digests = {row.digest_id for row in known if row.digest_id is not None}
    mine = Q(pk__in=[row.pk for row in known])
    return rows().filter(mine | Q(digest_id__in=digests) if digests else mine)


def _due(some: QuerySet[Delivery]) -> QuerySet[Delivery]:
    return some.filter(state__in=UNFINISHED, due_at__lte=database_time())
