"""
From the database to the stream: publishing events, after their commit or later.

Owns the outbox (events with neither `published_at` nor `deliver_at`), the entries on the stream, and the guards
against appending them twice. Does not own writing events (create) or the Redis commands (realtime.streams.append).

The notifications of an event are appended in parts: a part has those whose ids are in the same range of 500. So the
parts are the same for every publisher, even if rows were deleted in between. Each part has a guard in Redis, by which a
part that is already on the stream is recognised. Guards expire: within `STREAM_GUARD_SECONDS`, publishing again appends
nothing; after that, it may append a part twice.

Each recipient gets notifications in the order in which they were written. For that, the publisher of an event first
publishes the parts of earlier events that are still in the outbox and have the same recipients. Because of the guards,
the earlier events' own publishers and the sweep do not publish these parts again.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.core.signals import setting_changed
from django.db import connections, router
from django.db.models import QuerySet
from django.dispatch import receiver
from django.utils import timezone

from notifications import conf
from notifications.content import stream_entry
from notifications.content.envelope import encode_common
from notifications.content.stored import content_of
from notifications.database.clock import database_time, moment_of
from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.database.paging import oldest_first
from notifications.events.circuit_breaker import Breaker
from notifications.models import IN_OUTBOX, Event, Notification
from realtime import conf as realtime_conf
from realtime.exceptions import StreamUnavailable
from realtime.process_name import process_name
from realtime.statistics import count
from realtime.streams import append

__all__ = [
    "Publication",
    "Row",
    "apublish_after_commit",
    "apublish_event",
    "count_created",
    "count_overdue",
    "publish_after_commit",
    "publish_event",
    "sweep",
]

logger = logging.getLogger(__name__)

# How many ids the range of one part has. With the largest envelopes, a part is 32 MiB in one command.
IDS_PER_PART = 500
# The most parts of earlier events that the publisher of one event publishes first. If there are more, the event waits
# for the sweep, which publishes the oldest events first.
EARLIER_PARTS_LIMIT = 20
# For up to this many recipients, a query lists their ids; for more, it uses a subquery.
FEW_RECIPIENTS = 20


# Notification id, recipient id, and the id of the notification that it replaces.
type Row = tuple[int, Any, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A committed event with everything that its entries need, so that nothing is read again."""

    event: Event
    # The bytes of the envelope that all recipients share.
    common: bytes
    # Ordered by notification id; at most MAX_RECIPIENTS.
    rows: list[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    guard_key: str
    entries: list[dict[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Earlier:
    """Parts of earlier events that are still in the outbox and have recipients of this event."""

    parts: list[_Part]
    # False if there are more parts than EARLIER_PARTS_LIMIT.
    is_complete: bool


def publish_event(event_id: int) -> bool:
    """
    Put the notifications of a committed event on the stream.

    Returns:
        Whether this call took the event out of the outbox; False if it was not in the outbox, or does not exist.

    Raises:
        StreamUnavailable: Redis did not accept all parts. Call again: the accepted parts are not appended twice.
    """
    publication = _load(event_id)
    return publication is not None and _publish_in_order(publication)


async def apublish_event(event_id: int) -> bool:
    """The async twin of `publish_event`; it uses the database in a thread."""
    publication = await sync_to_async(_load)(event_id)
    return publication is not None and await _apublish_in_order(publication)


def publish_after_commit(publication: Publication, progress: Callable[[str, int], None] | None = None) -> None:
    """
    Publish an event that was just committed. Errors do not propagate: the event then stays in the outbox.

    Args:
        progress: Called with "published" and the number of notifications after each part.
    """
    count_created(publication.event, publication.rows)
    if _breaker().try_now():
        with _failures_kept_from_caller(publication.event):
            _publish_in_order(publication, progress)


async def apublish_after_commit(publication: Publication) -> None:
    """The async twin of `publish_after_commit`."""
    count_created(publication.event, publication.rows)
    if _breaker().try_now():
        with _failures_kept_from_caller(publication.event):
            await _apublish_in_order(publication)


def count_created(event: Event, rows: Sized) -> None:
    """Count the notifications of an event whose transaction is committed."""
    count("notifications.created", len(rows), event.kind)


def sweep(limit: int = 100, *, include_recent: bool = False) -> int:
    """
    Publish the events that their callers left in the outbox, oldest first.

    Several processes may sweep at the same time: because of the guards, no entry is appended twice. An event that
    cannot be published, for another reason than an outage of Redis or the database, is logged and skipped.

    Args:
        limit: The most events that one call publishes; those that cannot be published do not count.
        include_recent: Also publish events younger than OUTBOX_GRACE_SECONDS.

    Returns:
        How many events this call took out of the outbox.

    Raises:
        StreamUnavailable: Redis is unavailable; the remaining events stay for the next call.
        OperationalError, InterfaceError: The same for the database.
    """
    count = 0
    for event_id in oldest_first(_overdue(include_recent=include_recent), "created_at", page_size=limit):
        try:
            # Not `_publish_in_order`, because the sweep publishes earlier events first anyway.
            publication = _load(event_id)
            count += publication is not None and _publish(publication, is_sweep=True)
        except (StreamUnavailable, *DATABASE_UNAVAILABLE):
            raise
        except Exception:
            logger.exception("event %d cannot be published and stays in the outbox", event_id)
        if count >= limit:
            break
    return count


def count_overdue(*, include_recent: bool = False) -> int:
    """How many events the next `sweep` would find."""
    return _overdue(include_recent=include_recent).count()


@contextlib.contextmanager
def _failures_kept_from_caller(event: Event) -> Iterator[None]:
    try:
        with _breaker().judging():
            yield
    except StreamUnavailable:
        # The breaker has logged it.
        pass
    except Exception:
        logger.exception("publishing event %d failed: it stays in the outbox for the sweep", event.pk)


def _publish_in_order(publication: Publication, progress: Callable[[str, int], None] | None = None) -> bool:
    """Publish earlier parts for the same recipients first. If there are too many, the event stays in the outbox."""
    earlier = _read_earlier(publication)
    for part in earlier.parts:
        _append(part)
    return earlier.is_complete and _publish(publication, progress)


async def _apublish_in_order(publication: Publication) -> bool:
    earlier = await sync_to_async(_read_earlier)(publication)
    for part in earlier.parts:
        await _aappend(part)
    if not earlier.is_complete:
        return False
    for part in _parts(publication):
        await _aappend(part)
    return await sync_to_async(_leave_outbox)(publication)


def _publish(
    publication: Publication, progress: Callable[[str, int], None] | None = None, *, is_sweep: bool = False
) -> bool:
    for part in _parts(publication):
        _append(part)
        if progress is not None:
            progress("published", len(part.entries))
    return _leave_outbox(publication, is_sweep=is_sweep)


def _append(part: _Part) -> None:
    stream_key, guard_seconds = realtime_conf.keys().stream(conf.STREAM), _guard_seconds()
    append.append_entries(
        realtime_conf.sync_redis(), stream_key, part.guard_key, part.entries, guard_seconds=guard_seconds
    )


async def _aappend(part: _Part) -> None:
    stream_key, guard_seconds = realtime_conf.keys().stream(conf.STREAM), _guard_seconds()
    await append.aappend_entries(
        realtime_conf.async_redis(), stream_key, part.guard_key, part.entries, guard_seconds=guard_seconds
    )


def _load(event_id: int, **which: int) -> Publication | None:
    """An event in the outbox with its notifications; `which` may filter these. None if it is not in the outbox."""
    event = Event.objects.using(_database()).filter(IN_OUTBOX, pk=event_id).first()
    if event is None:
        return None
    notifications = Notification.objects.using(_database()).filter(event_id=event_id, **which)
    return Publication(
        event=event,
        common=encode_common(content_of(event)),
        rows=list(notifications.order_by("id").values_list("id", "recipient_id", "replaces")),
    )


def _overdue(*, include_recent: bool) -> QuerySet[Event]:
    waiting = Event.objects.using(_database()).filter(IN_OUTBOX)
    if include_recent:
        return waiting
    return waiting.filter(created_at__lt=database_time(-conf.get_settings().outbox_grace_seconds))


def _read_earlier(publication: Publication) -> _Earlier:
    event, rows = publication.event, publication.rows
    if not rows or not _is_another_in_outbox(event):
        return _Earlier(parts=[], is_complete=True)
    oldest = Event.objects.using(_database()).filter(IN_OUTBOX).order_by("created_at")
    notifications = Notification.objects.using(_database())
    waiting = notifications.filter(
        id__lt=rows[0][0],
        created_at__gte=oldest.values("created_at")[:1],
        event__published_at=None,
        event__deliver_at=None,
    )
    # With a list of ids, the planner uses the index. With a subquery, it would read the whole outbox.
    few = [recipient_id for _, recipient_id, _ in rows] if len(rows) <= FEW_RECIPIENTS else None
    recipients: Any = few or notifications.filter(event_id=event.pk).values("recipient_id")
    known = {recipient_id for _, recipient_id, _ in rows}
    # Event and number of a part → its first notification.
    first_ids: dict[tuple[int, int], int] = {}
    while recipients:
        found = waiting.filter(recipient_id__in=recipients).order_by("id").values_list("id", "event_id")
        # If there are more rows than this, they belong to more than EARLIER_PARTS_LIMIT parts.
        limited = found[: EARLIER_PARTS_LIMIT * IDS_PER_PART + 1]
        numbers = {(event_id, notification_id // IDS_PER_PART) for notification_id, event_id in limited}
        if len(numbers | first_ids.keys()) > EARLIER_PARTS_LIMIT:
            return _Earlier(parts=[], is_complete=False)
        # A part has other recipients too, and for these there may be still earlier parts.
        others = set[Any]()
        for event_id, number in numbers - first_ids.keys():
            ids = range(number * IDS_PER_PART, (number + 1) * IDS_PER_PART)
            part = notifications.filter(event_id=event_id, id__gte=ids.start, id__lt=ids.stop).order_by("id")
            members = list(part.values_list("id", "recipient_id"))
            if members:
                first_ids[event_id, number] = members[0][0]
            others |= {recipient_id for _, recipient_id in members}
        recipients = list(others - known)
        known |= others
    in_order = sorted(first_ids, key=lambda each: first_ids[each])
    return _Earlier(parts=[part for each in in_order for part in _read_part(*each)], is_complete=True)


def _is_another_in_outbox(event: Event) -> bool:
    """Whether another event is in the outbox. In raw SQL: each notify() runs it, and the ORM is five times slower."""
    sql = f"""
        SELECT 1 FROM {Event._meta.db_table} WHERE published_at IS NULL AND deliver_at IS NULL AND id <> %s LIMIT 1
    """  # noqa: S608 - a name of our own
    with connections[_database()].cursor() as cursor:
        cursor.execute(sql, [event.pk])
        return cursor.fetchone() is not None


def _read_part(event_id: int, number: int) -> Iterable[_Part]:
    """One part of an event in the outbox; empty if the event was published meanwhile, or cannot be published."""
    try:
        publication = _load(event_id, id__gte=number * IDS_PER_PART, id__lt=(number + 1) * IDS_PER_PART)
        return list(_parts(publication)) if publication is not None else []
    except DATABASE_UNAVAILABLE:
        raise
    except Exception:
        # The sweep logs this error in each round. A broken event must not hold up newer ones.
        logger.debug("event %d cannot be published", event_id, exc_info=True)
        return []


def _parts(publication: Publication) -> Iterator[_Part]:
    event, common = publication.event, publication.common
    # The time tells apart events with the same id, if another database used this Redis before.
    name = f"{event.pk}-{int(moment_of(event.created_at).timestamp() * 1_000_000):x}"
    for number, rows in itertools.groupby(publication.rows, key=lambda row: row[0] // IDS_PER_PART):
        yield _Part(
            guard_key=realtime_conf.keys().stream_guard(conf.STREAM, f"{name}:{number}"),
            entries=[
                stream_entry.encode(
                    common,
                    notification_id=notification_id,
                    event_id=event.pk,
                    recipient_id=recipient_id,
                    replaces=replaces,
                )
                for notification_id, recipient_id, replaces in rows
            ],
        )


def _leave_outbox(publication: Publication, *, is_sweep: bool = False) -> bool:
    """Mark the event as published; False if it already was. In raw SQL, because each notify() runs it."""
    event, process = publication.event, process_name()
    connection, now = connections[_database()], timezone.now()
    published_at = Event._meta.get_field("published_at").get_db_prep_save(now, connection)
    sql = f"""
        UPDATE {Event._meta.db_table} SET published_at = %s, published_by = %s, is_swept = %s
        WHERE id = %s AND published_at IS NULL
    """  # noqa: S608 - a name of our own
    with connection.cursor() as cursor:
        cursor.execute(sql, [published_at, process, is_sweep, event.pk])
        event.published_at, event.published_by, event.is_swept = now, process, is_sweep
        is_first = bool(cursor.rowcount == 1)
    if is_first:
        count("notifications.published", len(publication.rows), event.kind)
    return is_first


def _guard_seconds() -> int:
    return conf.get_settings().stream_guard_seconds


def _database() -> str:
    # Never a replica: rows that were just committed may not be there yet.
    return router.db_for_write(Event)


@functools.cache
def _breaker() -> Breaker:
    return Breaker(pause_seconds=conf.get_settings().outbox_pause_seconds)


@receiver(setting_changed)
def _forget_breaker(*, setting: str, **kwargs: Any) -> None:
    if setting in {"REALTIME", "NOTIFICATIONS"}:
        _breaker.cache_clear()
