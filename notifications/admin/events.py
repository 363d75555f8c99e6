"""
Events in the admin: their content, their recipients, and the states of their notifications.

Owns these lists and pages. Does not own writes (`services.notify`, `services.cancel`).
"""

import datetime
from typing import Any

from django.contrib import admin, messages
from django.db import router, transaction
from django.db.models import Case, Count, IntegerField, OuterRef, Q, QuerySet, Subquery, When
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import linebreaksbr
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications import services
from notifications.admin.dashboard.view import dashboard_context, statistics_view
from notifications.admin.history import (
    HistoryAdmin,
    in_own_direction,
    person_column,
    shown_time,
    summary_of,
    time_column,
    users_matching,
)
from notifications.admin.pages import AdminPage
from notifications.admin.send_view import send_view
from notifications.admin.shown import shown_data
from notifications.admin.states import EVENT_STATES, STATES, EventStateFilter, badge, state_of
from notifications.inbox.queries import safe_href
from notifications.label import admin_url_name, permission
from notifications.models import Event, Notification, Scheduled

__all__ = ["EventAdmin", "ScheduledAdmin"]

# The most recipients on the page of an event; the list of notifications has all of them.
RECIPIENTS_SHOWN = 50
# The filter by kind offers the kinds of the latest events, because reading a million rows would take too long.
EVENTS_SEARCHED_FOR_KINDS = 10_000
KINDS_OFFERED = 50
# The most events that one action cancels.
CANCEL_LIMIT = 1000


