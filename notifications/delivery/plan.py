"""
On which transports a notification is delivered, and when each delivery is due.

Owns the decision, by preferences, fallbacks, digest windows and quiet hours, and creating Digest rows. Does not own
closing digests (claim) or writing deliveries (records). All functions are sync.
"""

import datetime
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import router
from django.db.models import QuerySet

from notifications import conf
from notifications.content.timing import find_zone, quiet_end, window_end
from notifications.database import clock
from notifications.database.clock import moment_of, stored
from notifications.database.row_locks import lock, locked
from notifications.kinds import Kind, find_kind, time_zone_of
from notifications.models import QUIET_HOURS_RELATION, Delivery, Digest, Notification, QuietHours
from notifications.preferences import choices_of, wanted_transports

__all__ = ["Draft", "deliveries_of", "draft_all"]


class _Window(NamedTuple):
    """A user, a kind and a transport: each such combination has one open digest at a time."""

    recipient_id: Any
    kind: str
    transport: str


class _Planned(NamedTuple):
    """A delivery that is not saved yet."""

    delivery: Delivery
    # The window of its digest, if it goes into one, and the time zone that decides when the digest ends.
    window: _Window | None = None
    zone: datetime.tzinfo = datetime.UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """
    The deliveries of one notification, as its kind and its recipient's preferences decide.

    Attributes:
        planned: The deliveries, not saved yet, and without their digests.
        quiet_until: The end of the recipient's current quiet hours; None outside of quiet hours, and for urgent kinds.
    """

    planned: Sequence[_Planned]
    quiet_until: datetime.datetime | None


def draft_all(notifications: Sequence[Notification], *, now: datetime.datetime) -> dict[int, Draft]:
    """
    Draft the deliveries of notifications; returns notification id → draft. Call it before the transaction.

    It calls functions of the project, which may be slow. Inside a transaction, a failed query in them would abort the
    transaction.

    Args:
        now: The database's time, as the value of a column. Deliveries without a delay are due at this time.
    """
    choices = choices_of([each.recipient_id for each in notifications], [each.event.kind for each in notifications])
    return {
        each.pk: Draft(
            planned=list(_plan(each, choices.get((each.recipient_id, each.event.kind), {}), now)),
            quiet_until=_quiet_until(each.recipient, find_kind(each.event.kind)),
        )
        for each in notifications
    }


def deliveries_of(drafts: Iterable[Draft], *, hold: Collection[int] = ()) -> list[Delivery]:
    """
    The deliveries of drafts, with their digests, not saved yet. Call it within a transaction.

    Args:
        hold: Ids of further digests to lock, in the same statement as the digests of the deliveries.
    """
    planned = [each for draft in drafts for each in draft.planned]
    zones = {each.window: each.zone for each in planned if each.window is not None}
    digests = _open_digests(zones, hold)
    for delivery, window, _ in planned:
        if window is not None:
            delivery.digest = digests[window]
            delivery.due_at = delivery.digest.ends_at
    return [each.delivery for each in planned]


def _quiet_until(recipient: Any, kind: Kind) -> datetime.datetime | None:
    hours: QuietHours | None = getattr(recipient, QUIET_HOURS_RELATION, None)
    if hours is None or kind.is_urgent:
        return None
    # The zone existed when it was chosen, but this machine may not have it.
    zone = find_zone(hours.time_zone) or time_zone_of(recipient)
    return quiet_end(clock.now(), hours.starts, hours.ends, zone)


def _plan(notification: Notification, choices: Mapping[str, bool], now: datetime.datetime) -> Iterator[_Planned]:
    kind = find_kind(notification.event.kind)
    fallback = {name: wait.total_seconds() for name, wait in kind.fallback.items()} | (
        notification.event.fallback or {}
    )
    for name in wanted_transports(notification.recipient_id, kind, also=fallback, choices=choices):
        delivery = Delivery(notification=notification, transport=name, due_at=now)
        if name in fallback:
            delivery.if_unread = True
            due_at = moment_of(notification.created_at) + datetime.timedelta(seconds=fallback[name])
            delivery.due_at = stored(due_at)
            yield _Planned(delivery)
        elif name in kind.digest:
            delivery.if_unread = True
            window = _Window(notification.recipient_id, kind.key, name)
            yield _Planned(delivery, window, time_zone_of(notification.recipient))
        else:
            yield _Planned(delivery)


def _open_digests(zones: Mapping[_Window, datetime.tzinfo], hold: Collection[int]) -> dict[_Window, Digest]:
    """
    The open digest of each window. One statement locks these digests and those in `hold`.

    Until the transaction ends, no other bot can close them.
    """
    rows = Digest.objects.using(router.db_for_write(Digest))
    if not zones:
        if hold:
            lock(rows.filter(pk__in=hold))
        return {}
    now = clock.now()
    ends = {window: _end_of(window, zone, now) for window, zone in zones.items()}
    opened: dict[_Window, Digest] = {}
    while left := {window: end for window, end in ends.items() if window not in opened}:
        ids = _find_or_make(rows, left)
        found = {digest.pk: digest for digest in locked(rows.filter(pk__in=[*ids.values(), *hold]))}
        for window, end in left.items():
            digest = found[ids[window]]
            if digest.closed_at is None:
                opened[window] = digest
            else:
                # A bot whose clock is ahead has already closed it: use the next one.
                ends[window] = _end_of(window, zones[window], end)
    return opened


def _find_or_make(rows: QuerySet[Digest], ends: Mapping[_Window, datetime.datetime]) -> dict[_Window, int]:
    """The ids of the digests of these windows that end at these times; missing ones are created."""
    named = rows.filter(
        recipient_id__in={window.recipient_id for window in ends},
        kind__in={window.kind for window in ends},
        transport__in={window.transport for window in ends},
        ends_at__in={stored(end) for end in ends.values()},
    )
    found = _ids_of(named, ends)
    missing = sorted(ends.keys() - found.keys())
    if missing:
        # Another bot may be creating the same digests. Sorted, so that both insert in the same order.
        made = (Digest(**window._asdict(), ends_at=stored(ends[window])) for window in missing)
        rows.bulk_create(made, ignore_conflicts=True)
        found = _ids_of(named, ends)
    return found


def _ids_of(named: QuerySet[Digest], ends: Mapping[_Window, datetime.datetime]) -> dict[_Window, int]:
    found: dict[_Window, int] = {}
    for pk, ends_at, *names in named.values_list("pk", "ends_at", *_Window._fields):
        window = _Window(*names)
        if ends.get(window) == moment_of(ends_at):
            found[window] = pk
    return found


def _end_of(window: _Window, zone: datetime.tzinfo, now: datetime.datetime) -> datetime.datetime:
    period = find_kind(window.kind).digest[window.transport]
    return window_end(now, period, zone, hour=conf.get_settings().digest_hour)
