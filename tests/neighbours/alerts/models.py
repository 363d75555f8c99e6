"""A model whose relation on users has the name of ours."""

from django.conf import settings
from django.db import models

__all__ = ["Alert"]


class Alert(models.Model):
    """Something that a user was told by another app."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications")

    def __str__(self) -> str:
        return f"alert {self.pk}"
