"""
Preferences, quiet hours, destinations and push subscriptions in the admin.

Owns which columns are shown: secrets are neither displayed nor searched. Does not own what counts as a secret (shown),
what a URL may filter by (history), or writing these rows (preferences).
"""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from notifications import conf
from notifications.admin.history import HistoryAdmin, in_own_direction, person_column, time_column, users_matching
from notifications.admin.shown import shown_address
from notifications.models import Destination, Preference, PushSubscription, QuietHours
from realtime.untrusted.shown import shown_text

__all__ = ["DestinationAdmin", "PreferenceAdmin", "PushSubscriptionAdmin", "QuietHoursAdmin", "TransportFilter"]


class TransportFilter(admin.SimpleListFilter):
    """
    Filters by the transports of the settings, because reading those of a million rows would take too long.

    A link may also ask for a transport that is no longer there.
    """

    title = "transport"
    parameter_name = "transport"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        asked = request.GET.getlist(self.parameter_name)
        return [(name, name) for name in dict.fromkeys([*conf.get_settings().transports, *asked])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(transport=self.value()) if self.value() else queryset


class OfUserAdmin(HistoryAdmin):
    """Rows that belong to a user and are found by the user."""

    list_select_related = ("user",)
    search_fields: ClassVar[tuple[str, ...]] = ("user",)
    search_help_text = "User’s name or email"

    owner = person_column("user")

    def matching(self, word: str) -> list[Q]:
        """The user."""
        return [Q(user__in=users_matching(word))]


@admin.register(Preference)
class PreferenceAdmin(OfUserAdmin):
    """Users' choices. Without a row, the kind's default applies."""

    list_display = ("owner", "kind", "transport", "is_wanted")
    list_filter = (TransportFilter, "is_wanted")
    search_fields = ("user", "kind")
    search_help_text = "User’s name or email, or kind"
    fields: ClassVar = ("user", "kind", "transport", "is_wanted")
    readonly_fields = fields

    def matching(self, word: str) -> list[Q]:
        """The user, and the kind."""
        return [*super().matching(word), Q(kind=word)]


@admin.register(QuietHours)
class QuietHoursAdmin(OfUserAdmin):
    """Users' quiet hours."""

    list_display = ("owner", "starts", "ends", "time_zone")
    fields: ClassVar = ("user", "starts", "ends", "time_zone")
    readonly_fields = fields


@admin.register(Destination)
class DestinationAdmin(OfUserAdmin):
    """Users' destinations. Only the beginning of an address is shown, and never its secret."""

    list_display = ("owner", "transport", "address_begin", "is_signed", "created", "disabled", "reason")
    list_filter = (TransportFilter, ("disabled_at", admin.EmptyFieldListFilter))
    fields: ClassVar = ("user", "transport", "address_begin", "is_signed", "created", "disabled", "reason")
    readonly_fields = fields

    created = time_column("created_at", "created")
    disabled = time_column("disabled_at", "disabled")

    @admin.display(description="reason")
    def reason(self, destination: Destination) -> SafeString | str:
        """The provider's answer that disabled it."""
        return in_own_direction(shown_text(destination.disabled_reason)) if destination.disabled_reason else ""

    @admin.display(description="address")
    def address_begin(self, destination: Destination) -> str:
        """The beginning of the address, enough to recognise the service."""
        return shown_address(destination.address)

    @admin.display(description="signed", boolean=True)
    def is_signed(self, destination: Destination) -> bool:
        """Whether it has a secret for signatures."""
        return bool(destination.secret)


@admin.register(PushSubscription)
class PushSubscriptionAdmin(OfUserAdmin):
    """Browsers that get web push. Only the beginning of an address is shown, and never the keys."""

    list_display = ("owner", "service", "created")
    fields: ClassVar = ("user", "service", "created")
    readonly_fields = fields

    created = time_column("created_at", "created")

    @admin.display(description="push service")
    def service(self, subscription: PushSubscription) -> str:
        """The beginning of the push service's address."""
        return shown_address(subscription.endpoint)
