"""
Deliveries and digests in the admin.

Owns the lists, the actions with their permissions, and the entries in the admin log. Does not own writing deliveries
(delivery.changes).
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications import conf
from notifications.admin.dead_letters_view import dead_letters_view
from notifications.admin.history import (
    HistoryAdmin,
    in_own_direction,
    person_column,
    summary_of,
    time_column,
    users_matching,
)
from notifications.admin.pages import AdminPage
from notifications.admin.people import TransportFilter
from notifications.admin.records import begin_record
from notifications.admin.states import badge
from notifications.delivery import changes, records
from notifications.label import admin_url_name, permission
from notifications.models import Delivery, Digest, Notification
from realtime.untrusted.shown import shown_text

__all__ = ["DeliveryAdmin", "DigestAdmin", "delivery_badge", "latency_text"]

# The colour of each state's badge, as the key of a state with that colour.
BADGES = {
    Delivery.State.PENDING: "waiting",
    Delivery.State.SENDING: "relayed",
    Delivery.State.SENT: "published",
    Delivery.State.FAILED: "failed",
    Delivery.State.SKIPPED: "archived",
    Delivery.State.HELD: "waiting",
}
# The most deliveries that one action sends again, and the most ids in its log entry.
RESEND_LIMIT = 1000
IDS_LOGGED = 20


@admin.register(Delivery)
class DeliveryAdmin(HistoryAdmin):
    """
    Deliveries with their states and the providers' answers.

    A delivery cannot be deleted alone: without its row, the bot would send it again. "Send failed deliveries again"
    needs the permission notifications.resend_delivery, "Dead letters" needs notifications.view_dead_letters.
    """

    is_deleted_alone = False
    actions = ("resend", "release")
    list_display = (
        "recipient",
        "summary",
        "transport",
        "state_badge",
        "attempts",
        "answer_text",
        "took",
        "created",
        "due",
    )
    linked_lookups = ("digest__id__exact", "state__in", "attempts__gt", "due_at__isnull")
    list_filter = ("state", TransportFilter, "created_at")
    list_select_related = ("notification__recipient", "notification__event")
    search_fields = ("notification__recipient", "key")
    search_help_text = "Recipient’s name or email, or the delivery’s key"
    fields = (
        *(
            "notification",
            "transport",
            "state_badge",
            "attempts",
            "answer_text",
            "took",
            "outcomes",
            "key",
            "if_unread",
        ),
        *("digest", "created", "due", "queued", "finished"),
    )
    readonly_fields = fields

    created = time_column("created_at", "created")
    due = time_column("due_at", "due")
    queued = time_column("queued_at", "put on the stream again")
    finished = time_column("finished_at", "finished")

    def get_urls(self) -> list[URLPattern]:
        """The page "Dead letters", then Django's own pages."""
        view = self.admin_site.admin_view(self._dead_letters)
        return [path("dead-letters/", view, name=admin_url_name("delivery_dead_letters")), *super().get_urls()]

    def pages(self, request: HttpRequest) -> list[AdminPage]:
        """The page "Dead letters", if the user may see it."""
        if not request.user.has_perm(permission("view_dead_letters")):
            return []
        url = reverse(f"{self.admin_site.name}:{admin_url_name('delivery_dead_letters')}")
        return [AdminPage(name="Dead letters", url=url, icon="report")]

    def has_resend_permission(self, request: HttpRequest) -> bool:
        """Whether the user may send failed deliveries again."""
        return request.user.has_perm(permission("resend_delivery"))

    @admin.action(description="Send failed deliveries again", permissions=["resend"])
    def resend(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Reopen the failed deliveries among the selected ones and in their digests, up to 1,000, and log that."""
        failed = queryset.using(records.database()).filter(state=Delivery.State.FAILED).order_by("pk")
        chosen = dict(failed.values_list("pk", "digest_id")[:RESEND_LIMIT])
        if not chosen:
            self.message_user(request, "None of the selected deliveries has failed.", messages.WARNING)
            return
        named = ", ".join(str(pk) for pk in list(chosen)[:IDS_LOGGED])
        more = " and others" if len(chosen) > IDS_LOGGED else ""
        # Written first, so that nothing is done without a log entry.
        record = begin_record(request, CHANGE, "failed deliveries", f"Began to send {named}{more} again.")
        # A digest is one message: its failed deliveries are sent again together.
        digests = {digest_id for digest_id in chosen.values() if digest_id is not None}
        count = changes.reopen(Delivery.objects.filter(Q(pk__in=chosen) | Q(digest__in=digests)))
        record.change_message = f"Sent {count:,} again: {named}{more}."
        record.save(update_fields=["change_message"])
        rest = (
            f" These are the oldest {RESEND_LIMIT:,}: do it again for the rest." if len(chosen) == RESEND_LIMIT else ""
        )
        what = "1 failed delivery is" if count == 1 else f"{count:,} failed deliveries are"
        self.message_user(request, f"{what} sent again within seconds.{rest}", messages.SUCCESS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the data of the events and the histories, which may be large: the pages do not show them."""
        deliveries: QuerySet[Any] = super().get_queryset(request)
        return deliveries.defer("notification__event__data", "history")

    @admin.action(description="Release held deliveries", permissions=["resend"])
    def release(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Release the held deliveries among the selected ones and in their digests, up to 1,000, and log that."""
        held = queryset.using(records.database()).filter(state=Delivery.State.HELD).order_by("pk")
        chosen = dict(held.values_list("pk", "digest_id")[:RESEND_LIMIT])
        if not chosen:
            self.message_user(request, "None of the selected deliveries is held.", messages.WARNING)
            return
        if conf.get_settings().delivery == "hold":
            text = 'They would be held again at once: NOTIFICATIONS["DELIVERY"] is "hold". Change it first.'
            self.message_user(request, text, messages.ERROR)
            return
        record = begin_record(request, CHANGE, "held deliveries", f"Began to release {len(chosen):,}.")
        digests = {digest_id for digest_id in chosen.values() if digest_id is not None}
        count = changes.release(Delivery.objects.filter(Q(pk__in=chosen) | Q(digest__in=digests)))
        record.change_message = f"Released {count:,}."
        record.save(update_fields=["change_message"])
        what = "1 held delivery is" if count == 1 else f"{count:,} held deliveries are"
        self.message_user(request, f"{what} sent within seconds, if DELIVERY allows the recipient.", messages.SUCCESS)

    def matching(self, word: str) -> list[Q]:
        """The recipient, and the effect key."""
        theirs = Notification.objects.filter(recipient__in=users_matching(word))
        return [Q(notification__in=theirs.values("pk")), *_key_matching(word)]

    @admin.display(description="recipient")
    def recipient(self, delivery: Delivery) -> SafeString:
        """The user."""
        return in_own_direction(delivery.notification.recipient)

    @admin.display(description="notification")
    def summary(self, delivery: Delivery) -> SafeString:
        """The title and the beginning of the message."""
        return summary_of(delivery.notification.event)

    @admin.display(description="state")
    def state_badge(self, delivery: Delivery) -> SafeString:
        """The badge of its state."""
        return delivery_badge(delivery)

    @admin.display(description="answer")
    def answer_text(self, delivery: Delivery) -> SafeString | str:
        """The provider's last answer, or what went wrong. Addresses in it are masked: they are secrets."""
        return in_own_direction(shown_text(delivery.answer)) if delivery.answer else ""

    @admin.display(description="took")
    def took(self, delivery: Delivery) -> str:
        """How long the last attempt took."""
        return latency_text(delivery)

    def _dead_letters(self, request: HttpRequest) -> HttpResponse:
        return dead_letters_view(request, self)


@admin.register(Digest)
class DigestAdmin(HistoryAdmin):
    """Digests. They cannot be deleted, because their deliveries would be deleted too."""

    is_deleted_alone = False
    list_display = ("owner", "kind", "transport", "ends", "state_badge", "parts")
    list_filter = (TransportFilter, "ends_at")
    list_select_related = ("recipient",)
    # Nearly the order of `ends_at`, which has no index.
    ordering = ("-pk",)
    search_fields = ("recipient", "kind", "key")
    search_help_text = "Recipient’s name or email, kind, or the digest’s key"
    fields = ("recipient", "kind", "transport", "ends", "state_badge", "closed", "key", "parts")
    readonly_fields = fields

    owner = person_column("recipient")
    ends = time_column("ends_at", "goes out")
    closed = time_column("closed_at", "closed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Digests with `parts_count`, which is only counted for the rows of one page."""
        mine = Delivery.objects.filter(digest=OuterRef("pk")).order_by().values("digest")
        digests: QuerySet[Any] = super().get_queryset(request)
        digests = digests.annotate(parts_count=Subquery(mine.annotate(count=Count("pk")).values("count")))
        return digests

    def matching(self, word: str) -> list[Q]:
        """The recipient, the kind, and the effect key."""
        return [Q(recipient__in=users_matching(word)), Q(kind=word), *_key_matching(word)]

    @admin.display(description="state")
    def state_badge(self, digest: Digest) -> SafeString:
        """Whether it is open for more notifications, due or closed."""
        if digest.closed_at is not None:
            return badge("published", "closed")
        return badge("relayed", "open") if digest.ends_at > timezone.now() else badge("waiting", "due")

    @admin.display(description="deliveries")
    def parts(self, digest: Digest) -> SafeString:
        """The number of its deliveries, with a link to their list."""
        url = reverse(f"{self.admin_site.name}:{admin_url_name('delivery_changelist')}")
        count = getattr(digest, "parts_count", None) or 0
        return format_html('<a class="sb-link" href="{}?digest__id__exact={}">{}</a>', url, digest.pk, count)


def delivery_badge(delivery: Delivery) -> SafeString:
    """The badge of its state."""
    state = Delivery.State(delivery.state)
    return badge(BADGES[state], str(state.label))


def latency_text(delivery: Delivery) -> str:
    """How long its last attempt took."""
    return "" if delivery.latency_seconds is None else f"{delivery.latency_seconds * 1000:.0f} ms"


def _key_matching(word: str) -> list[Q]:
    """The effect key, if the word is one."""
    hexadecimal = word.replace("-", "").lower()
    is_key = len(hexadecimal) == 32 and all(letter in "0123456789abcdef" for letter in hexadecimal)
    return [Q(key=hexadecimal)] if is_key else []
