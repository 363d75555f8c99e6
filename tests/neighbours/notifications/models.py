"""A model of the same name as ours, in an app with the label of ours."""

from django.conf import settings
from django.db import models

__all__ = ["Event", "Notification"]


class Event(models.Model):
    """Something that happened, to another app."""

    name = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.name


class Notification(models.Model):
    """Something that a user was told by another app."""

    event = models.ForeignKey(Event, on_delete=models.CASCADE)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications")

    def __str__(self) -> str:
        return f"notification {self.pk}"
