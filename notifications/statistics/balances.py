"""
Balances: whether everything that was accepted is delivered, given up, or still to be handled.

Owns these equations, and why they hold at every moment. Does not own the figures of a period (rows), nor repairing a
difference: the sweep puts lost notifications on the stream again (workers.recovery).

The stream is the evidence for what is in progress. An entry is on the stream before its event has a `published_at`, and
a group finishes it only after it has set `relayed_at` or `dispatched_at`. Three facts of a notification are read, in
this order: it is published and not handled; it has no entry; it is still not handled. If all three hold, it is lost.
Nothing else is lost, and it does not matter what happens between the reads.
"""

import datetime
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import router
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery

from notifications.conf import LOST_SECONDS, STREAM, Part
from notifications.content.stream_entry import GROUP_FIELD, ID_FIELD
from notifications.database.clock import moment_of, stored
from notifications.delivery.records import TO_SEND
from notifications.models import Delivery, Event, Notification
from notifications.statistics.figures import Balance, Rows, TransportFigures
from realtime import conf
from realtime.streams import dead_letters
from realtime.streams.keys import GroupKeys
from realtime.streams.status import GroupStatus, StreamStatus, read_unfinished

__all__ = ["BROWSERS", "PLANNING", "read_balances"]

# The names of the balances that are not those of a transport: publishing to browsers, and planning deliveries.
BROWSERS, PLANNING = "browsers", "planning"
# Of the notifications that a group has not handled, the oldest this many are looked at: 50 ms.
UNHANDLED_LIMIT = 20_000
# Up to this many entries of a group are looked at one by one; beyond it, only their number is known.
ENTRIES_LIMIT = 1000
# Of the dead letters, the newest this many are looked at.
LETTERS_LIMIT = 500
# A notification that was published this long before the stream was read must have had its entry by then: the clocks of
# processes differ by less. If all are younger, they are looked at only if they outnumber the entries.
SETTLED = datetime.timedelta(seconds=10)
# The column that says when a group has handled a notification.
_HANDLED_AT: dict[Part, str] = {"relay": "relayed_at", "bot": "dispatched_at"}
_IDS_PER_QUERY = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unhandled:
    """The published notifications that a group has not handled, of the oldest UNHANDLED_LIMIT that are unfinished."""

    waiting: int
    # Those that were created in the period of the figures.
    in_period: int
    # Those that were published more than SETTLED before the stream was read.
    settled: int = 0
    # Dead letters, and those without any entry.
    dead: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at the entries of a group."""

    part: Part
    # The start of the period of the figures.
    since: datetime.datetime
    # A time before the stream was read.
    asked_at: datetime.datetime


def read_balances(
    rows: Rows, stream: StreamStatus | None, *, asked_at: datetime.datetime, transports: Iterable[str] = ()
) -> tuple[Balance, ...]:
    """
    Read what became of everything that was accepted: for browsers, for planning, then for each transport.

    Browsers: "delivered" counts the notifications of the period that are relayed. Published notifications that are not
    relayed count if they are less than seven days old, whatever the period is: a dead letter of the relay has failed,
    one with an entry that the relay has not finished is in progress, and any other is lost, which is the difference.
    After seven days the system gives up: older ones that belong to the period have failed. "Accepted" is the sum of
    all.

    Planning: the same for the bot. "Delivered" means that the bot has decided by which transports it is sent.

    Transports: the deliveries of the period by their states, as in `rows`. Those that are due at a time, or held, are
    in progress. The difference is the number of deliveries of any age that are neither finished nor due nor held: no
    process will handle them.

    Args:
        rows: The figures of the period.
        stream: The state of the stream of notifications, read before this call. None if Redis is unavailable:
            everything that is not handled then counts as in progress.
        asked_at: A time before the stream was read; aware.
        transports: Transports that are looked at even if `rows` has no deliveries of theirs.

    Raises:
        redis.RedisError: Redis is unavailable.

    Guarantees:
        The difference is 0 while nothing is lost, however busy the system is. If a group has up to 1000 entries, the
        difference is exact for what was published more than 10 seconds ago; a newer loss may show later. With more
        entries, it is only the number by which notifications exceed entries, so a loss may show late. If a group is
        more than 20,000 notifications behind, the oldest 20,000 are looked at. The cost depends on what is unfinished,
        up to these limits.
    """
    groups = {group.name: group for group in stream.groups} if stream else {}
    unhandled, given_up = _count_unhandled(rows.since, asked_at), _count_given_up(rows.since, asked_at)
    parts: tuple[tuple[Part, str], ...] = (("relay", BROWSERS), ("bot", PLANNING))
    balances = []
    for part, name in parts:
        found = unhandled[part]
        if (group := groups.get(part)) is not None and found.waiting:
            look = _Look(part=part, since=rows.since, asked_at=asked_at)
            found = _find_lost(look, found, group, stream.length if stream else 0)
        planned = max(0, rows.funnel.published - found.in_period - given_up[part])
        delivered = rows.funnel.relayed if part == "relay" else planned
        balances.append(
            Balance(
                name=name,
                accepted=delivered + found.waiting + given_up[part],
                delivered=delivered,
                failed=found.dead + given_up[part],
                skipped=0,
                in_progress=found.waiting - found.dead - found.lost,
            )
        )
    return (*balances, *_transport_balances(rows.transports, transports))


def _find_lost(look: _Look, found: _Unhandled, group: GroupStatus, length: int) -> _Unhandled:
    """Find out how many of the unhandled notifications are dead letters, and how many are lost."""
    # Without a known lag, it is at most the stream's length.
    entry_count = (length if group.lag is None else group.lag) + group.pending + group.delayed
    keys = GroupKeys(conf.keys().stream(STREAM), look.part)
    if entry_count <= ENTRIES_LIMIT and (found.settled or found.waiting > entry_count):
        looked_up = _look_up(look, keys)
        if looked_up is not None:
            return looked_up
    dead = min(found.waiting, len(_still_unhandled(look.part, _read_letters(keys)))) if group.dead else 0
    # With more dead letters than were read, any of the notifications may be one.
    lost = found.settled - entry_count - dead if group.dead <= LETTERS_LIMIT else 0
    return replace(found, dead=dead, lost=max(0, lost))


def _look_up(look: _Look, keys: GroupKeys) -> _Unhandled | None:
    """Look at every entry of the group, and at every notification that it has not handled; None if too many."""
    published_at = Subquery(_events().filter(pk=OuterRef("event_id")).values("published_at")[:1])
    columns = ("pk", "created_at", _HANDLED_AT[look.part], published_at)
    oldest: Any = _oldest_unfinished(look.asked_at).values_list(*columns)[:UNHANDLED_LIMIT]
    # Notification → when it was created.
    before = {pk: at for pk, at, handled_at, published_at in oldest if handled_at is None and published_at is not None}
    # Before and after: an entry may become a dead letter meanwhile, or a dead letter may be replayed.
    letters = _read_letters(keys)
    entries = read_unfinished(conf.sync_redis(), keys, [ID_FIELD, GROUP_FIELD], limit=ENTRIES_LIMIT)
    if entries is None:
        return None
    letters |= _read_letters(keys)
    in_progress = {_id_of(id) for id, group in entries if group in (None, b"", look.part.encode())}
    waiting = _still_unhandled(look.part, before)
    in_period = sum(moment_of(before[pk]) >= look.since for pk in waiting)
    dead = (waiting & letters) - in_progress
    lost = waiting - dead - in_progress
    return _Unhandled(waiting=len(waiting), in_period=in_period, dead=len(dead), lost=len(lost))


def _count_unhandled(since: datetime.datetime, asked_at: datetime.datetime) -> dict[Part, _Unhandled]:
    published_at = Subquery(_events().filter(pk=OuterRef("event_id")).values("published_at")[:1])
    columns = ("pk", "created_at", *_HANDLED_AT.values())
    oldest = _oldest_unfinished(asked_at).values(*columns, published=published_at)[:UNHANDLED_LIMIT]
    aggregates: dict[str, Count] = {}
    for part, field in _HANDLED_AT.items():
        waiting = Q(**{field: None}, published__isnull=False)
        aggregates[f"{part}_waiting"] = Count("pk", filter=waiting)
        in_period = waiting & Q(created_at__gte=stored(since))
        aggregates[f"{part}_in_period"] = Count("pk", filter=in_period)
        settled = waiting & Q(published__lt=stored(asked_at - SETTLED))
        aggregates[f"{part}_settled"] = Count("pk", filter=settled)
    counts: Any = oldest.aggregate(**aggregates)
    names = ("waiting", "in_period", "settled")
    return {part: _Unhandled(**{name: counts[f"{part}_{name}"] for name in names}) for part in _HANDLED_AT}


def _oldest_unfinished(asked_at: datetime.datetime) -> QuerySet[Notification]:
    """The notifications that the system may still handle and that one of the groups has not, oldest first."""
    return _unfinished().filter(created_at__gte=stored(_given_up_before(asked_at))).order_by("created_at")


def _count_given_up(since: datetime.datetime, asked_at: datetime.datetime) -> dict[Part, int]:
    """The notifications since this time that are too old to be put on the stream again."""
    before = _given_up_before(asked_at)
    if since >= before:
        return dict.fromkeys(_HANDLED_AT, 0)
    old = _unfinished().filter(created_at__gte=stored(since), created_at__lt=stored(before)).order_by("created_at")
    rows = list(old.values(*_HANDLED_AT.values())[:UNHANDLED_LIMIT])
    return {part: sum(row[field] is None for row in rows) for part, field in _HANDLED_AT.items()}


def _still_unhandled(part: Part, ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for some in itertools.batched(ids, _IDS_PER_QUERY):
        found.update(_notifications().filter(pk__in=some, **{_HANDLED_AT[part]: None}).values_list("pk", flat=True))
    return found


def _read_letters(keys: GroupKeys) -> set[int]:
    """The ids of the notifications in the newest dead letters."""
    found = dead_letters.find(conf.sync_redis(), keys, limit=LETTERS_LIMIT, newest_first=True)
    return {_id_of(letter.fields.get(ID_FIELD.encode())) for letters in found for letter in letters}


def _id_of(value: bytes | None) -> int:
    """0 if it is not the id of a notification."""
    return int(value) if value is not None and len(value) < 20 and value.isdigit() else 0


def _transport_balances(figures: Sequence[TransportFigures], others: Iterable[str]) -> list[Balance]:
    known = {each.transport: each for each in figures}
    names = sorted({*known, *others})
    lost = _count_never_due(names)
    balances = []
    for name in names:
        each = known.get(name, TransportFigures(transport=name))
        in_progress = max(0, each.unfinished - lost.get(name, 0))
        balances.append(
            Balance(
                name=name,
                accepted=each.sent + each.failed + each.skipped + in_progress + lost.get(name, 0),
                delivered=each.sent,
                failed=each.failed,
                skipped=each.skipped,
                in_progress=in_progress,
            )
        )
    return balances


def _count_never_due(names: Sequence[str]) -> dict[str, int]:
    """Transport → the deliveries that are to be sent but have no time for it. With the names, an index finds them."""
    never_due = Delivery.objects.using(_database()).filter(due_at=None, transport__in=names, state__in=TO_SEND)
    return dict(never_due.order_by().values_list("transport").annotate(count=Count("*")))


def _unfinished() -> QuerySet[Notification]:
    return _notifications().filter(Q(dispatched_at=None) | Q(relayed_at=None))


def _notifications() -> QuerySet[Notification]:
    return Notification.objects.using(_database())


def _events() -> QuerySet[Event]:
    return Event.objects.using(_database())


def _given_up_before(asked_at: datetime.datetime) -> datetime.datetime:
    return asked_at - datetime.timedelta(seconds=LOST_SECONDS)


def _database() -> str:
    # Never a replica: on an older copy, what was handled meanwhile would look lost.
    return router.db_for_write(Notification)
