"""
The common base of this app's admin: read-only lists that stay fast with millions of rows.

Owns what these lists allow: rows cannot be added or changed, and a list has only the actions that it declares. Staff
with the delete permission can delete rows, for example a message that was sent by mistake. Deleting an event deletes
its notifications; a browser that already shows one keeps it until it reloads its inbox. Does not own the columns.
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

# The most rows that a list counts and shows. Older rows are found by searching or filtering.
COUNT_LIMIT = 10_000
CLIP_CHARACTERS = 90

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
else:
    _Paginator = Paginator


class BoundedPaginator(_Paginator):
    """Counts up to COUNT_LIMIT only, so that a list of millions of rows opens at once."""

    @cached_property
    def count(self) -> int:
        """How many rows the pages have: all rows, or the limit."""
        rows: Any = self.object_list
        return int(rows[:COUNT_LIMIT].count())

    @property
    def is_full(self) -> bool:
        """Whether there may be rows that are on no page."""
        return self.count == COUNT_LIMIT


class HistoryAdmin(ModelAdmin):
    """A read-only ModelAdmin that is fast with millions of rows."""

    change_list_template = "notifications/admin/change_list.html"
    # Lookups that links between our pages use, in addition to the filters of the list.
    linked_lookups: ClassVar[tuple[str, ...]] = ()
    # Whether its own pages can delete rows. If not, they are only deleted together with another row.
    is_deleted_alone: ClassVar[bool] = True
    actions: Sequence[str] | None = None
    list_per_page = 50
    list_max_show_all = 0
    paginator = BoundedPaginator
    show_full_result_count = False
    # Facets would count every row.
    show_facets = admin.ShowFacets.NEVER
    # Only columns with an index.
    sortable_by: ClassVar[tuple[str, ...]] = ("created",)

    class Media:
        css = {"all": ("notifications/admin.css",)}  # noqa: RUF012 (Django's way of saying it)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """False: only notify() adds rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """False: rows are history."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the user has the permission. Also called for all rows that are deleted together with a user."""
        match = request.resolver_match
        own = f"{self.opts.app_label}_{self.opts.model_name}_"
        if not self.is_deleted_alone and match is not None and (match.url_name or "").startswith(own):
            return False
        return bool(super().has_delete_permission(request, obj))

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """The declared actions. Django's action that deletes selected rows is left out: rows are deleted one by one."""
        # Django before 6.1 has actions on lists only, and does not pass a location.
        location = () if action_location is None else (action_location,)
        actions = super().get_actions(request, *location)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """
        Whether a URL may filter by `lookup`: only if it is a filter of the list or in `linked_lookups`.

        Django would allow every field of the model. Then staff could find out masked secrets, by trying prefixes and
        checking whether the list is empty.
        """
        return lookup in self.linked_lookups or any(
            lookup in _lookups_of(each) for each in self.get_list_filter(request)
        )

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """Further pages that are linked from the list, if the user may open them."""
        return []

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with links to the pages of `pages`."""
        context = {"pages": self.pages(request), "has_unfold": HAS_UNFOLD, **(extra_context or {})}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list. It shows the number of results only after a search."""
        changes = super().get_changelist_instance(request)
        if not changes.query and not changes.has_active_filters:
            changes.full_result_count = changes.result_count
        return changes

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """What would be deleted. Related rows are counted and not listed, because there may be thousands."""
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
        """The rows that contain every word, each in any of the places of `matching`."""
        for word in search_term.split():
            queryset = queryset.filter(functools.reduce(operator.or_, self.matching(word)))
        return queryset, False

    def matching(self, word: str) -> list[Q]:
        """The conditions of which a row must fulfil one to contain the word."""
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
    """The keys of users whose name or email address begins with `word`, for `__in`: faster than a join."""
    model = get_user_model()
    places = Q(**{f"{model.USERNAME_FIELD}__istartswith": word})
    email = model.get_email_field_name()
    if any(field.name == email for field in model._meta.fields):
        places |= Q(**{f"{email}__istartswith": word})
    return model._default_manager.filter(places).values("pk")


def time_column(field: str, description: str) -> Callable[[HistoryAdmin, Model], SafeString | None]:
    """A column of times with seconds, on one line. Django's own format is longer and has no seconds."""

    @admin.display(description=description, ordering=f"-{field}")
    def column(self: HistoryAdmin, row: Model) -> SafeString | None:
        return shown_time(getattr(row, field))

    return column


def shown_time(value: datetime.datetime | None) -> SafeString | None:
    """A time with seconds in the site's time zone, on one line; None for None."""
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
