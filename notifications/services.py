"""
The way into the app: telling people of something, what they did with it, and what they want to be told.

Owns the transactions of callers, and what people did with their notifications. The rows of events are written by
`create` and `schedule`, deliveries and preferences by the modules of these names. Publishing is the outbox's; what a
notification may say is the envelope's.
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
    Tell people of something.

    Args:
        recipients: A user, a user id, an iterable of both mixed, or a queryset of users; each person is told once.
            Nobody (an empty list or queryset) is fine: the event is kept, and nobody is told.
        message: What happened, at most 4000 characters.
        kind: What sort of event, e.g. "order.shipped".
        title: One line of at most 200 characters.
        url: Where a click leads: a path or an http(s) address.
        data: Anything that is JSON, for the program that shows it.
        actor: The user (or id) who caused it; an anonymous visitor counts as nobody.
        idempotency_key: Names the event: a second call with the same key writes nothing and returns the first event.
        deliver_after: Nobody is told before this: a timedelta from now, or an aware datetime (with USE_TZ off, a naive
            one too). If it is in the past, everybody is told at once.
        collapse_key: Names what this is about, e.g. "build-7": it replaces what each recipient has unread of the same
            kind and key. The older one is archived, and what was not sent of it is not sent.
        fallback: Transports that are used only if it is still unread after so long, beside those of its kind:
            `{"email": timedelta(minutes=15)}`.
        progress: For large calls: called with "saved" or "published" and how many notifications just were.

    Returns:
        The event. `published_at` is set if its notifications are on the stream already; in a transaction that is
        never so. One that waits has a `deliver_at`, and may be given to `cancel`.

    Raises:
        InvalidNotification: The call is wrong; its subclasses say what to do. Nothing was written.
        SynchronousOnlyOperation: An event loop runs in this thread: `await anotify(…)`.

    Guarantees:
        Event and notifications are written in one transaction, within the caller's if there is one. They are published
        after it has committed, and never if it is rolled back. Redis being away never fails the caller: the event is
        kept and published by the sweep. What waits is in the database, and is told within about two seconds of its time
        while a relay runs.
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

    The database is used in a thread, Redis on the event loop. Cancelled after the commit, it leaves the event to the
    sweep.
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
    """Tell one user one thing: `notify` with its defaults."""
    return notify(user_id, message)


def mark_seen(user_id: Any, ids: Iterable[int] | None = None) -> int:
    """
    The user has opened the inbox and seen these notifications, or without `ids` all that are not archived.

    Returns:
        How many were unseen until now. Ids of other people's notifications are ignored.
    """
    return update_in_order(_mine(user_id, ids).filter(seen_at=None), seen_at=timezone.now())


def mark_read(user_id: Any, ids: Iterable[int] | None = None) -> int:
    """
    The user has read these notifications, or without `ids` all that are not archived; what is read is seen.

    Returns:
        How many were unread until now. Ids of other people's notifications are ignored.
    """
    now = timezone.now()
    unread = _mine(user_id, ids).filter(read_at=None)
    return update_in_order(unread, read_at=now, seen_at=Coalesce("seen_at", now))


def mark_archived(user_id: Any, ids: Iterable[int]) -> int:
    """
    The user has put these notifications away; read or not, they are no longer in the inbox nor counted.

    Returns:
        How many were in the inbox until now. Ids of other people's notifications are ignored.
    """
    return update_in_order(_mine(user_id, ids).filter(archived_at=None), archived_at=timezone.now())


def mark_relayed(ids: Iterable[int]) -> int:
    """
    The relay has handed these notifications to their recipients' groups.

    Returns:
        How many had not been before.
    """
    database, table = router.db_for_write(Notification), Notification._meta.db_table
    if not (possible := _possible(ids)):
        return 0
    # In SQL: each batch of the relay does it, and the ORM takes twice as long.
    sql = f"""
        UPDATE {table} SET relayed_at = %s FROM (
            SELECT id AS held_id FROM {table} WHERE id IN ({", ".join(["%s"] * len(possible))}) AND relayed_at IS NULL
            ORDER BY id {lock_clause(database)}
        ) AS held WHERE id = held_id
    """  # noqa: S608 - a name of our own
    now = Notification._meta.get_field("relayed_at").get_db_prep_save(timezone.now(), connections[database])
    with connections[database].cursor() as cursor:
        cursor.execute(sql, [now, *possible])
        return int(cursor.rowcount)


def _commit_here(*args: Any, **fields: Any) -> tuple[Event, outbox.Publication | None]:
    """As `_commit`; from a coroutine, where Django refuses the database, it says what to call instead."""
    try:
        return _commit(*args, **fields)
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation("notify() waits for the database: in async code, `await anotify(…)`") from error


def _commit(
    recipients: Any, message: Any, *, progress: Callable[[str, int], None] | None, actor: Any, **fields: Any
) -> tuple[Event, outbox.Publication | None]:
    """Write, and return what is left to publish: nothing if a transaction around us has to commit first."""
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


def _mine(user_id: Any, ids: Iterable[int] | None) -> QuerySet[Notification]:
    mine = Notification.objects.using(router.db_for_write(Notification)).filter(recipient_id=user_id)
    return mine.filter(archived_at=None) if ids is None else mine.filter(pk__in=_possible(ids))


def _possible(ids: Iterable[int]) -> list[int]:
    # A database refuses to look for what does not fit its integers; nobody has such an id.
    return [notification_id for notification_id in ids if 0 < notification_id <= _LARGEST_ID]
