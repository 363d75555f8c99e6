"""Deliveries (one notification on one transport) and digests (several notifications in one message)."""

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from notifications.database.clock import moment_of
from notifications.models.events import process_field
from notifications.models.inbox import Notification

__all__ = ["ANSWER_LIMIT", "TRANSPORT_LIMIT", "Delivery", "Digest"]

# The lengths of the columns for a transport's name and a provider's answer, in characters.
TRANSPORT_LIMIT = 64
ANSWER_LIMIT = 500


class Digest(models.Model):
    """All notifications of one user, kind and transport in one window of time. They are sent as one message."""

    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    kind = models.CharField(max_length=64)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    ends_at = models.DateTimeField()
    # The effect key of its message, the same in every attempt.
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    # When it was first claimed. Later notifications go into the next digest.
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-ends_at", "-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["recipient", "kind", "transport", "ends_at"], name="one_digest_per_window"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.transport} until {moment_of(self.ends_at):%Y-%m-%d %H:%M} UTC"


class Delivery(models.Model):
    """One notification on one transport: the record of whether it was sent."""

    class State(models.TextChoices):
        """Pending and sending deliveries are unfinished and have a `due_at`. Held ones wait to be released."""

        # Waits for its first or next attempt.
        PENDING = "pending", "pending"
        # A bot is calling the provider.
        SENDING = "sending", "sending"
        # The provider has accepted it.
        SENT = "sent", "sent"
        # All attempts failed, or the provider refused it for good.
        FAILED = "failed", "failed"
        # It is not sent; its answer says why.
        SKIPPED = "skipped", "skipped"
        # NOTIFICATIONS["DELIVERY"] holds it until it is released.
        HELD = "held", "held"

    # The unique constraint below serves as its index.
    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    # The effect key: the provider gets it with every attempt, so that it can recognise a repetition.
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    # How many attempts have begun, including those of processes that died.
    attempts = models.PositiveIntegerField(default=0)
    # Pending: when the next attempt is due. Sending: when the claim lapses. Otherwise null.
    due_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    # Whether it is skipped if the notification has been read or archived by then.
    if_unread = models.BooleanField(default=False)
    # The digest with which it is sent, under the digest's key.
    digest = models.ForeignKey(
        Digest, null=True, blank=True, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    # While it is being sent, the id of the claim.
    holder = models.CharField(max_length=32, blank=True)
    # The entry that became a dead letter when this delivery failed. Only earlier releases wrote it; replaying such a
    # letter reopens the delivery.
    dead_letter = models.CharField(max_length=41, blank=True)
    # When the sweep last put it on the stream after its last attempt.
    queued_at = models.DateTimeField(null=True, blank=True)
    # The addresses of the recipient that are done: address key → "sent", "failed" or "gone".
    outcomes = models.JSONField(default=dict, blank=True)
    # The provider's last answer, or what went wrong.
    answer = models.CharField(max_length=ANSWER_LIMIT, blank=True)
    # How long the last attempt took.
    latency_seconds = models.FloatField(null=True, blank=True)
    # When the last attempt began, and its process. Null if there was none, and in rows of earlier releases.
    attempt_at = models.DateTimeField(null=True, blank=True, editable=False)
    attempt_by = process_field()
    # What happened to it before its current state; null if nothing did. `notifications.delivery.history` owns it.
    history = models.JSONField(null=True, blank=True, editable=False)
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
            # For counting finished deliveries without reading their rows: a million in 0.1 s instead of 1 s. SQLite
            # needs the column of the condition in the index for that.
            models.Index(fields=["transport", "state", "due_at"], name="delivery_finished", condition=Q(due_at=None)),
            # For the newest failures. Nearly always it has only a few rows.
            models.Index(fields=["-finished_at"], name="delivery_failed", condition=Q(state="failed")),
            models.Index(fields=["digest"], name="delivery_of_digest", condition=Q(digest__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.transport} of notification {self.notification_id}"