class KindFilter(admin.SimpleListFilter):
    """Filters events by their kind."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        latest = Event.objects.order_by("-pk").values("pk")[:EVENTS_SEARCHED_FOR_KINDS]
        kinds = Event.objects.filter(pk__in=latest).order_by("kind").values_list("kind", flat=True).distinct()
        return [(kind, kind) for kind in kinds[:KINDS_OFFERED]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Event)
class EventAdmin(HistoryAdmin):
    """
    Events.

    "Send notification" needs the permission notifications.add_event, "Delivery statistics" needs
    notifications.view_event, and the action "Cancel scheduled events" needs notifications.change_event. The site's
    first page becomes the dashboard, unless the site has an `index_template` of its own.
    """

    change_form_template = "notifications/admin/event.html"
    actions = ("cancel",)
    list_display = ("summary", "kind", "caused_by", "recipients", "publication", "created")
    list_filter = (KindFilter, EventStateFilter, "created_at")
    list_select_related = ("actor",)
    search_fields = ("title", "message", "idempotency_key", "notifications__recipient")
    search_help_text = "Title, message, idempotency key, recipient"
    fieldsets = (
        (None, {"fields": ("kind", "title_text", "message_text", "link", "data_json")}),
        ("Origin and publication", {"fields": ("actor", "idempotency_key", "created", "publication", "published")}),
        ("Schedule, collapse key and fallback", {"fields": ("deliver", "cancelled", "collapse_key", "fallback_text")}),
    )
    readonly_fields = (
        *("kind", "title_text", "message_text", "link", "data_json"),
        *("actor", "idempotency_key", "created", "publication", "published"),
        *("deliver", "cancelled", "collapse_key", "fallback_text"),
    )

    caused_by = person_column("actor")
    created = time_column("created_at", "created")
    published = time_column("published_at", "published")
    deliver = time_column("deliver_at", "scheduled for")
    cancelled = time_column("cancelled_at", "cancelled")

    def __init__(self, model: type[Event], admin_site: admin.AdminSite) -> None:
        super().__init__(model, admin_site)
        if admin_site.index_template is None:
            # The site's own first page, with the dashboard above it.
            admin_site.index_template = "notifications/admin/index.html"

    def get_urls(self) -> list[URLPattern]:
        """The pages of `pages`, then Django's own."""
        return [
            path("send/", self.admin_site.admin_view(self._send), name=admin_url_name("event_send")),
            path("statistics/", self.admin_site.admin_view(self._statistics), name=admin_url_name("event_statistics")),
            *super().get_urls(),
        ]

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """The pages that the user may open."""
        site = self.admin_site.name
        pages = []
        if request.user.has_perm(permission("add_event")):
            url = reverse(f"{site}:{admin_url_name('event_send')}")
            pages.append(AdminPage(name="Send notification", url=url, icon="send"))
        if self.has_view_permission(request):
            url = reverse(f"{site}:{admin_url_name('event_statistics')}")
            pages.append(AdminPage(name="Delivery statistics", url=url, icon="monitoring"))
        return pages

    def dashboard(self, request: HttpRequest) -> dict[str, Any]:
        """The context of the dashboard, for the site's first page."""
        return dashboard_context(request, self.admin_site)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether the user may cancel scheduled events."""
        return request.user.has_perm(permission("change_event"))

    @admin.action(description="Cancel scheduled events", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Event]) -> None:
        """Cancel the scheduled events among the selected ones, up to 1,000, and log that in the history of each."""
        queryset = queryset.using(router.db_for_write(Event))
        waiting = list(queryset.filter(deliver_at__isnull=False).order_by("deliver_at", "pk")[:CANCEL_LIMIT])
        count = 0
        for event in waiting:
            # In one transaction, so that nothing is cancelled without a log entry.
            with transaction.atomic(using=router.db_for_write(Event)):
                if services.cancel(event.pk):
                    self.log_change(request, event, "Cancelled before its time.")
                    count += 1
        if not count:
            self.message_user(request, "None of the selected events is scheduled.", messages.WARNING)
            return
        what = "1 event is cancelled: nobody is notified of it."
        if count > 1:
            what = f"{count:,} events are cancelled: nobody is notified of them."
        if len(waiting) == CANCEL_LIMIT:
            what += f" These are the first {CANCEL_LIMIT:,}: do it again for the rest."
        self.message_user(request, what, messages.SUCCESS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Events with `recipients_count`, which is only counted for the rows of one page."""
        events: QuerySet[Any] = super().get_queryset(request)
        count = Case(When(deliver_at=None, then=_count_of(Notification)), default=_count_of(Scheduled))
        events = events.defer("data").annotate(recipients_count=count)
        return events

    def matching(self, word: str) -> list[Q]:
        """The event's texts, its idempotency key, and its recipients."""
        notifications = Notification.objects.filter(recipient__in=users_matching(word))
        scheduled = Scheduled.objects.filter(recipient__in=users_matching(word))
        return [
            Q(title__icontains=word),
            Q(message__icontains=word),
            Q(idempotency_key=word),
            Q(pk__in=notifications.values("event")),
            Q(pk__in=scheduled.values("event")),
        ]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The event's page with its first recipients, and the number of notifications in each state."""
        event = context["original"]
        context["notification_url_name"] = f"{self.admin_site.name}:{admin_url_name('notification_change')}"
        context |= self._scheduled_recipients(event) if event.deliver_at is not None else self._recipients(event)
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    @admin.display(description="event")
    def summary(self, event: Event) -> SafeString:
        """The title and the beginning of the message."""
        return summary_of(event)

    @admin.display(description="title")
    def title_text(self, event: Event) -> SafeString | str:
        """The title, in the direction of its own script."""
        return in_own_direction(event.title) if event.title else ""

    @admin.display(description="message")
    def message_text(self, event: Event) -> SafeString:
        """The whole message with its line breaks, in the direction of its own script."""
        return format_html('<div dir="auto">{}</div>', linebreaksbr(event.message))

    @admin.display(description="recipients")
    def recipients(self, event: Event) -> int:
        """The number of its recipients."""
        return getattr(event, "recipients_count", None) or 0

    @admin.display(description="publication")
    def publication(self, event: Event) -> SafeString:
        """The badge of its state; for a scheduled event, also the time."""
        state = state_of(event, EVENT_STATES)
        if state.key != "scheduled":
            return badge(state.key, state.label)
        return format_html("{} {}", badge(state.key, state.label), shown_time(event.deliver_at))

    @admin.display(description="URL")
    def link(self, event: Event) -> SafeString | str:
        """Where a click on the notification leads."""
        if not safe_href(event.url):
            return event.url
        return format_html('<a class="sb-link" href="{0}">{0}</a>', event.url)

    @admin.display(description="data")
    def data_json(self, event: Event) -> SafeString | str:
        """The data, indented."""
        return "" if event.data is None else format_html('<pre class="sb-json">{}</pre>', shown_data(event.data))

    @admin.display(description="fallback of this call")
    def fallback_text(self, event: Event) -> str:
        """The transports that are used only if it is still unread after a time, with these times."""
        waits = (event.fallback or {}).items()
        return ", ".join(f"{name} if unread after {_duration(seconds)}" for name, seconds in waits)

    def _recipients(self, event: Event) -> dict[str, Any]:
        rows = Notification.objects.filter(event=event)
        counts = rows.aggregate(all=Count("pk"), **{state.key: Count("pk", filter=state.rows) for state in STATES})
        return {
            "tally": [(badge(state.key, state.label), counts[state.key]) for state in STATES if counts[state.key]],
            "recipients_count": counts["all"],
            "recipients": [
                (notification, badge(state_of(notification).key, state_of(notification).label))
                for notification in rows.select_related("recipient").order_by("pk")[:RECIPIENTS_SHOWN]
            ],
            "all_recipients_url": self._url_of_all("notification", event),
        }

    def _scheduled_recipients(self, event: Event) -> dict[str, Any]:
        rows = Scheduled.objects.filter(event=event)
        return {
            "recipients_count": rows.count(),
            "scheduled": rows.select_related("recipient").order_by("pk")[:RECIPIENTS_SHOWN],
            "all_recipients_url": self._url_of_all("scheduled", event),
        }

    def _url_of_all(self, model: str, event: Event) -> str:
        return (
            f"{reverse(f'{self.admin_site.name}:{admin_url_name(f"{model}_changelist")}')}?event__id__exact={event.pk}"
        )

    def _send(self, request: HttpRequest) -> HttpResponse:
        return send_view(request, self)

    def _statistics(self, request: HttpRequest) -> HttpResponse:
        return statistics_view(request, self)


