"""
What the admin of events and of notifications have in common: history, which nobody rewrites, of a million rows.

Nothing here adds or changes a row, and no list has actions unless it says so. Deleting is possible for who holds the
delete permission: what was said in error, or what a person wants removed. An event takes its notifications with it. A
browser that has shown one already keeps it until it reads its inbox anew.
"""

import datetime
import functools
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from notifications.admin.looks import HAS_UNFOLD, ModelAdmin
from notifications.admin.pages import AdminPage
from notifications.database.clock import moment_of
from notifications.models import Event

__all__ = [
    "COUNT_LIMIT",
    "BoundedPaginator",
    "HistoryAdmin",
    "in_own_direction",
    "person_column",
    "shown_time",
    "summary_of",
    "time_column",
    "users_matching",
]

# Rows that a list counts and shows at most; for those beyond, search or filter.
COUNT_LIMIT = 10_000
CLIP_CHARACTERS = 90

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
else:
    _Paginator = Paginator


class BoundedPaginator(_Paginator):
    """Counts to 10,000 and no further, so that a list of millions opens at once."""

    @cached_property
    def count(self) -> int:
        """How many rows the pages hold: all of them, or the limit."""
        rows: Any = self.object_list
        return int(rows[:COUNT_LIMIT].count())

    @property
    def is_full(self) -> bool:
        """Whether there may be rows that no page holds."""
        return self.count == COUNT_LIMIT


class HistoryAdmin(ModelAdmin):
    """A ModelAdmin without adding, changing or actions on many at once; quick on a million rows."""

    change_list_template = "notifications/admin/change_list.html"
    # Lookups that links between our own pages use, beside the filters of the list.
    linked_lookups: ClassVar[tuple[str, ...]] = ()
    # Whether its own pages delete, for who holds the permission; what goes with another row is deleted with that.
    is_deleted_alone: ClassVar[bool] = True
    actions: Sequence[str] | None = None
    list_per_page = 50
    list_max_show_all = 0
    paginator = BoundedPaginator
    show_full_result_count = False
    # Counts beside each filter would count every row.
    show_facets = admin.ShowFacets.NEVER
    # Only what an index keeps in order.
    sortable_by: ClassVar[tuple[str, ...]] = ("created",)

    class Media:
        css = {"all": ("notifications/admin.css",)}  # noqa: RUF012 (Django's way of saying it)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: notify() adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it is history."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who holds the permission; asked too when a user is deleted, of all that goes with them."""
        match = request.resolver_match
        own = f"{self.opts.app_label}_{self.opts.model_name}_"
        if not self.is_deleted_alone and match is not None and (match.url_name or "").startswith(own):
            return False
        return bool(super().has_delete_permission(request, obj))

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """The list's own: what is deleted is looked at first, one by one."""
        # Django before 6.1 has actions on lists only, and does not pass a location.
        location = () if action_location is None else (action_location,)
        actions = super().get_actions(request, *location)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """
        Whether a URL may filter by `lookup`: only by the filters of the list and by `linked_lookups`.

        Django would allow every field of the model. By trying prefixes and looking whether the list is empty, staff
        could then read secrets that these pages mask.
        """
        return lookup in self.linked_lookups or any(
            lookup in _lookups_of(each) for each in self.get_list_filter(request)
        )

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """The pages beside the list that the user may open."""
        return []

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with the pages beside it."""
        context = {"pages": self.pages(request), "has_unfold": HAS_UNFOLD, **(extra_context or {})}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list; it says how many rows a search found only if one was made."""
        changes = super().get_changelist_instance(request)
        if not changes.query and not changes.has_active_filters:
            changes.full_result_count = changes.result_count
        return changes

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """What would be deleted, and how many rows with it: Django would list each of thousands."""
        objects = list(objs)
        counts = {str(self.opts.verbose_name_plural): len(objects)}
        for relation in self.opts.related_objects:
            model = relation.related_model
            if found := model._base_manager.filter(**{f"{relation.field.name}__in": objects}).count():
                counts[str(model._meta.verbose_name_plural)] = found
        return [str(item) for item in objects], counts, set(), []

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Rows in which every word is found, each in any of the places that `matching` names."""
        for word in search_term.split():
            queryset = queryset.filter(functools.reduce(operator.or_, self.matching(word)))
        return queryset, False

    def matching(self, word: str) -> list[Q]:
        """The places in which a word is looked for."""
        raise NotImplementedError


def _lookups_of(list_filter: Any) -> set[str]:
    """The lookups that one entry of `list_filter` uses in a URL."""
    if isinstance(list_filter, tuple):
        # A field and the class of its filter.
        list_filter, kind = list_filter
        if isinstance(kind, type) and issubclass(kind, admin.EmptyFieldListFilter):
            return {f"{list_filter}__isempty"}
    if isinstance(list_filter, str):
        return {list_filter, *(f"{list_filter}__{lookup}" for lookup in ("exact", "isnull", "gte", "lt"))}
    return {list_filter.parameter_name}


def users_matching(word: str) -> QuerySet[Any, Any]:
    """The keys of users whose name or e-mail address begins with `word`, for `__in`: quicker than a join."""
    model = get_user_model()
    places = Q(**{f"{model.USERNAME_FIELD}__istartswith": word})
    email = model.get_email_field_name()
    if any(field.name == email for field in model._meta.fields):
        places |= Q(**{f"{email}__istartswith": word})
    return model._default_manager.filter(places).values("pk")


def time_column(field: str, description: str) -> Callable[[HistoryAdmin, Model], SafeString | None]:
    """A column of times to the second on one line, which Django's own format has not room for."""

    @admin.display(description=description, ordering=f"-{field}")
    def column(self: HistoryAdmin, row: Model) -> SafeString | None:
        return shown_time(getattr(row, field))

    return column


def shown_time(value: datetime.datetime | None) -> SafeString | None:
    """A time to the second in the site's zone, on one line; nothing for none."""
    if value is None:
        return None
    local = timezone.localtime(moment_of(value))
    return format_html('<time class="sb-time" datetime="{}">{}</time>', local.isoformat(), f"{local:%Y-%m-%d %H:%M:%S}")


def person_column(field: str) -> Callable[[HistoryAdmin, Model], SafeString | None]:
    """A column of users' names, each in the direction of its own script; Django's column uses that of the page."""

    @admin.display(description=field)
    def column(self: HistoryAdmin, row: Model) -> SafeString | None:
        user = getattr(row, field)
        return None if user is None else in_own_direction(user)

    return column


def in_own_direction(text: object) -> SafeString:
    """Text in the direction of its own script, for example Arabic from right to left on an English page."""
    return format_html('<span dir="auto">{}</span>', text)


def summary_of(event: Event) -> SafeString:
    """The title and the beginning of the message, on one line."""
    text = f"{event.title}: {event.message}" if event.title else event.message
    return in_own_direction(Truncator(" ".join(text.split())).chars(CLIP_CHARACTERS))
