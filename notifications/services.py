"""
The public functions: notify users, mark notifications as seen, read or archived, set what users want.

Owns the transaction of `notify()` and the updates of a notification's states. Does not own the rows of events (events),
deliveries (delivery) or preferences (preferences), publishing (events.outbox), or the limits of content (content).
"""

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from notifications.database.row_locks import lock_clause, update_in_order
from notifications.database.transactions import write_transaction
from notifications.events import create, outbox
from notifications.events.schedule import cancel
from notifications.models import Event, Notification
from notifications.preferences import (
    add_destination,
    add_push_subscription,
    get_preferences,
    remove_push_subscription,
    set_preference,
    set_quiet_hours,
)
from realtime import statistics
from realtime.process_name import process_name

__all__ = [
    "add_destination",
    "add_push_subscription",
    "anotify",
    "cancel",
    "get_preferences",
    "mark_archived",
    "mark_read",
    "mark_relayed",
    "mark_seen",
    "notify",
    "remove_push_subscription",
    "send_notification",
    "set_preference",
    "set_quiet_hours",
]

_LARGEST_ID = 2**63 - 1


def notify(
    recipients: Any,
    message: Any,
    *,
    kind: Any = "info",
    title: Any = "",
    url: Any = "",
    data: Any = None,
    actor: Any = None,
    idempotency_key: str | None = None,
    deliver_after: datetime.timedelta | datetime.datetime | None = None,
    collapse_key: str | None = None,
    fallback: Mapping[str, datetime.timedelta] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Event:
    """
    Notify users of an event.

    Args:
        recipients: A user, a user id, an iterable of both mixed, or a queryset of users. Duplicates are removed. An
            empty list or queryset is allowed: the event is stored, and nobody is notified.
        message: What happened, at most 4000 characters.
        kind: The kind of event, e.g. "order.shipped".
        title: One line of at most 200 characters.
        url: Where a click leads: a path or an http(s) address.
        data: Any JSON value, for programs that display or process the notification.
        actor: The user (or id) who caused the event. An anonymous visitor counts as None.
        idempotency_key: Identifies the event. A second call with the same key writes nothing and returns the first
            event.
        deliver_after: When to notify: a timedelta from now, or an aware datetime (with USE_TZ off, a naive one too).
            A time in the past means now.
        collapse_key: Identifies the subject, e.g. "build-7". The notification replaces each recipient's unread
            notification of the same kind and key: the older one is archived, and its pending deliveries are skipped.
        fallback: Additional transports that are used only if the notification is still unread after this time:
            `{"email": timedelta(minutes=15)}`.
        progress: For large calls. It is called with "saved" or "published", and the number of notifications of this
            step.

    Returns:
        The event. `published_at` is set if its notifications are already on the stream; within a transaction it never
        is. A scheduled event has a `deliver_at`, and can be passed to `cancel`.

    Raises:
        InvalidNotification: The call is wrong; the subclass says what to do. Nothing was written.
        SynchronousOnlyOperation: An event loop runs in this thread: use `await anotify(…)`.

    Guarantees:
        The event and its notifications are written in one transaction, inside the caller's if there is one. They are
        published after the commit, and never after a rollback. The call never fails because Redis is unavailable: the
        event stays in the outbox, and the sweep publishes it. A scheduled event is in the database, and is published
        within about two seconds of its time while a relay runs.
    """
    event, publication = _commit_here(
        recipients,
        message,
        progress=progress,
        actor=actor,
        kind=kind,
        title=title,
        url=url,
        data=data,
        idempotency_key=idempotency_key,
        deliver_after=deliver_after,
        collapse_key=collapse_key,
        fallback=fallback,
    )
    if publication is not None:
        outbox.publish_after_commit(publication, progress)
    return event


async def anotify(
    recipients: Any,
    message: Any,
    *,
    kind: Any = "info",
    title: Any = "",
    url: Any = "",
    data: Any = None,
    actor: Any = None,
    idempotency_key: str | None = None,
    deliver_after: datetime.timedelta | datetime.datetime | None = None,
    collapse_key: str | None = None,
    fallback: Mapping[str, datetime.timedelta] | None = None,
) -> Event:
    """
    The async twin of `notify`: same arguments, same guarantees.

    It uses the database in a thread, and Redis on the event loop. If it is cancelled after the commit, the sweep
    publishes the event.
    """
    event, publication = await sync_to_async(_commit)(
        recipients,
        message,
        progress=None,
        actor=actor,
        kind=kind,
        title=title,
        url=url,
        data=data,
        idempotency_key=idempotency_key,
        deliver_after=deliver_after,
        collapse_key=collapse_key,
        fallback=fallback,
    )
    if publication is not None:
        await outbox.apublish_after_commit(publication)
    return event


def send_notification(user_id: Any, message: str) -> Event:
    """Notify one user: `notify` with its defaults."""
    return notify(user_id, message)


def mark_seen(user_id: Any, ids: Iterable[int] | None = None) -> int:
    """
    Mark a user's notifications as seen: those with these ids, or by default all that are not archived.

    Returns:
        How many were unseen before. Ids of other users' notifications are ignored.
    """
    return _counted("seen", update_in_order(_mine(user_id, ids).filter(seen_at=None), seen_at=timezone.now()))


def mark_read(user_id: Any, ids: Iterable[int] | None = None) -> int:
    """
    Mark a user's notifications as read, and as seen: those with these ids, or by default all that are not archived.

    Returns:
        How many were unread before. Ids of other users' notifications are ignored.
    """
    now = timezone.now()
    unread = _mine(user_id, ids).filter(read_at=None)
    return _counted("read", update_in_order(unread, read_at=now, seen_at=Coalesce("seen_at", now)))


def mark_archived(user_id: Any, ids: Iterable[int]) -> int:
    """
    Archive a user's notifications: read or unread, they leave the inbox and are no longer counted.

    Returns:
        How many were in the inbox before. Ids of other users' notifications are ignored.
    """
    in_inbox = _mine(user_id, ids).filter(archived_at=None)
    return _counted("archived", update_in_order(in_inbox, archived_at=timezone.now()))


def mark_relayed(ids: Iterable[int]) -> set[int]:
    """
    Mark notifications as relayed: the relay has published them to their recipients' browsers.

    Returns:
        The ids of those that were not marked before.
    """
    database, table = router.db_for_write(Notification), Notification._meta.db_table
    if not (possible := _possible(ids)):
        return set()
    # Raw SQL, because every batch of the relay runs it, and the ORM takes twice as long.
    sql = f"""
        UPDATE {table} SET relayed_at = %s, relayed_by = %s FROM (
            SELECT id AS held_id FROM {table} WHERE id IN ({", ".join(["%s"] * len(possible))}) AND relayed_at IS NULL
            ORDER BY id {lock_clause(database)}
        ) AS held WHERE id = held_id RETURNING id
    """  # noqa: S608 - a name of our own
    now = Notification._meta.get_field("relayed_at").get_db_prep_save(timezone.now(), connections[database])
    with connections[database].cursor() as cursor:
        cursor.execute(sql, [now, process_name(), *possible])
        return {pk for (pk,) in cursor.fetchall()}


def _commit_here(*args: Any, **fields: Any) -> tuple[Event, outbox.Publication | None]:
    """Like `_commit`. In a coroutine, where Django refuses to use the database, the error says what to call instead."""
    try:
        return _commit(*args, **fields)
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation("notify() waits for the database: in async code, `await anotify(…)`") from error


def _commit(
    recipients: Any, message: Any, *, progress: Callable[[str, int], None] | None, actor: Any, **fields: Any
) -> tuple[Event, outbox.Publication | None]:
    """Write the rows. Returns what the caller has to publish: nothing if an outer transaction has to commit first."""
    draft = create.draft(message, **fields)
    database = router.db_for_write(Event)
    connection = transaction.get_connection(database)
    is_nested = connection.in_atomic_block or not connection.get_autocommit()
    with write_transaction(database):
        event, publication = create.write_event(draft, recipients, actor=actor, database=database, progress=progress)
        if publication is not None and is_nested:
            hook = functools.partial(outbox.publish_after_commit, publication, progress)
            transaction.on_commit(hook, using=database)
    return event, None if is_nested else publication


def _counted(what: str, number: int) -> int:
    """Count notifications that were marked, once the caller's transaction is committed. Returns their number."""
    if number:
        add = functools.partial(statistics.count, f"notifications.{what}", number)
        transaction.on_commit(add, using=router.db_for_write(Notification))
    return number


def _mine(user_id: Any, ids: Iterable[int] | None) -> QuerySet[Notification]:
    mine = Notification.objects.using(router.db_for_write(Notification)).filter(recipient_id=user_id)
    return mine.filter(archived_at=None) if ids is None else mine.filter(pk__in=_possible(ids))


def _possible(ids: Iterable[int]) -> list[int]:
    # A query with an id that does not fit the column would be an error. No notification has such an id.
    return [notification_id for notification_id in ids if 0 < notification_id <= _LARGEST_ID]
