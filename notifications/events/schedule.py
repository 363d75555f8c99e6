"""
Events that wait: telling people when the time has come, or never.

Owns what becomes of rows with a `deliver_at`. The database is the truth, its clock says what is due, and one process
at a time looks, the holder of the relays' lease; two at once do no harm. Does not own publishing (outbox), nor what
waits per transport (records).
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

__all__ = ["cancel", "release"]

logger = logging.getLogger(__name__)


def cancel(event: Any) -> bool:
    """
    Tell nobody of an event that waits.

    Args:
        event: As `notify(…, deliver_after=…)` returned it, or its id.

    Returns:
        Whether it still waited; False if its time had come, it was cancelled before, or it does not exist.

    Guarantees:
        After True, nobody is told: within a transaction that is so once it commits. Its idempotency key stays taken.
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
    Tell people of the events whose time has come, the longest overdue first.

    Args:
        limit: The most events of one call; those that cannot be told do not count.
        publish: Whether to publish them too; else they are left to the outbox sweep.

    Returns:
        How many there were. Those that Redis does not take are in the outbox, from where the sweep publishes them.

    Raises:
        OperationalError, InterfaceError: The database is away; what is left waits for the next call.
    """
    due = Event.objects.using(_database()).filter(deliver_at__lte=database_time())
    count = 0
    for event_id in oldest_first(due, "deliver_at", page_size=limit):
        try:
            count += _release(event_id)
            if publish:
                outbox.publish_event(event_id)
        except StreamUnavailable:
            # Whose turn it is does not depend on Redis; waiting for it again and again would hold up the others.
            publish = False
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("event %d cannot be told, though its time has come", event_id)
        if count >= limit:
            break
    return count


def _release(event_id: int) -> bool:
    """It becomes an event like any other, in the outbox. False if another process, or cancel(), was faster."""
    database, now = _database(), timezone.now()
    with transaction.atomic(using=database):
        events = Event.objects.using(database)
        if not events.filter(pk=event_id, deliver_at__lte=database_time()).update(deliver_at=None, created_at=now):
            return False
        event = events.get(pk=event_id)
        scheduled = Scheduled.objects.using(database).filter(event=event)
        rows = insert_notifications(event, scheduled.order_by("id").values_list("recipient_id", flat=True), database)
        scheduled.delete()
        if not rows:
            close_event(event, database)
    return True


def _database() -> str:
    return router.db_for_write(Event)
