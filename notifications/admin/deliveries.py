"""
Deliveries, preferences and addresses in the admin: what became of each, who wants what.

Owns the lists, and who may send what has failed again. Does not own writing that (deliveries).
"""

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from notifications import conf, deliveries
from notifications.admin.dead_letters_view import dead_letters_view
from notifications.admin.history import HistoryAdmin, time_column, users_matching
from notifications.admin.pages import AdminPage
from notifications.admin.records import begin_record
from notifications.admin.states import badge
from notifications.models import Delivery, Destination, Notification, Preference, PushSubscription

__all__ = ["DeliveryAdmin", "DestinationAdmin", "PreferenceAdmin", "PushSubscriptionAdmin"]

# The colour of each state, by the badges that there are.
BADGES = {
    Delivery.State.PENDING: "waiting",
    Delivery.State.SENDING: "relayed",
    Delivery.State.SENT: "published",
    Delivery.State.FAILED: "outbox",
    Delivery.State.SKIPPED: "archived",
}
# Characters of a host that are shown, and of what comes first in the URL of a chat service, which may be a token.
HOST_SHOWN = 60
TOKEN_SHOWN = 4
# Failed deliveries that one action sends again at most, and of how many its record names the ids.
RESEND_LIMIT = 1000
IDS_LOGGED = 20


class TransportFilter(admin.SimpleListFilter):
    """Filters by the project's transports; asking a million rows for theirs takes too long."""

    title = "transport"
    parameter_name = "transport"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in conf.get_settings().transports]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(transport=self.value()) if self.value() else queryset


