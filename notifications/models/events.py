"""What happened, and whom it will be told later."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

__all__ = ["COLLAPSE_KEY_LIMIT", "Event", "Scheduled"]

# Characters.
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
