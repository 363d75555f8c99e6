"""Events in the admin: what happened, to whom it was told, how far that has come. Owns the pages reached from there."""

import json
from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications.admin.history import HistoryAdmin, clip, time_column, users_matching
from notifications.admin.pages import AdminPage
from notifications.admin.send_view import send_view
from notifications.admin.states import STATES, badge, state_of
from notifications.admin.statistics_view import statistics_view
from notifications.inbox import safe_href
from notifications.models import Event, Notification

__all__ = ["EventAdmin"]

# Recipients that an event's own page shows; the list of notifications has them all, in pages.
RECIPIENTS_SHOWN = 50
# The filter by kind offers the kinds of the latest events: asking all of a million rows takes too long.
EVENTS_ASKED_FOR_KINDS = 10_000
KINDS_OFFERED = 50


class KindFilter(admin.SimpleListFilter):
    """Filters events by their kind."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        latest = Event.objects.order_by("-pk").values("pk")[:EVENTS_ASKED_FOR_KINDS]
        kinds = Event.objects.filter(pk__in=latest).order_by("kind").values_list("kind", flat=True).distinct()
        return [(kind, kind) for kind in kinds[:KINDS_OFFERED]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class PublishedFilter(admin.SimpleListFilter):
    """Filters events by whether their entries are on the stream."""

    title = "publication"
    parameter_name = "published"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "published"), ("no", "in the outbox")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in ("yes", "no"):
            return queryset.filter(published_at__isnull=self.value() == "no")
        return queryset


@admin.register(Event)
class EventAdmin(HistoryAdmin):
    """
    What happened.

    "Send notification" needs the permission notifications.add_event, "Delivery statistics" notifications.view_event.
    """

    list_display = ("summary", "kind", "actor", "recipients", "publication", "created")
    list_filter = (KindFilter, PublishedFilter, "created_at")
    list_select_related = ("actor",)
    search_fields = ("title", "message", "idempotency_key", "notifications__recipient")
    search_help_text = "Title, message, idempotency key, recipient"
    fieldsets = (
        (None, {"fields": ("kind", "title", "message", "link", "data_json")}),
        ("Where it comes from", {"fields": ("actor", "idempotency_key", "created", "publication", "published")}),
    )
    readonly_fields = (
        *("kind", "title", "message", "link", "data_json"),
        *("actor", "idempotency_key", "created", "publication", "published"),
    )

    created = time_column("created_at", "created")
    published = time_column("published_at", "published")

    def get_urls(self) -> list[URLPattern]:
        """The pages, then Django's own."""
        return [
            path("send/", self.admin_site.admin_view(self._send), name="notifications_event_send"),
            path("statistics/", self.admin_site.admin_view(self._statistics), name="notifications_event_statistics"),
            *super().get_urls(),
        ]

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """The pages that the user may open."""
        site = self.admin_site.name
        pages = []
        if request.user.has_perm("notifications.add_event"):
            url = reverse(f"{site}:notifications_event_send")
            pages.append(AdminPage(name="Send notification", url=url, icon="send"))
        if self.has_view_permission(request):
            url = reverse(f"{site}:notifications_event_statistics")
            pages.append(AdminPage(name="Delivery statistics", url=url, icon="monitoring"))
        return pages

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Events with `recipients_count`, counted for the rows of a page only."""
        told = Notification.objects.filter(event=OuterRef("pk")).order_by().values("event")
        count = told.annotate(count=Count("pk")).values("count")
        events: QuerySet[Any] = super().get_queryset(request)
        events = events.defer("data").annotate(recipients_count=Subquery(count))
        return events

    def matching(self, word: str) -> list[Q]:
        """The event's own texts, and who was told of it."""
        told = Notification.objects.filter(recipient__in=users_matching(word))
        return [
            Q(title__icontains=word),
            Q(message__icontains=word),
            Q(idempotency_key=word),
            Q(pk__in=told.values("event")),
        ]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The event's page, with its first recipients and a count of each state."""
        told = Notification.objects.filter(event=context["original"])
        counts = told.aggregate(all=Count("pk"), **{state.key: Count("pk", filter=state.rows) for state in STATES})
        all_url = reverse(f"{self.admin_site.name}:notifications_notification_changelist")
        context |= {
            "tally": [(badge(state.key, state.label), counts[state.key]) for state in STATES if counts[state.key]],
            "recipients_count": counts["all"],
            "recipients": [
                (told_one, badge(state_of(told_one).key, state_of(told_one).label))
                for told_one in told.select_related("recipient").order_by("pk")[:RECIPIENTS_SHOWN]
            ],
            "all_recipients_url": f"{all_url}?event__id__exact={context['original'].pk}",
        }
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    @admin.display(description="event")
    def summary(self, event: Event) -> str:
        """The title and the beginning of the message."""
        return clip(f"{event.title}: {event.message}" if event.title else event.message)

    @admin.display(description="recipients")
    def recipients(self, event: Event) -> int:
        """How many people were told."""
        return getattr(event, "recipients_count", None) or 0

    @admin.display(description="publication")
    def publication(self, event: Event) -> SafeString:
        """Whether its entries are on the stream."""
        if event.published_at is None:
            return badge("outbox", "in the outbox")
        return badge("published", "published")

    @admin.display(description="URL")
    def link(self, event: Event) -> SafeString | str:
        """Where a click on the notification leads."""
        if not safe_href(event.url):
            return event.url
        return format_html('<a class="sb-link" href="{0}">{0}</a>', event.url)

    @admin.display(description="data")
    def data_json(self, event: Event) -> SafeString | str:
        """The data, laid out."""
        if event.data is None:
            return ""
        return format_html('<pre class="sb-json">{}</pre>', json.dumps(event.data, indent=2, ensure_ascii=False))

    def _send(self, request: HttpRequest) -> HttpResponse:
        return send_view(request, self)

    def _statistics(self, request: HttpRequest) -> HttpResponse:
        return statistics_view(request, self)
