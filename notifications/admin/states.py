"""How far a notification has come: the state badge and the filter by it. Owns the words and their order."""

from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications.models import Notification

__all__ = ["STATES", "State", "StateFilter", "badge", "state_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    One state; a notification is in exactly one, the furthest it has reached.

    Attributes:
        field: The time that is set in this state, "" in the first.
        rows: What finds the notifications in this state.
    """

    key: str
    label: str
    field: str
    rows: Q


def _states() -> tuple[State, ...]:
    found = []
    not_further = Q()
    for key, label in (("archived", "archived"), ("read", "read"), ("seen", "seen"), ("relayed", "relayed, not seen")):
        field = f"{key}_at"
        found.append(State(key=key, label=label, field=field, rows=not_further & Q(**{f"{field}__isnull": False})))
        not_further &= Q(**{field: None})
    return (*found, State(key="waiting", label="waiting for the relay", field="", rows=not_further))


# The furthest first.
STATES = _states()


def state_of(notification: Notification) -> State:
    """The furthest state that the notification has reached."""
    return next(state for state in STATES if not state.field or getattr(notification, state.field) is not None)


def badge(key: str, text: str) -> SafeString:
    """A short text on the colour of `key`: a state's, or "published" or "outbox"."""
    return format_html('<span class="sb-badge sb-badge-{}">{}</span>', key, text)


class StateFilter(admin.SimpleListFilter):
    """Filters notifications by their state."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.key, state.label) for state in reversed(STATES)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for state in STATES:
            if state.key == self.value():
                return queryset.filter(state.rows)
        return queryset
