"""Events, and the recipients of scheduled events."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from realtime.process_name import PROCESS_NAME_LIMIT

__all__ = ["COLLAPSE_KEY_LIMIT", "IN_OUTBOX", "Event", "Scheduled", "process_field"]

# Characters.
COLLAPSE_KEY_LIMIT = 100
# The events of the outbox: committed, not published, and not scheduled for later.
IN_OUTBOX = Q(published_at=None, deliver_at=None)


def process_field() -> "models.CharField[str | None, str | None]":
    """A column for the name of a process (realtime.process_name); null if it is not known."""
    # Null and not "", so that adding the column does not rewrite a large table on SQLite.
    return models.CharField(max_length=PROCESS_NAME_LIMIT, null=True, blank=True, editable=False)


class Event(models.Model):
    """
    Something that happened, with one or more recipients.

    Events with neither `published_at` nor `deliver_at` are the outbox: they are committed, and not all of their entries
    are on the stream yet. An event with a `deliver_at` is scheduled: it has `Scheduled` rows instead of notifications.
    """

    kind = models.CharField(max_length=64, default="info")
    title = models.CharField(max_length=200, blank=True)
    message = models.TextField()
    url = models.CharField(max_length=2000, blank=True)
    data = models.JSONField(null=True, blank=True)
    # The user who caused it, if any.
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # Identifies the event for the caller: a second notify() with the same key returns the first event.
    idempotency_key = models.CharField(max_length=255, null=True, blank=True, unique=True)
    # A newer event with the same kind and key replaces the unread notifications of this one.
    collapse_key = models.CharField(max_length=COLLAPSE_KEY_LIMIT, blank=True)
    # The fallback of the call: transport → seconds after which it is used if the notification is still unread.
    fallback = models.JSONField(null=True, blank=True)
    # When notify() was called; for a scheduled event, when it was released.
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    # When a scheduled event is due. Null after it was released or cancelled.
    deliver_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancelled_at = models.DateTimeField(null=True, blank=True, editable=False)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    # For a scheduled event: when notify() was called. Also after it was released.
    scheduled_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The processes that wrote `created_at`, `published_at` and `scheduled_at`.
    created_by = process_field()
    published_by = process_field()
    scheduled_by = process_field()
    # Whether the sweep published it, because its caller had left it in the outbox. Null if that is not known.
    is_swept = models.BooleanField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # The outbox is nearly always empty; so is this index.
            models.Index(fields=["created_at"], name="event_outbox", condition=IN_OUTBOX),
            models.Index(fields=["deliver_at"], name="event_waiting", condition=Q(deliver_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.title or self.message[:80]


class Scheduled(models.Model):
    """A recipient of a scheduled event. The row is deleted when the event is released or cancelled."""

    # The unique constraint below serves as its index.
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
