"""Notifications in the admin: one row for each recipient, with its state and its deliveries."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import Q, QuerySet
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from notifications.admin.deliveries import delivery_badge, latency_text
from notifications.admin.history import (
    HistoryAdmin,
    in_own_direction,
    person_column,
    summary_of,
    time_column,
    users_matching,
)
from notifications.admin.ledger import ledger_response, ledger_rows
from notifications.admin.states import ReachedFilter, StateFilter, badge, state_of
from notifications.label import admin_url_name, permission
from notifications.models import Event, Notification
from notifications.statistics.ledger import read_ledger
from realtime.untrusted.shown import shown_text

__all__ = ["NotificationAdmin"]


@admin.register(Notification)
class NotificationAdmin(HistoryAdmin):
    """Notifications, with their states and deliveries."""

    list_display = ("owner", "summary", "state", "created", "relayed", "seen", "read")
    list_filter = (StateFilter, ReachedFilter, "created_at")
    change_form_template = "notifications/admin/notification.html"
    linked_lookups = ("event__id__exact", "event__kind__exact")
    list_select_related = ("recipient", "event")
    search_fields = ("recipient", "event__title", "event__message")
    search_help_text = "Recipient’s name or email, title, message"
    fields = (
        *("event", "recipient", "state", "created", "relayed", "dispatched", "seen", "read", "archived"),
        *("collapse_key", "replaces", "replaced"),
    )
    readonly_fields = fields

    owner = person_column("recipient")
    created = time_column("created_at", "created")
    relayed = time_column("relayed_at", "relayed")
    seen = time_column("seen_at", "seen")
    read = time_column("read_at", "read")
    archived = time_column("archived_at", "archived")
    dispatched = time_column("dispatched_at", "deliveries planned")
    replaced = time_column("replaced_at", "replaced")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the events' data, which may be large: the pages do not show it."""
        notifications: QuerySet[Any] = super().get_queryset(request)
        return notifications.defer("event__data")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search row after row, the newest first, until the pages are full."""
        # A function of the column keeps SQLite from using its index. With the index, it would collect all matching rows
        # and then sort them: 14 s instead of 0.3 s for a million rows and a frequent word.
        hidden = queryset.alias(who=Coalesce("recipient_id", "recipient_id"), what=Coalesce("event_id", "event_id"))
        return super().get_search_results(request, hidden, search_term)

    def matching(self, word: str) -> list[Q]:
        """The recipient and the event's texts."""
        events = Event.objects.filter(Q(title__icontains=word) | Q(message__icontains=word))
        return [Q(who__in=users_matching(word)), Q(what__in=events.values("pk"))]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The notification's page; with `?format=json` or `?format=csv`, its ledger."""
        form = request.GET.get("format")
        if form in ("json", "csv"):
            notification = self.get_object(request, unquote(object_id))
            if notification is not None and self.has_view_permission(request, notification):
                may_view_deliveries = request.user.has_perm(permission("view_delivery"))
                steps = read_ledger(notification, with_deliveries=may_view_deliveries)
                return ledger_response(notification, steps, form=form)
        # Also says that there is no such notification, or that the user may not see it.
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The notification's page with its ledger, and with its deliveries if the user may see these."""
        context["may_view_deliveries"] = request.user.has_perm(permission("view_delivery"))
        context["delivery_url_name"] = f"{self.admin_site.name}:{admin_url_name('delivery_change')}"
        notification = context["original"]
        context["ledger"] = ledger_rows(read_ledger(notification, with_deliveries=context["may_view_deliveries"]))
        if context["may_view_deliveries"]:
            context["deliveries"] = [
                (
                    delivery,
                    delivery_badge(delivery),
                    in_own_direction(shown_text(delivery.answer)) if delivery.answer else "",
                    latency_text(delivery),
                )
                for delivery in notification.deliveries.order_by("transport")
            ]
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    @admin.display(description="notification")
    def summary(self, notification: Notification) -> SafeString:
        """The title and the beginning of the message."""
        return summary_of(notification.event)

    @admin.display(description="state")
    def state(self, notification: Notification) -> SafeString:
        """How far it has come."""
        state = state_of(notification)
        return badge(state.key, state.label)
