"""
Writing events and their notifications.

Owns the checks of a call that need no database, the inserts, and what a collapse key replaces. Does not own
transactions (services, schedule) or publishing (outbox).
"""

import datetime
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import signals
from django.utils import timezone

from notifications import conf
from notifications.content.envelope import Content, check_content, check_key
from notifications.content.recipients import find_actor, find_recipients
from notifications.content.timing import check_deliver_after, check_fallback
from notifications.database.clock import stored
from notifications.database.row_locks import update_in_order
from notifications.delivery import changes
from notifications.events import outbox
from notifications.models import COLLAPSE_KEY_LIMIT, Event, Notification, Scheduled
from realtime.process_name import process_name

__all__ = ["Draft", "close_event", "draft", "insert_notifications", "write_event"]

type ReportProgress = Callable[[str, int], None]

IDEMPOTENCY_KEY_LIMIT = 255
# Notifications held in memory as objects at a time.
_ROWS_PER_INSERT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The arguments of a call, checked without the database."""

    content: Content
    # The bytes of the envelope that all recipients share.
    common: bytes
    idempotency_key: str | None
    # None: now.
    deliver_at: datetime.datetime | None
    # "": it replaces nothing.
    collapse_key: str
    # Transport → seconds.
    fallback: dict[str, float] | None


def draft(
    message: Any, *, idempotency_key: Any, deliver_after: Any, collapse_key: Any, fallback: Any, **fields: Any
) -> Draft:
    """Check the arguments of `services.notify`, except for recipients and actor. Raises InvalidNotification."""
    content, common = check_content(message, **fields)
    return Draft(
        content=content,
        common=common,
        idempotency_key=check_key("idempotency_key", idempotency_key, limit=IDEMPOTENCY_KEY_LIMIT),
        deliver_at=check_deliver_after(deliver_after, content.created_at),
        collapse_key=check_key("collapse_key", collapse_key, limit=COLLAPSE_KEY_LIMIT) or "",
        fallback=check_fallback(fallback, conf.get_settings().transports),
    )


def write_event(
    draft: Draft, recipients: Any, *, actor: Any, database: str, progress: ReportProgress | None
) -> tuple[Event, outbox.Publication | None]:
    """
    Write an event with its notifications, or with its `Scheduled` rows if it is for later. Needs a transaction.

    Returns:
        The event, or the first event with the same idempotency key; and what has to be published after the commit, if
        anything.
    """
    events = Event.objects.using(database)
    if draft.idempotency_key is not None:
        first = events.filter(idempotency_key=draft.idempotency_key).first()
        if first is not None:
            return first, None
    user_ids = find_recipients(recipients, using=database, limit=conf.get_settings().max_recipients)
    event = _make_event(draft, actor_id=find_actor(actor, using=database), is_for_nobody=not user_ids)
    if draft.idempotency_key is None:
        _insert_event(event, database)
    else:
        try:
            with transaction.atomic(using=database):
                _insert_event(event, database)
        except IntegrityError:
            # Another call with the same key has committed between our query and our insert.
            first = events.filter(idempotency_key=draft.idempotency_key).first()
            if first is None:
                raise
            return first, None
    if event.deliver_at is not None:
        _schedule(event, user_ids, database, progress)
        return event, None
    rows = insert_notifications(event, user_ids, database, progress)
    if rows:
        return event, outbox.Publication(event=event, common=draft.common, rows=rows)
    if user_ids:
        close_event(event, database)
    return event, None


def insert_notifications(
    event: Event, user_ids: Iterable[Any], database: str, progress: ReportProgress | None = None
) -> list[outbox.Row]:
    """
    Insert the notifications of an event, and archive those that they replace. Returns the rows ordered by id.

    Users who were deleted meanwhile are left out.
    """
    rows: list[outbox.Row] = []
    user_ids = list(user_ids)
    replaced = _replace(event, user_ids, database) if event.collapse_key else {}
    for part in itertools.batched(user_ids, _ROWS_PER_INSERT):
        rows += _insert(event, part, replaced, database)
        if progress is not None:
            progress("saved", len(part))
    return sorted(rows, key=lambda row: row[0])


def close_event(event: Event, database: str) -> None:
    """Take an event without notifications out of the outbox: there is nothing to publish."""
    event.published_at = timezone.now()
    event.save(using=database, update_fields=["published_at"])


def _make_event(draft: Draft, *, actor_id: Any, is_for_nobody: bool) -> Event:
    content, process = draft.content, process_name()
    deliver_at = None if is_for_nobody or draft.deliver_at is None else stored(draft.deliver_at)
    return Event(
        kind=content.kind,
        title=content.title,
        message=content.message,
        url=content.url,
        data=content.data,
        actor_id=actor_id,
        idempotency_key=draft.idempotency_key,
        collapse_key=draft.collapse_key,
        fallback=draft.fallback,
        created_at=stored(content.created_at),
        created_by=process,
        deliver_at=deliver_at,
        scheduled_at=None if deliver_at is None else stored(content.created_at),
        scheduled_by=None if deliver_at is None else process,
        # Without recipients there is nothing to publish.
        published_at=stored(content.created_at) if is_for_nobody else None,
    )


def _insert_event(event: Event, database: str) -> None:
    """Insert as save() does, with its signals, but in raw SQL: save() took a fifth of the time of notify()."""
    signals.pre_save.send(sender=Event, instance=event, raw=False, using=database, update_fields=None)
    connection = connections[database]
    values: dict[str, Any] = {}
    for field in Event._meta.local_concrete_fields:
        # Columns that are left out are null.
        if (value := getattr(event, field.attname)) is not None:
            values[str(field.column)] = field.get_db_prep_save(value, connection)
    sql = f"""
        INSERT INTO {Event._meta.db_table} ({", ".join(values)}) VALUES ({", ".join(["%s"] * len(values))}) RETURNING id
    """  # noqa: S608 - names of our own
    with connection.cursor() as cursor:
        cursor.execute(sql, [*values.values()])
        (event.pk,) = cursor.fetchone()
    event._state.adding, event._state.db = False, database
    signals.post_save.send(sender=Event, instance=event, created=True, raw=False, using=database, update_fields=None)


def _schedule(event: Event, user_ids: list[Any], database: str, progress: ReportProgress | None) -> None:
    for part in itertools.batched(user_ids, _ROWS_PER_INSERT):
        values = ", ".join(f"(%s, {number})" for number in range(len(part)))
        sql = f"""
            INSERT INTO {Scheduled._meta.db_table} (event_id, recipient_id)
            SELECT %s, given.column1 FROM (VALUES {values}) AS given {_existing_users_sql(database)}
        """  # noqa: S608 - names and numbers of our own
        with connections[database].cursor() as cursor:
            cursor.execute(sql, [event.pk, *_key_values(part, database)])
        if progress is not None:
            progress("saved", len(part))


def _insert(event: Event, user_ids: tuple[Any, ...], replaced: Mapping[Any, int], database: str) -> list[outbox.Row]:
    """Insert in raw SQL: building the objects and values for bulk_create() took four fifths of the time of notify()."""
    rows = ", ".join(f"(%s, {number}, {replaced.get(user_id, 'NULL')})" for number, user_id in enumerate(user_ids))
    sql = f"""
        INSERT INTO {Notification._meta.db_table} (event_id, created_at, collapse_key, recipient_id, replaces)
        SELECT %s, %s, %s, given.column1, CAST(given.column3 AS bigint)
        FROM (VALUES {rows}) AS given {_existing_users_sql(database)}
        RETURNING id, recipient_id
    """  # noqa: S608 - names and ids of our own
    connection = connections[database]
    created_at = Notification._meta.get_field("created_at").get_db_prep_save(event.created_at, connection)
    with connection.cursor() as cursor:
        cursor.execute(sql, [event.pk, created_at, event.collapse_key, *_key_values(user_ids, database)])
        made = cursor.fetchall()
    # Not every database has a type for UUIDs.
    key_of = _recipient().target_field.to_python
    return [(pk, user_id, replaced.get(user_id)) for pk, user_id in ((pk, key_of(value)) for pk, value in made)]


def _existing_users_sql(database: str) -> str:
    """
    SQL to put after `(VALUES (user id, number, …)) AS given`: it keeps users who still exist, ordered by the numbers.

    On PostgreSQL it also locks these users, so that they cannot be deleted until the transaction ends. The foreign key
    check would take the same lock, but only later.
    """
    connection, recipient = connections[database], _recipient()
    table = connection.ops.quote_name(recipient.remote_field.model._meta.db_table)
    key = connection.ops.quote_name(recipient.target_field.column)
    lock = "FOR KEY SHARE OF account" if connection.features.has_select_for_update else ""
    return f"JOIN {table} AS account ON account.{key} = given.column1 ORDER BY given.column2 {lock}"


def _key_values(user_ids: Iterable[Any], database: str) -> list[Any]:
    connection, recipient = connections[database], _recipient()
    return [recipient.get_db_prep_save(user_id, connection) for user_id in user_ids]


def _recipient() -> Any:
    return Notification._meta.get_field("recipient")


def _replace(event: Event, user_ids: list[Any], database: str) -> dict[Any, int]:
    """Archive these users' unread notifications of the same kind and key. Returns user id → the newest of their ids."""
    notifications = Notification.objects.using(database)
    unread = notifications.filter(
        collapse_key=event.collapse_key, event__kind=event.kind, read_at=None, archived_at=None
    )
    # All rows are found before the first is locked, so that two calls for the same users lock them in the same order.
    found: list[tuple[int, Any]] = []
    for part in itertools.batched(user_ids, _ROWS_PER_INSERT):
        found += unread.filter(recipient_id__in=part).order_by().values_list("id", "recipient_id")
    found.sort(key=lambda pair: pair[0])
    ids = [id for id, _ in found]
    now = timezone.now()
    for numbers in itertools.batched(ids, _ROWS_PER_INSERT):
        # A notification that is read at this moment is archived all the same.
        update_in_order(notifications.filter(pk__in=numbers), archived_at=now, replaced_at=now)
    changes.skip_replaced(ids)
    return {user_id: id for id, user_id in found}
