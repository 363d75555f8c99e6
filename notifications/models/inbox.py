"""What each recipient was told, and the questions that the inbox asks of it."""

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from notifications.label import on_user
from notifications.models.events import COLLAPSE_KEY_LIMIT, Event

__all__ = ["Notification", "NotificationQuerySet"]


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
    recipient = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name=on_user("notifications")
    )
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
