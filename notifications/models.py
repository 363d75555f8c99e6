"""
The truth about notifications: what happened (Event), what each recipient was told of it (Notification), and what became
of it on each transport (Delivery), alone or with others (Digest); whom an event will tell later (Scheduled); what
people want (Preference, QuietHours) and where they are reached (Destination, PushSubscription).

Owns the tables and the questions that the inbox asks of them. Every write goes through `services`, those of deliveries
through `deliveries`; nothing here talks to Redis.
"""

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

__all__ = [
    "Delivery",
    "Destination",
    "Digest",
    "Event",
    "Notification",
    "Preference",
    "PushSubscription",
    "QuietHours",
    "Scheduled",
]

# Characters of a transport's name, and of what a provider answered that are kept.
TRANSPORT_LIMIT = 64
ANSWER_LIMIT = 500
COLLAPSE_KEY_LIMIT = 100


class Event(models.Model):
    """
    Something that happened and of which one or more people are told.

    `published_at IS NULL` is the outbox: the event is committed and its entries are not yet all on the stream. With a
    `deliver_at` it is not in there yet: nobody has a notification, and `Scheduled` says who will have one.
    """

    kind = models.CharField(max_length=64, default="info")
    title = models.CharField(max_length=200, blank=True)
    message = models.TextField()
    url = models.CharField(max_length=2000, blank=True)
    data = models.JSONField(null=True, blank=True)
    # Who caused it, if a person did.
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # The caller's own name for this event: a second notify() with the same key returns the first event.
    idempotency_key = models.CharField(max_length=255, null=True, blank=True, unique=True)
    # A newer event of the same kind and key replaces, for each recipient, what this one has told and is still unread.
    collapse_key = models.CharField(max_length=COLLAPSE_KEY_LIMIT, blank=True)
    # The call's own fallback: transport → seconds after which it is used if the notification is still unread.
    fallback = models.JSONField(null=True, blank=True)
    # When it was told; of one that waited, when its time had come.
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    # Until then nobody is told. Nothing once the time has come, or the event was cancelled.
    deliver_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancelled_at = models.DateTimeField(null=True, blank=True, editable=False)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # The outbox is nearly always empty; so is this index.
            models.Index(fields=["created_at"], name="event_outbox", condition=Q(published_at=None, deliver_at=None)),
            models.Index(fields=["deliver_at"], name="event_waiting", condition=Q(deliver_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.title or self.message[:80]


class Scheduled(models.Model):
    """Somebody whom a waiting event will tell; gone when its time has come, or it was cancelled."""

    # Found through the constraint below.
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="scheduled", db_index=False)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")

    class Meta:
        verbose_name_plural = "scheduled"
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "recipient"], name="scheduled_once_per_recipient"),
        ]

    def __str__(self) -> str:
        return f"event {self.event_id} for user {self.recipient_id}"


class NotificationQuerySet(models.QuerySet["Notification"]):
    """What the inbox asks."""

    def inbox(self, user_id: Any) -> "NotificationQuerySet":
        """What `user_id` has not archived, newest first, with its event."""
        return self.filter(recipient_id=user_id, archived_at=None).select_related("event").order_by("-id")

    def unread(self, user_id: Any) -> "NotificationQuerySet":
        """What `user_id` has neither read nor archived."""
        return self.filter(recipient_id=user_id, read_at=None, archived_at=None)

    def unseen(self, user_id: Any) -> "NotificationQuerySet":
        """What has arrived since `user_id` last opened the inbox."""
        return self.filter(recipient_id=user_id, seen_at=None, archived_at=None)


