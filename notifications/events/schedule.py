"""
Scheduled events: publishing them when they are due, and cancelling them.

Owns events with a `deliver_at`. The database's clock decides what is due. Normally one process, the holder of the
relays' lease, releases due events; two at the same time do no harm. Does not own publishing (outbox) or the times of
deliveries (delivery.records).
"""

import logging
from typing import Any

from django.db import InterfaceError, OperationalError, router, transaction
from django.utils import timezone

from notifications.database.clock import database_time
from notifications.database.paging import oldest_first
from notifications.events import outbox
from notifications.events.create import close_event, insert_notifications
from notifications.models import Event, Scheduled
from realtime.exceptions import StreamUnavailable
from realtime.process_name import process_name

__all__ = ["cancel", "release"]

logger = logging.getLogger(__name__)


def cancel(event: Any) -> bool:
    """
    Cancel a scheduled event.

    Args:
        event: The event that `notify(…, deliver_after=…)` returned, or its id.

    Returns:
        Whether it was still scheduled; False if it was due, already cancelled, or does not exist.

    Guarantees:
        If it returns True, nobody is notified (in a transaction: once that is committed). Its idempotency key stays
        in use.
    """
    database = _database()
    event_id = event.pk if isinstance(event, Event) else event
    now = timezone.now()
    with transaction.atomic(using=database):
        waiting = Event.objects.using(database).filter(pk=event_id, deliver_at__isnull=False)
        if not waiting.update(deliver_at=None, cancelled_at=now, published_at=now):
            return False
        Scheduled.objects.using(database).filter(event_id=event_id).delete()
    if isinstance(event, Event):
        event.deliver_at, event.cancelled_at, event.published_at = None, now, now
    return True


def release(limit: int = 100, *, publish: bool = True) -> int:
    """
    Create the notifications of scheduled events that are due, the oldest first, and publish them.

    Args:
        limit: The most events of one call; those that fail do not count.
        publish: Whether to publish them too. Otherwise the outbox sweep does.

    Returns:
        How many events were released. If Redis does not accept one, it is in the outbox, and the sweep publishes it.

    Raises:
        OperationalError, InterfaceError: The database is unavailable; the remaining events stay for the next call.
    """
    due = Event.objects.using(_database()).filter(deliver_at__lte=database_time())
    count = 0
    for event_id in oldest_first(due, "deliver_at", page_size=limit):
        try:
            count += _release(event_id)
            if publish:
                outbox.publish_event(event_id)
        except StreamUnavailable:
            # The other events can be released without Redis. Trying to publish each would delay them.
            publish = False
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("the scheduled event %d is due and cannot be released", event_id)
        if count >= limit:
            break
    return count


def _release(event_id: int) -> bool:
    """Turn a scheduled event into one in the outbox. False if another process released it, or it was cancelled."""
    database, now = _database(), timezone.now()
    with transaction.atomic(using=database):
        events = Event.objects.using(database)
        due = events.filter(pk=event_id, deliver_at__lte=database_time())
        if not due.update(deliver_at=None, created_at=now, created_by=process_name()):
            return False
        event = events.get(pk=event_id)
        scheduled = Scheduled.objects.using(database).filter(event=event)
        rows = insert_notifications(event, scheduled.order_by("id").values_list("recipient_id", flat=True), database)
        scheduled.delete()
        if not rows:
            close_event(event, database)
    outbox.count_created(event, rows)
    return True


def _database() -> str:
    return router.db_for_write(Event)
