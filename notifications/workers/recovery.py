"""
Puts unfinished work on the stream again: deliveries that are due, and notifications that Redis has lost.

Owns finding this work in the database, and appending its entries. Does not own first publication (events.outbox) or
deliveries (delivery). One process at a time runs it, the holder of the relays' lease.

A delivery is due if its next attempt is, or if its bot has died. A notification is lost if a group has not handled it
but has handled everything that was appended after it: Redis was wiped, or came back with older data. An additional
entry does no harm, because bots claim deliveries. A lost notification is put back at most once in LOST_SECONDS, but
once more if its group has been created again since: the stream may have been deleted with the entry on it.
"""

import datetime
import itertools
import logging
import uuid
from collections.abc import Iterable
from typing import Any

from django.db import router
from django.db.models import Q, QuerySet

from notifications import conf
from notifications.conf import LOST_SECONDS
from notifications.content import stream_entry
from notifications.content.envelope import encode_common
from notifications.content.stored import content_of
from notifications.database import clock
from notifications.database.clock import stored
from notifications.delivery import records
from notifications.models import Notification
from realtime import conf as realtime_conf
from realtime.exceptions import StreamUnavailable
from realtime.redis.connection_checks import answer_parsed
from realtime.redis.outage import REDIS_ERRORS
from realtime.streams import append
from realtime.streams.keys import GroupKeys
from realtime.streams.status import finished_until

__all__ = ["refill"]

logger = logging.getLogger(__name__)

# How far the clocks of Redis and the database may be apart.
CLOCK_TOLERANCE = datetime.timedelta(seconds=10)
# The most notifications that one search for lost ones considers.
CANDIDATES_LIMIT = 10_000
# Entries in one command: 6 MiB with the largest envelopes.
ENTRIES_PER_COMMAND = 100


def refill(limit: int = 500) -> int:
    """
    Put due deliveries and lost notifications on the stream again. Deliveries that have no time to be sent get one.

    Args:
        limit: The most notifications of each of the two.

    Returns:
        How many entries were appended.

    Raises:
        StreamUnavailable: Redis is unavailable.
        OperationalError, InterfaceError: The database is unavailable.
    """
    return _queue_overdue(limit) + _restore_lost(limit)


def _queue_overdue(limit: int) -> int:
    if count := records.make_due(conf.get_settings().transports):
        logger.warning("gave a time to %d deliveries that were to be sent but had none", count)
    read_until = _finished_until("bot", clock.now()) - CLOCK_TOLERANCE
    overdue = records.find_overdue(limit, read_until=read_until)
    for part in itertools.batched(overdue, ENTRIES_PER_COMMAND):
        _append(_entries(part, group="bot"), guard=f"again:{uuid.uuid4().hex}", guard_seconds=60)
        records.mark_queued(part)
    return len(overdue)


def _restore_lost(limit: int) -> int:
    now = clock.now()
    grace = datetime.timedelta(seconds=conf.get_settings().refill_grace_seconds)
    count = 0
    for group, field in (("relay", "relayed_at"), ("bot", "dispatched_at")):
        finished_until = _finished_until(group, now) - grace
        rows = Notification.objects.using(_database()).filter(
            Q(dispatched_at=None) | Q(relayed_at=None),
            **{field: None},
            created_at__range=(stored(now - datetime.timedelta(seconds=LOST_SECONDS)), stored(finished_until)),
            event__published_at__lt=stored(finished_until),
        )
        restored = 0
        for entry in _entries(_unguarded(rows, group, limit, finished_until + grace), group=group):
            # If Redis is wiped again, the guard is lost too, so the notification is put back again.
            guard = _lost_guard(group, stream_entry.notification_id_of(entry))
            restored += _append([entry], guard=guard, guard_seconds=LOST_SECONDS)
        if restored:
            logger.warning("put %d notifications that Redis had lost on the stream again for the %s", restored, group)
        count += restored
    return count


def _unguarded(rows: QuerySet[Notification], group: str, limit: int, finished_until: datetime.datetime) -> list[int]:
    """
    The oldest of these notifications that were not put back before. (A dead letter, for example, is not lost.)

    A notification may be lost again if it was put back before the group was created again, and its entry no longer
    waits. In that case its guard is deleted.
    """
    found: list[int] = []
    client = realtime_conf.sync_redis()
    made = GroupKeys(realtime_conf.keys().stream(conf.STREAM), group).made
    ids = rows.order_by("created_at", "id").values_list("id", flat=True)[:CANDIDATES_LIMIT]
    for part in itertools.batched(ids, 1000):
        guards = [realtime_conf.keys().stream_guard(conf.STREAM, _lost_guard(group, id)) for id in part]
        try:
            with answer_parsed("MGET"):
                answer: Any = client.mget([made, *guards])
            made_at, *known = answer
            until_ms = min(int(made_at or 0), finished_until.timestamp() * 1000)
            free = [guard is None or _put_back_at_ms(guard) < until_ms for guard in known]
            if gone := [key for key, guard, is_free in zip(guards, known, free, strict=True) if is_free and guard]:
                client.delete(*gone)
        except REDIS_ERRORS as error:
            raise StreamUnavailable(f"guards cannot be read ({type(error).__name__}: {error})") from error
        found += [id for id, is_free in zip(part, free, strict=True) if is_free]
        if len(found) >= limit:
            break
    return found[:limit]


def _put_back_at_ms(guard: bytes) -> int:
    return int(guard.partition(b"-")[0])


def _lost_guard(group: str, notification_id: int) -> str:
    return f"lost:{group}:{notification_id}"


def _finished_until(group: str, now: datetime.datetime) -> datetime.datetime:
    """The time before which the group has handled every entry that Redis still has."""
    keys = GroupKeys(realtime_conf.keys().stream(conf.STREAM), group)
    try:
        oldest_at = finished_until(realtime_conf.sync_redis(), keys)
    except REDIS_ERRORS as error:
        raise StreamUnavailable(f"the stream cannot be read ({type(error).__name__}: {error})") from error
    return now if oldest_at is None else min(now, datetime.datetime.fromtimestamp(oldest_at, datetime.UTC))


def _entries(notification_ids: Iterable[int], *, group: str) -> list[dict[str, bytes]]:
    rows = Notification.objects.using(_database()).filter(pk__in=list(notification_ids)).select_related("event")
    return [
        stream_entry.encode(
            encode_common(content_of(row.event)),
            notification_id=row.pk,
            event_id=row.event_id,
            recipient_id=row.recipient_id,
            replaces=row.replaces,
            only=group,
        )
        for row in rows.order_by("id")
    ]


def _append(entries: list[dict[str, bytes]], *, guard: str, guard_seconds: float) -> int:
    if not entries:
        return 0
    is_new = append.append_entries(
        realtime_conf.sync_redis(),
        realtime_conf.keys().stream(conf.STREAM),
        realtime_conf.keys().stream_guard(conf.STREAM, guard),
        entries,
        guard_seconds=guard_seconds,
    )
    return len(entries) if is_new else 0


def _database() -> str:
    return router.db_for_write(Notification)
