"""The notifications of each recipient, and the queries of the inbox."""

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from notifications.label import on_user
from notifications.models.events import COLLAPSE_KEY_LIMIT, Event, process_field

__all__ = ["Notification", "NotificationQuerySet"]


class NotificationQuerySet(models.QuerySet["Notification"]):
    """The queries of the inbox."""

    def inbox(self, user_id: Any) -> "NotificationQuerySet":
        """The notifications that the user has not archived, newest first, with their events."""
        return self.filter(recipient_id=user_id, archived_at=None).select_related("event").order_by("-id")

    def unread(self, user_id: Any) -> "NotificationQuerySet":
        """The notifications that the user has neither read nor archived."""
        return self.filter(recipient_id=user_id, read_at=None, archived_at=None)

    def unseen(self, user_id: Any) -> "NotificationQuerySet":
        """The notifications that arrived since the user last opened the bell, except for archived ones."""
        return self.filter(recipient_id=user_id, seen_at=None, archived_at=None)


class Notification(models.Model):
    """One event for one recipient. Its state is given by times: unseen (none is set), seen, read, archived."""

    # The index "notification_of_event" is used for it, in the order of publishing.
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="notifications", db_index=False)
    recipient = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name=on_user("notifications")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    # When the relay published it to the recipient's browsers.
    relayed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When the bot planned its deliveries.
    dispatched_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The processes of this relay and this bot.
    relayed_by = process_field()
    dispatched_by = process_field()
    seen_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)
    # Copied from the event, for the index.
    collapse_key = models.CharField(max_length=COLLAPSE_KEY_LIMIT, blank=True, editable=False)
    # The id of the unread notification that it replaced, which may have been deleted since.
    replaces = models.BigIntegerField(null=True, blank=True, editable=False)
    # When a newer notification replaced it. It was archived at that time.
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
            # For finding notifications that Redis may have lost. Nearly always it has only a few rows.
            models.Index(
                fields=["created_at"],
                name="notification_unhandled",
                condition=Q(dispatched_at=None) | Q(relayed_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"notification {self.pk} for user {self.recipient_id}"
