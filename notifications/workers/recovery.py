"""
The database is the truth: what it says is unfinished, and is not on the stream, is put there again.

Owns finding what Redis has lost, what is due again, and the entries for it. Does not own first publication (outbox)
nor deliveries. Run by one process at a time, the holder of the relays' lease.

Two things are looked for. Deliveries whose time has come: a next attempt, or a bot that died in the middle of one. And
notifications that a group has never finished though it has finished everything that was appended after them: Redis was
wiped, or came back with older data. Putting an entry on the stream once too often does no harm, because bots claim
deliveries. A lost notification is put back at most once in LOST_SECONDS. It is put back again if its group was created
again since then: the entry that was put back may have been deleted together with the stream.
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
from realtime.streams.group import GroupKeys
from realtime.streams.status import finished_until

__all__ = ["refill"]

logger = logging.getLogger(__name__)

CLOCKS_DIFFER = datetime.timedelta(seconds=10)
# Of what may be lost, so many are looked at each time.
LOOKED_AT_LIMIT = 10_000
# Entries in one command: with the largest envelopes 6 MiB.
ENTRIES_PER_COMMAND = 100


def refill(limit: int = 500) -> int:
    """
    Put on the stream what is due again and what was lost.

    Args:
        limit: The most notifications of either.

    Returns:
        How many entries were appended.

    Raises:
        StreamUnavailable: Redis is away.
        OperationalError, InterfaceError: The database is.
    """
    return _queue_overdue(limit) + _restore_lost(limit)


def _queue_overdue(limit: int) -> int:
    # The clocks of Redis and of the database may differ by so much.
    read_until = _finished_until("bot", clock.now()) - CLOCKS_DIFFER
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
            # The guard is lost with Redis, as it should be.
            guard = _lost_guard(group, stream_entry.notification_id_of(entry))
            restored += _append([entry], guard=guard, guard_seconds=LOST_SECONDS)
        if restored:
            logger.warning("%d notifications that Redis has lost are on the stream again for the %s", restored, group)
        count += restored
    return count


def _unguarded(rows: QuerySet[Notification], group: str, limit: int, finished_until: datetime.datetime) -> list[int]:
    """
    The oldest of these that were not put back before. Dead letters, for example, are unfinished and not lost.

    A notification that was put back before the group was created again, and whose entry no longer waits, may be lost
    once more: its guard is deleted.
    """
    found: list[int] = []
    client = realtime_conf.sync_redis()
    made = GroupKeys(realtime_conf.keys().stream(conf.STREAM), group).made
    ids = rows.order_by("created_at", "id").values_list("id", flat=True)[:LOOKED_AT_LIMIT]
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
            raise StreamUnavailable(f"guards cannot be looked at ({type(error).__name__}: {error})") from error
        found += [id for id, is_free in zip(part, free, strict=True) if is_free]
        if len(found) >= limit:
            break
    return found[:limit]


def _put_back_at_ms(guard: bytes) -> int:
    return int(guard.partition(b"-")[0])


def _lost_guard(group: str, notification_id: int) -> str:
    return f"lost:{group}:{notification_id}"


def _finished_until(group: str, now: datetime.datetime) -> datetime.datetime:
    """What was appended before this time, the group has finished or Redis has lost."""
    keys = GroupKeys(realtime_conf.keys().stream(conf.STREAM), group)
    try:
        oldest_at = finished_until(realtime_conf.sync_redis(), keys)
    except REDIS_ERRORS as error:
        raise StreamUnavailable(f"the stream cannot be looked at ({type(error).__name__}: {error})") from error
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
