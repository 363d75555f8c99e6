"""
The truth about notifications: what happened (Event) and what each recipient was told of it (Notification).

Owns the tables and the questions that the inbox asks of them. Every write goes through `services`; nothing here talks
to Redis.
"""

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

__all__ = ["Event", "Notification"]


class Event(models.Model):
    """
    Something that happened and of which one or more people are told.

    `published_at IS NULL` is the outbox: the event is committed and its entries are not yet all on the stream.
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
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # The outbox is nearly always empty; so is this index.
            models.Index(fields=["created_at"], name="event_outbox", condition=Q(published_at=None)),
        ]

    def __str__(self) -> str:
        return self.title or self.message[:80]


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
    seen_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)

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
        ]

    def __str__(self) -> str:
        return f"notification {self.pk} for user {self.recipient_id}"
