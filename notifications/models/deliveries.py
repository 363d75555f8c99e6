"""What became of a notification on each transport, alone or with others."""

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from notifications.database.clock import moment_of
from notifications.models.inbox import Notification

__all__ = ["ANSWER_LIMIT", "TRANSPORT_LIMIT", "Delivery", "Digest"]

# Characters of a transport's name, and of what a provider answered that are kept.
TRANSPORT_LIMIT = 64
ANSWER_LIMIT = 500


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
        return f"{self.kind} by {self.transport} until {moment_of(self.ends_at):%Y-%m-%d %H:%M} UTC"


class Delivery(models.Model):
    """One notification on one transport: the truth about whether it was sent."""

    class State(models.TextChoices):
        """Pending and sending deliveries are unfinished and have a `due_at`. Held ones wait to be released."""

        # Waits for its first attempt, or for the next one.
        PENDING = "pending", "pending"
        # A bot is calling the provider.
        SENDING = "sending", "sending"
        # The provider has accepted it.
        SENT = "sent", "sent"
        # Given up.
        FAILED = "failed", "failed"
        # Not to be sent; its answer says why.
        SKIPPED = "skipped", "skipped"
        # Held back by NOTIFICATIONS["DELIVERY"] until it is released.
        HELD = "held", "held"

    # Found through the constraint below.
    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    # The effect key: every attempt gives it to the provider, which may know that it has had it already.
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    # PreparedBatch attempts, those of processes that died included.
    attempts = models.PositiveIntegerField(default=0)
    # Pending: when the next attempt may begin. Sending: when the claim of its holder lapses. Otherwise empty.
    due_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    # Skipped if the notification has been read or put away by then.
    if_unread = models.BooleanField(default=False)
    # It goes out with others, under the digest's key.
    digest = models.ForeignKey(
        Digest, null=True, blank=True, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    # Which call holds it while it is being sent.
    holder = models.CharField(max_length=32, blank=True)
    # The entry that became a dead letter when this delivery failed. Only earlier releases wrote it; replaying such a
    # letter reopens the delivery.
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
        # For the admin. Dead letters have no model of their own: they are entries of the stream, kept in Redis.
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
            # Counts what is finished without reading the rows: a million in 0.1 s instead of 1 s on SQLite, which wants
            # the column of the condition in the index for that.
            models.Index(fields=["transport", "state", "due_at"], name="delivery_finished", condition=Q(due_at=None)),
            models.Index(fields=["digest"], name="delivery_of_digest", condition=Q(digest__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.transport} of notification {self.notification_id}"