@admin.register(Delivery)
class DeliveryAdmin(HistoryAdmin):
    """
    What became of each notification on each transport, with the provider's answer.

    "Send again" needs the permission notifications.resend_delivery, "Dead letters" notifications.view_dead_letters.
    """

    actions = ("resend",)
    list_display = ("recipient", "transport", "state_badge", "attempts", "answer", "latency", "created", "due")
    list_filter = ("state", TransportFilter, "created_at")
    list_select_related = ("notification__recipient",)
    search_fields = ("notification__recipient", "key")
    search_help_text = "Recipient’s name or e-mail, or the key that the provider was given"
    fields = (
        *("notification", "transport", "state_badge", "attempts", "answer", "latency", "outcomes", "key"),
        *("created", "due", "finished"),
    )
    readonly_fields = fields

    created = time_column("created_at", "created")
    due = time_column("due_at", "due")
    finished = time_column("finished_at", "finished")

    def get_urls(self) -> list[URLPattern]:
        """The page, then Django's own."""
        view = self.admin_site.admin_view(self._dead_letters)
        return [path("dead-letters/", view, name="notifications_delivery_dead_letters"), *super().get_urls()]

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """The dead letters, for who may see them."""
        if not request.user.has_perm("notifications.view_dead_letters"):
            return []
        url = reverse(f"{self.admin_site.name}:notifications_delivery_dead_letters")
        return [AdminPage(name="Dead letters", url=url, icon="report")]

    def get_actions(self, request: HttpRequest, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Sending again, for who may; not the site's own, which delete."""
        found = super().get_actions(request, *args, **kwargs)
        return {name: action for name, action in found.items() if name == "resend"}

    def has_resend_permission(self, request: HttpRequest) -> bool:
        """Whether the user may send failed deliveries again."""
        return request.user.has_perm("notifications.resend_delivery")

    @admin.action(description="Send again those that failed", permissions=["resend"])
    def resend(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Reopen the failed ones among those selected, up to 1,000, and log that."""
        failed = list(
            queryset.filter(state=Delivery.State.FAILED).order_by("pk").values_list("pk", flat=True)[:RESEND_LIMIT]
        )
        count = deliveries.reopen(Delivery.objects.filter(pk__in=failed))
        if not count:
            self.message_user(request, "None of those selected has failed.", messages.WARNING)
            return
        named = ", ".join(str(pk) for pk in failed[:IDS_LOGGED])
        more = " and others" if len(failed) > IDS_LOGGED else ""
        begin_record(request, CHANGE, "failed deliveries", f"Sent {count:,} again: {named}{more}.")
        rest = (
            f" Those are the oldest {RESEND_LIMIT:,}: do it again for the rest." if len(failed) == RESEND_LIMIT else ""
        )
        what = "1 failed delivery goes" if count == 1 else f"{count:,} failed deliveries go"
        self.message_user(request, f"{what} out again within seconds.{rest}", messages.SUCCESS)

    def matching(self, word: str) -> list[Q]:
        """The recipient, and the effect key."""
        told = Notification.objects.filter(recipient__in=users_matching(word))
        places = [Q(notification__in=told.values("pk"))]
        hexadecimal = word.replace("-", "").lower()
        if len(hexadecimal) == 32 and all(letter in "0123456789abcdef" for letter in hexadecimal):
            places.append(Q(key=hexadecimal))
        return places

    @admin.display(description="recipient")
    def recipient(self, delivery: Delivery) -> str:
        """Who was told."""
        return str(delivery.notification.recipient)

    @admin.display(description="state")
    def state_badge(self, delivery: Delivery) -> SafeString:
        """How far it has come."""
        state = Delivery.State(delivery.state)
        return badge(BADGES[state], str(state.label))

    @admin.display(description="took")
    def latency(self, delivery: Delivery) -> str:
        """How long the last attempt took."""
        return "" if delivery.latency_seconds is None else f"{delivery.latency_seconds * 1000:.0f} ms"

    def _dead_letters(self, request: HttpRequest) -> HttpResponse:
        return dead_letters_view(request, self)


@admin.register(Preference)
class PreferenceAdmin(HistoryAdmin):
    """What users have chosen; where there is no row, the kind's default holds."""

    list_display = ("user", "kind", "transport", "is_wanted")
    list_filter = (TransportFilter, "is_wanted")
    list_select_related = ("user",)
    search_fields = ("user", "kind")
    search_help_text = "User’s name or e-mail, or kind"
    fields: ClassVar = ("user", "kind", "transport", "is_wanted")
    readonly_fields = fields

    def matching(self, word: str) -> list[Q]:
        """The user, and the kind."""
        return [Q(user__in=users_matching(word)), Q(kind=word)]


@admin.register(Destination)
class DestinationAdmin(HistoryAdmin):
    """Addresses that users have given; of each only the beginning, and never its secret."""

    list_display = ("user", "transport", "address_begin", "created")
    list_filter = (TransportFilter,)
    list_select_related = ("user",)
    search_fields = ("user",)
    search_help_text = "User’s name or e-mail"
    fields: ClassVar = ("user", "transport", "address_begin", "created")
    readonly_fields = fields

    created = time_column("created_at", "created")

    def matching(self, word: str) -> list[Q]:
        """The user."""
        return [Q(user__in=users_matching(word))]

    @admin.display(description="address")
    def address_begin(self, destination: Destination) -> str:
        """Enough of it to recognise the service."""
        return _begin(destination.address)


@admin.register(PushSubscription)
class PushSubscriptionAdmin(HistoryAdmin):
    """Browsers that may be woken; of each address only the beginning, and never its keys."""

    list_display = ("user", "service", "created")
    list_select_related = ("user",)
    search_fields = ("user",)
    search_help_text = "User’s name or e-mail"
    fields: ClassVar = ("user", "service", "created")
    readonly_fields = fields

    created = time_column("created_at", "created")

    def matching(self, word: str) -> list[Q]:
        """The user."""
        return [Q(user__in=users_matching(word))]

    @admin.display(description="push service")
    def service(self, subscription: PushSubscription) -> str:
        """Whose push service it is."""
        return _begin(subscription.endpoint)


def _begin(address: str) -> str:
    """The scheme and the host, without what comes before an @: the rest may be a password."""
    scheme, mark, rest = address.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2]
    return f"{scheme}{mark}{host[: HOST_SHOWN if scheme in ('http', 'https') else TOKEN_SHOWN]}…"