@admin.register(Scheduled)
class ScheduledAdmin(HistoryAdmin):
    """The recipients of scheduled events. Deleting a row removes the recipient from the event."""

    list_display = ("owner", "summary", "until")
    linked_lookups = ("event__id__exact",)
    list_select_related = ("recipient", "event")
    search_fields = ("recipient", "event__title", "event__message")
    search_help_text = "Recipient’s name or email, title, message"
    fields = ("event", "recipient", "until")
    readonly_fields = fields
    sortable_by = ()

    owner = person_column("recipient")

    def matching(self, word: str) -> list[Q]:
        """The recipient and the event's texts."""
        events = Event.objects.filter(Q(title__icontains=word) | Q(message__icontains=word), deliver_at__isnull=False)
        return [Q(recipient__in=users_matching(word)), Q(event__in=events.values("pk"))]

    @admin.display(description="event")
    def summary(self, scheduled: Scheduled) -> SafeString:
        """The title and the beginning of the message."""
        return summary_of(scheduled.event)

    @admin.display(description="scheduled for")
    def until(self, scheduled: Scheduled) -> SafeString | None:
        """When the event is due."""
        return shown_time(scheduled.event.deliver_at)


def _count_of(model: type[Notification] | type[Scheduled]) -> Subquery:
    """How many rows of `model` an event has."""
    rows = model._default_manager.filter(event=OuterRef("pk")).order_by().values("event")
    return Subquery(rows.annotate(count=Count("pk")).values("count"), output_field=IntegerField())


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=seconds))
