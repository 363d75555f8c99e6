"""
The states of events and notifications: badges and filters.

Owns the words and their order. Events and notifications have the words of the statistics (created, published, relayed,
seen, read). Deliveries have the names of their own states (pending, sending, sent, failed, skipped, held). So all pages
use the same word for the same state. Does not own the colours (admin.css).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications.models import IN_OUTBOX, Event

__all__ = ["EVENT_STATES", "STATES", "EventStateFilter", "ReachedFilter", "State", "StateFilter", "badge", "state_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    One state. A row is in exactly one state: the furthest that it has reached.

    Attributes:
        field: The column with the time of this state; "" for the first state.
        rows: The condition for rows in this state.
    """

    key: str
    label: str
    field: str
    rows: Q


# How far a notification has come at least, as the statistics count it. One that is read may never have been relayed.
REACHED = {
    # Not by a join: the outbox is nearly empty.
    "published": ~Q(event__in=Event.objects.filter(IN_OUTBOX).order_by().values("pk")),
    "relayed": Q(relayed_at__isnull=False),
    "seen": Q(seen_at__isnull=False),
    "read": Q(read_at__isnull=False),
}


def _states(first: tuple[str, str], *further: tuple[str, str, str]) -> tuple[State, ...]:
    """The states with these (key, label) and (key, label, field), the furthest first."""
    found = []
    not_further = Q()
    for key, label, field in reversed(further):
        found.append(State(key=key, label=label, field=field, rows=not_further & Q(**{f"{field}__isnull": False})))
        not_further &= Q(**{field: None})
    return (*found, State(key=first[0], label=first[1], field="", rows=not_further))


# The states of notifications, the furthest first.
STATES = _states(
    ("waiting", "not relayed"),
    ("relayed", "relayed", "relayed_at"),
    ("seen", "seen", "seen_at"),
    ("read", "read", "read_at"),
    ("archived", "archived", "archived_at"),
    ("replaced", "replaced", "replaced_at"),
)
# The states of events, the furthest first. Scheduled events are not in the outbox.
EVENT_STATES = _states(
    ("outbox", "in the outbox"),
    ("scheduled", "scheduled", "deliver_at"),
    ("published", "published", "published_at"),
    ("cancelled", "cancelled", "cancelled_at"),
)


def state_of(row: Model, states: tuple[State, ...] = STATES) -> State:
    """The furthest state that a notification, or with EVENT_STATES an event, has reached."""
    return next(state for state in states if not state.field or getattr(row, state.field) is not None)


def badge(key: str, text: str) -> SafeString:
    """A short text in the colour of the state `key`."""
    return format_html('<span class="sb-badge sb-badge-{}">{}</span>', key, text)


class StateFilter(admin.SimpleListFilter):
    """Filters notifications by their state."""

    title = "state"
    parameter_name = "state"
    states: ClassVar[tuple[State, ...]] = STATES

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.key, state.label) for state in reversed(self.states)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for state in self.states:
            if state.key == self.value():
                return queryset.filter(state.rows)
        return queryset


class ReachedFilter(admin.SimpleListFilter):
    """Filters notifications by how far they have come at least, as the dashboard counts them."""

    title = "reached"
    parameter_name = "reached"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in REACHED]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(REACHED[value]) if (value := self.value()) in REACHED else queryset


class EventStateFilter(StateFilter):
    """Filters events by their state."""

    states = EVENT_STATES