class Notification(models.Model):
    """One event for one recipient. The four states are times: unseen (none of them), seen, read, archived."""

    # Found through the index "notification_of_event", which has them in the order of publishing.
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="notifications", db_index=False)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications")
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    # When the relay handed it to the recipient's group, if it has.
    relayed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When the bot decided on which transports it is delivered; the deliveries tell the rest.
    dispatched_at = models.DateTimeField(null=True, blank=True, editable=False)
    seen_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)
    # The event's; it is here for the index.
    collapse_key = models.CharField(max_length=COLLAPSE_KEY_LIMIT, blank=True, editable=False)
    # The id of the unread one that it replaced; that one may have been deleted since.
    replaces = models.BigIntegerField(null=True, blank=True, editable=False)
    # When a newer one replaced it; it was archived then.
    replaced_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[models.Manager["Notification"]] = NotificationQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "recipient"], name="one_notification_per_event_and_recipient"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["event", "id"], name="notification_of_event"),
            models.Index(fields=["recipient", "-id"], name="notification_inbox", condition=Q(archived_at=None)),
            models.Index(fields=["recipient"], name="notification_unread", condition=Q(read_at=None, archived_at=None)),
            models.Index(fields=["recipient"], name="notification_unseen", condition=Q(seen_at=None, archived_at=None)),
            models.Index(
                fields=["recipient", "collapse_key"],
                name="notification_collapse",
                condition=Q(read_at=None, archived_at=None) & ~Q(collapse_key=""),
            ),
            # What may have been lost with Redis; nearly always a few rows.
            models.Index(
                fields=["created_at"],
                name="notification_unhandled",
                condition=Q(dispatched_at=None) | Q(relayed_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"notification {self.pk} for user {self.recipient_id}"


class Digest(models.Model):
    """What one user is told of one kind on one transport in one window of time, all at once: at most one message."""

    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    kind = models.CharField(max_length=64)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    ends_at = models.DateTimeField()
    # The effect key of its message, in every attempt.
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    # When it was first claimed: what comes later goes into the next one.
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-ends_at", "-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["recipient", "kind", "transport", "ends_at"], name="one_digest_per_window"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.transport} until {self.ends_at:%Y-%m-%d %H:%M} UTC"


class Delivery(models.Model):
    """One notification on one transport: the truth about whether it was sent."""

    class State(models.TextChoices):
        """Of these, pending and sending are unfinished and have a `due_at`."""

        PENDING = "pending", "waits for its next attempt"
        SENDING = "sending", "in the hands of a bot"
        SENT = "sent", "taken by the provider"
        FAILED = "failed", "given up"
        SKIPPED = "skipped", "not to be sent"

    # Found through the constraint below.
    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    # The effect key: every attempt gives it to the provider, which may know that it has had it already.
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    # Begun attempts, those of processes that died included.
    attempts = models.PositiveIntegerField(default=0)
    # Pending: when the next attempt may begin. Sending: when the claim of its holder lapses. Finished: nothing.
    due_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    # Skipped if the notification has been read or put away by then.
    if_unread = models.BooleanField(default=False)
    # It goes out with others, under the digest's key.
    digest = models.ForeignKey(
        Digest, null=True, blank=True, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    # Which call holds it while it is being sent.
    holder = models.CharField(max_length=32, blank=True)
    # The stream's entry that became a dead letter when this was given up.
    dead_letter = models.CharField(max_length=41, blank=True)
    # When the sweep last put it on the stream, since its last attempt.
    queued_at = models.DateTimeField(null=True, blank=True)
    # What became of it at each of the recipient's addresses that is done with: address key → "sent", "failed", "gone".
    outcomes = models.JSONField(default=dict, blank=True)
    # What the provider answered last, or what went wrong.
    answer = models.CharField(max_length=ANSWER_LIMIT, blank=True)
    # How long the last attempt took.
    latency_seconds = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering: ClassVar = ["-id"]
        # Of the admin. Dead letters have no rows: they are what Redis holds of deliveries that were given up.
        permissions: ClassVar = [
            ("resend_delivery", "Can send failed deliveries again"),
            ("view_dead_letters", "Can view dead letters"),
            ("replay_dead_letters", "Can replay dead letters"),
            ("purge_dead_letters", "Can purge dead letters"),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["notification", "transport"], name="one_delivery_per_transport"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["due_at"], name="delivery_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["-created_at"], name="delivery_created"),
            models.Index(fields=["digest"], name="delivery_of_digest", condition=Q(digest__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.transport} of notification {self.notification_id}"


class Preference(models.Model):
    """What a user has said about one kind of notification on one transport; without a row, the kind's default holds."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notification_preferences", db_index=False
    )
    kind = models.CharField(max_length=64)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    is_wanted = models.BooleanField()

    class Meta:
        ordering: ClassVar = ["user", "kind", "transport"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "kind", "transport"], name="one_preference_per_transport"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.transport}: {'yes' if self.is_wanted else 'no'}"


class QuietHours(models.Model):
    """When a user is left alone by all transports, but for urgent kinds: each day from `starts` until `ends`."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notification_quiet_hours"
    )
    # Times of day in the zone; they may lie around midnight.
    starts = models.TimeField()
    ends = models.TimeField()
    # As in "Europe/Berlin".
    time_zone = models.CharField(max_length=64)

    class Meta:
        verbose_name_plural = "quiet hours"

    def __str__(self) -> str:
        return f"{self.starts:%H:%M} to {self.ends:%H:%M} {self.time_zone}"


class Destination(models.Model):
    """Where one transport reaches a user: the URL of a webhook, an Apprise URL."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notification_destinations", db_index=False
    )
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    # May hold a password or a token, as many Apprise URLs do: never shown whole.
    address = models.CharField(max_length=1000)
    # What the transport signs with, if it signs.
    secret = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["user", "transport", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "transport", "address"], name="one_destination_per_address"),
        ]

    def __str__(self) -> str:
        return f"{self.transport} of user {self.user_id}"


class PushSubscription(models.Model):
    """One browser of a user that may be woken by web push: what `PushManager.subscribe()` gave it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="push_subscriptions")
    # Knowing it is nearly enough to send: never shown whole.
    endpoint = models.CharField(max_length=1000, unique=True)
    p256dh = models.CharField(max_length=100)
    auth = models.CharField(max_length=50)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["user", "id"]

    def __str__(self) -> str:
        return f"browser {self.pk} of user {self.user_id}"
