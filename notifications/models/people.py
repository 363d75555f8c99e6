"""What users want, when, and their addresses."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone

from notifications.label import on_user
from notifications.models.deliveries import TRANSPORT_LIMIT

__all__ = ["QUIET_HOURS_RELATION", "REASON_LIMIT", "Destination", "Preference", "PushSubscription", "QuietHours"]

# The most characters that are stored of the reason for disabling a destination.
REASON_LIMIT = 500


# A user has one row at most.
QUIET_HOURS_RELATION = on_user("notification_quiet_hours")


class Preference(models.Model):
    """A user's choice for one kind of notification on one transport. Without a row, the kind's default applies."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name=on_user("notification_preferences"),
        db_index=False,
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
    """The daily time, from `starts` until `ends`, in which transports send a user urgent kinds only."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name=QUIET_HOURS_RELATION)
    # Times of day in the time zone. If `starts` is later than `ends`, the quiet hours include midnight.
    starts = models.TimeField()
    ends = models.TimeField()
    # A name such as "Europe/Berlin".
    time_zone = models.CharField(max_length=64)

    class Meta:
        verbose_name_plural = "quiet hours"

    def __str__(self) -> str:
        return f"{self.starts:%H:%M} to {self.ends:%H:%M} {self.time_zone}"


class Destination(models.Model):
    """An address of a user for one transport: the URL of a webhook, or an Apprise URL."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name=on_user("notification_destinations"),
        db_index=False,
    )
    transport = models.CharField(max_length=TRANSPORT_LIMIT)
    # Many Apprise URLs contain a password or a token, so it is never shown in full.
    address = models.CharField(max_length=1000)
    # The key with which the transport signs, if it does.
    secret = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When it was disabled because its provider answered that it no longer exists, and that answer.
    disabled_at = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_reason = models.CharField(max_length=REASON_LIMIT, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["user", "transport", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "transport", "address"], name="one_destination_per_address"),
        ]

    def __str__(self) -> str:
        return f"{self.transport} of user {self.user_id}"


class PushSubscription(models.Model):
    """A browser of a user that receives web push: the subscription from `PushManager.subscribe()`."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name=on_user("push_subscriptions")
    )
    # It is almost a secret, so it is never shown in full.
    endpoint = models.CharField(max_length=1000, unique=True)
    p256dh = models.CharField(max_length=100)
    auth = models.CharField(max_length=50)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["user", "id"]

    def __str__(self) -> str:
        return f"browser {self.pk} of user {self.user_id}"
