"""
Deleting old notifications, or those of a user, with their deliveries, and events that have no notifications left.

Owns what may be deleted, and in which portions. Does not own how old is old (the command), nor dead letters.
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

# Rows deleted in one transaction: others wait for it.
PORTION = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What one portion deleted."""

    notifications: int
    events: int


def count_old(before: datetime.datetime, *, only_read: bool = False) -> int:
    """How many notifications `prune` would delete."""
    return _old(before, only_read=only_read).count()


def prune(before: datetime.datetime, *, only_read: bool = False) -> Iterator[Pruned]:
    """
    Delete what was told before a time, portion by portion.

    Args:
        only_read: Keep what its recipient has neither read nor archived.

    Yields:
        What each portion deleted. Whoever stops asking stops it.

    Guarantees:
        What is unfinished stays: deliveries that are pending, held back or being sent, events in the outbox or waiting,
        and for LOST_SECONDS what no bot has looked at (longer, and there is no bot).
    """
    database = router.db_for_write(Notification)
    last_id = 0
    while True:
        rows = _old(before, only_read=only_read).filter(pk__gt=last_id).order_by("pk")
        ids = list(rows.values_list("pk", flat=True)[:PORTION])
        if not ids:
            break
        last_id = ids[-1]
        with write_transaction(database):
            # Django deletes the deliveries first. A bot locks the notification first, so this does too.
            lock(Notification.objects.using(database).filter(pk__in=ids))
            # Asked again: one of them may have been given back to the bot meanwhile.
            _, counts = _old(before, only_read=only_read).filter(pk__in=ids).delete()
        yield Pruned(notifications=counts.get(Notification._meta.label, 0), events=0)
    yield from _prune_events(before, database)
    digests = Digest.objects.using(database).filter(ends_at__lt=before)
    digests.filter(~Exists(Delivery.objects.filter(digest=OuterRef("pk")))).delete()


def forget(user_ids: Iterable[Any]) -> int:
    """
    Delete all notifications of these users with their deliveries, in batches; within the caller's transaction, if any.

    It is for users who are about to be deleted: Django would load all of these rows at once.

    Returns:
        How many notifications there were.
    """
    database = router.db_for_write(Notification)
    notifications = Notification.objects.using(database)
    which = user_ids if isinstance(user_ids, QuerySet) else list(user_ids)
    theirs = notifications.filter(recipient_id__in=which).order_by("pk").values_list("pk", flat=True)
    count = 0
    while ids := list(theirs[:PORTION]):
        with write_transaction(database):
            # As in prune(). The ids of all users are in one order, because batches stay locked until the transaction
            # ends.
            lock(notifications.filter(pk__in=ids))
            notifications.filter(pk__in=ids).delete()
        count += len(ids)
    return count


def _prune_events(before: datetime.datetime, database: str) -> Iterator[Pruned]:
    """Events of which nobody has a notification any more, or ever had."""
    told = Notification.objects.filter(event=OuterRef("pk"))
    while True:
        old = Event.objects.using(database).filter(~Exists(told), created_at__lt=before, published_at__isnull=False)
        ids = list(old.order_by("pk").values_list("pk", flat=True)[:PORTION])
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
