"""
On which transports a notification is delivered, and when each may begin.

Owns the choice: preferences, fallbacks, digest windows, quiet hours. The only writer of Digest rows but for their
closing. Does not own claims nor results (deliveries). Sync, within the caller's transaction.
"""

import datetime
import zoneinfo
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import router
from django.db.models import QuerySet
from django.utils import timezone

from notifications import conf
from notifications.kinds import Kind, find_kind, time_zone_of
from notifications.models import Delivery, Digest, Notification, QuietHours
from notifications.preferences import find_said, wanted_transports
from notifications.row_locks import lock, locked
from notifications.timing import quiet_end, window_end

__all__ = ["Said", "plan", "quiet_until", "said_of"]


type Said = Mapping[tuple[Any, str], Mapping[str, bool]]


class _Window(NamedTuple):
    """The digests of one user, kind and transport: one after another."""

    recipient_id: Any
    kind: str
    transport: str


type _Planned = tuple[Delivery, _Window | None]


def said_of(notifications: Sequence[Notification]) -> Said:
    """What their recipients have said of their kinds, for `plan`; it need not be read within the transaction."""
    return find_said([each.recipient_id for each in notifications], [each.event.kind for each in notifications])


def plan(
    notifications: Sequence[Notification], said: Said, *, now: datetime.datetime, hold: Collection[int] = ()
) -> list[Delivery]:
    """
    The deliveries of notifications, not yet saved. Reads their events and recipients; may write digests.

    Args:
        said: What `said_of` gave for these, or for more.
        now: By the database's clock, which says when they are due too.
        hold: Ids of digests that are locked together with those that deliveries go into.
    """
    planned = [
        each
        for notification in notifications
        for each in _plan(notification, said.get((notification.recipient_id, notification.event.kind), {}), now)
    ]
    recipients = {window: each.notification.recipient for each, window in planned if window is not None}
    digests = _open_digests(recipients, hold)
    for delivery, window in planned:
        if window is not None:
            delivery.digest = digests[window]
            delivery.due_at = delivery.digest.ends_at
    return [delivery for delivery, _ in planned]


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


def _plan(notification: Notification, said: Mapping[str, bool], now: datetime.datetime) -> Iterator[_Planned]:
    kind = find_kind(notification.event.kind)
    fallback = {name: wait.total_seconds() for name, wait in kind.fallback.items()} | (
        notification.event.fallback or {}
    )
    for name in wanted_transports(notification.recipient_id, kind, also=fallback, said=said):
        delivery = Delivery(notification=notification, transport=name, due_at=now)
        window = None
        if name in fallback:
            delivery.if_unread = True
            delivery.due_at = notification.created_at + datetime.timedelta(seconds=fallback[name])
        elif name in kind.digest:
            delivery.if_unread = True
            window = _Window(notification.recipient_id, kind.key, name)
        yield delivery, window


def _open_digests(recipients: Mapping[_Window, Any], hold: Collection[int]) -> dict[_Window, Digest]:
    """
    The digest that goes out next for each of these; they and those to `hold` are locked in one statement.

    None of them closes until the transaction ends.
    """
    rows = Digest.objects.using(router.db_for_write(Digest))
    if not recipients:
        if hold:
            lock(rows.filter(pk__in=hold))
        return {}
    now = timezone.now()
    ends = {window: _end_of(window, recipient, now) for window, recipient in recipients.items()}
    opened: dict[_Window, Digest] = {}
    while left := {window: end for window, end in ends.items() if window not in opened}:
        ids = _find_or_make(rows, left)
        found = {digest.pk: digest for digest in locked(rows.filter(pk__in=[*ids.values(), *hold]))}
        for window, end in left.items():
            digest = found[ids[window]]
            if digest.closed_at is None:
                opened[window] = digest
            else:
                # It was claimed by a machine whose clock is ahead: the next one, then.
                ends[window] = _end_of(window, recipients[window], end)
    return opened


def _find_or_make(rows: QuerySet[Digest], ends: Mapping[_Window, datetime.datetime]) -> dict[_Window, int]:
    """The ids of the digests that end then."""
    named = rows.filter(
        recipient_id__in={window.recipient_id for window in ends},
        kind__in={window.kind for window in ends},
        transport__in={window.transport for window in ends},
        ends_at__in=set(ends.values()),
    )
    found = _ids_of(named, ends)
    missing = sorted(ends.keys() - found.keys())
    if missing:
        # In one order, and another bot may be making the same.
        made = (Digest(**window._asdict(), ends_at=ends[window]) for window in missing)
        rows.bulk_create(made, ignore_conflicts=True)
        found = _ids_of(named, ends)
    return found


def _ids_of(named: QuerySet[Digest], ends: Mapping[_Window, datetime.datetime]) -> dict[_Window, int]:
    found: dict[_Window, int] = {}
    for pk, ends_at, *names in named.values_list("pk", "ends_at", *_Window._fields):
        window = _Window(*names)
        if ends.get(window) == ends_at:
            found[window] = pk
    return found


def _end_of(window: _Window, recipient: Any, now: datetime.datetime) -> datetime.datetime:
    period = find_kind(window.kind).digest[window.transport]
    return window_end(now, period, time_zone_of(recipient), hour=conf.get_settings().digest_hour)
