"""
Deleting old notifications or those of a user, with their deliveries, and events without notifications.

Owns what may be deleted, and the batches. Does not own the age limit (the command) or dead letters.
"""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import router
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from notifications.conf import LOST_SECONDS
from notifications.database.row_locks import lock
from notifications.database.transactions import write_transaction
from notifications.models import Delivery, Digest, Event, Notification

__all__ = ["Pruned", "count_old", "forget", "prune"]

# Rows deleted in one transaction. Other writers wait for it.
BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many rows one batch deleted."""

    notifications: int
    events: int


def count_old(before: datetime.datetime, *, only_read: bool = False) -> int:
    """How many notifications `prune` would delete."""
    return _old(before, only_read=only_read).count()


def prune(before: datetime.datetime, *, only_read: bool = False) -> Iterator[Pruned]:
    """
    Delete notifications that were created before a time, in batches, and events without notifications.

    Args:
        only_read: Keep notifications that their recipients have neither read nor archived.

    Yields:
        How many rows each batch deleted. Nothing more is deleted when the caller stops iterating.

    Guarantees:
        Unfinished work is kept: notifications with a delivery that is pending, sending or held, events in the outbox
        or scheduled, and notifications that no bot has handled until they are older than LOST_SECONDS.
    """
    database = router.db_for_write(Notification)
    last_id = 0
    while True:
        rows = _old(before, only_read=only_read).filter(pk__gt=last_id).order_by("pk")
        ids = list(rows.values_list("pk", flat=True)[:BATCH_SIZE])
        if not ids:
            break
        last_id = ids[-1]
        with write_transaction(database):
            # Django deletes the deliveries first. A bot locks the notification first, so it is locked here too.
            lock(Notification.objects.using(database).filter(pk__in=ids))
            # The conditions are checked again, because a delivery may have become pending again meanwhile.
            _, counts = _old(before, only_read=only_read).filter(pk__in=ids).delete()
        yield Pruned(notifications=counts.get(Notification._meta.label, 0), events=0)
    yield from _prune_events(before, database)
    digests = Digest.objects.using(database).filter(ends_at__lt=before)
    digests.filter(~Exists(Delivery.objects.filter(digest=OuterRef("pk")))).delete()


def forget(user_ids: Iterable[Any]) -> int:
    """
    Delete all notifications of these users with their deliveries, in batches; within the caller's transaction, if any.

    Call it before users are deleted: otherwise Django would load all of these rows at once.

    Returns:
        How many notifications there were.
    """
    database = router.db_for_write(Notification)
    notifications = Notification.objects.using(database)
    which = user_ids if isinstance(user_ids, QuerySet) else list(user_ids)
    theirs = notifications.filter(recipient_id__in=which).order_by("pk").values_list("pk", flat=True)
    count = 0
    while ids := list(theirs[:BATCH_SIZE]):
        with write_transaction(database):
            # As in prune(). The batches are ordered by id across all users, because they stay locked until the
            # transaction ends.
            lock(notifications.filter(pk__in=ids))
            notifications.filter(pk__in=ids).delete()
        count += len(ids)
    return count


def _prune_events(before: datetime.datetime, database: str) -> Iterator[Pruned]:
    """Delete published events without notifications."""
    notifications = Notification.objects.filter(event=OuterRef("pk"))
    while True:
        old = Event.objects.using(database).filter(
            ~Exists(notifications), created_at__lt=before, published_at__isnull=False
        )
        ids = list(old.order_by("pk").values_list("pk", flat=True)[:BATCH_SIZE])
        if not ids:
            return
        with write_transaction(database):
            _, counts = Event.objects.using(database).filter(pk__in=ids).delete()
        yield Pruned(notifications=0, events=counts.get(Event._meta.label, 0))


def _old(before: datetime.datetime, *, only_read: bool) -> QuerySet[Notification]:
    is_unfinished = Q(due_at__isnull=False) | Q(state=Delivery.State.HELD)
    unfinished = Delivery.objects.filter(is_unfinished, notification=OuterRef("pk"))
    rows = Notification.objects.using(router.db_for_write(Notification)).filter(
        ~Exists(unfinished), created_at__lt=before, event__published_at__isnull=False
    )
    lost = timezone.now() - datetime.timedelta(seconds=LOST_SECONDS)
    rows = rows.filter(Q(dispatched_at__isnull=False) | Q(created_at__lt=lost))
    return rows.filter(Q(read_at__isnull=False) | Q(archived_at__isnull=False)) if only_read else rows
