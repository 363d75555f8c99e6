"""
On which transports a notification is delivered, and when each may begin.

Owns the choice: preferences, fallbacks, digest windows, quiet hours. The only writer of Digest rows but for their
closing. Does not own claims nor results (deliveries). Sync, within the caller's transaction.
"""

import datetime
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import router
from django.utils import timezone

from notifications import conf
from notifications.kinds import Kind, find_kind, time_zone_of
from notifications.models import Delivery, Digest, Notification, QuietHours
from notifications.preferences import find_said, wanted_transports
from notifications.timing import quiet_end, window_end

__all__ = ["Said", "plan", "quiet_until", "said_of"]


type Said = Mapping[tuple[Any, str], Mapping[str, bool]]


def said_of(notifications: Sequence[Notification]) -> Said:
    """What their recipients have said of their kinds, for `plan`; it need not be read within the transaction."""
    return find_said([each.recipient_id for each in notifications], [each.event.kind for each in notifications])


def plan(notifications: Sequence[Notification], said: Said, *, now: datetime.datetime) -> list[Delivery]:
    """
    The deliveries of notifications, not yet saved. Reads their events and recipients; may write digests.

    Args:
        said: What `said_of` gave for these, or for more.
        now: By the database's clock, which says when they are due too.
    """
    return [
        delivery
        for each in notifications
        for delivery in _plan(each, said.get((each.recipient_id, each.event.kind), {}), now)
    ]


def quiet_until(recipient: Any, kind: Kind) -> datetime.datetime | None:
    """When the quiet hours end in which the recipient is now; None outside of them, and for urgent kinds."""
    hours: QuietHours | None = getattr(recipient, "notification_quiet_hours", None)
    if hours is None or kind.is_urgent:
        return None
    try:
        zone = zoneinfo.ZoneInfo(hours.time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        # It was known when it was chosen, and is not on this machine.
        zone = time_zone_of(recipient)
    return quiet_end(timezone.now(), hours.starts, hours.ends, zone)


def _plan(notification: Notification, said: Mapping[str, bool], now: datetime.datetime) -> list[Delivery]:
    kind = find_kind(notification.event.kind)
    fallback = {name: wait.total_seconds() for name, wait in kind.fallback.items()} | (
        notification.event.fallback or {}
    )
    found = []
    for name in wanted_transports(notification.recipient_id, kind, also=fallback, said=said):
        delivery = Delivery(notification=notification, transport=name, due_at=now)
        if name in fallback:
            delivery.if_unread = True
            delivery.due_at = notification.created_at + datetime.timedelta(seconds=fallback[name])
        elif name in kind.digest:
            delivery.if_unread = True
            delivery.digest = _open_digest(notification.recipient, kind, name)
            delivery.due_at = delivery.digest.ends_at
        found.append(delivery)
    return found


def _open_digest(recipient: Any, kind: Kind, transport: str) -> Digest:
    """The digest that a notification goes into now; held until the transaction ends, so that none closes meanwhile."""
    digests = Digest.objects.using(router.db_for_write(Digest)).select_for_update()
    zone, ends_at = time_zone_of(recipient), timezone.now()
    while True:
        # One that is closed already was claimed by a machine whose clock is ahead: the next window, then.
        ends_at = window_end(ends_at, kind.digest[transport], zone, hour=conf.get_settings().digest_hour)
        digest, _ = digests.get_or_create(
            recipient_id=recipient.pk, kind=kind.key, transport=transport, ends_at=ends_at
        )
        if digest.closed_at is None:
            return digest
