"""
Django's system checks of the domain: a wrong setting is said when the process starts.

Owns the ids `notifications.E…`; docs/reference/checks.md lists them. Reads settings and opens nothing.
"""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from notifications.conf import load_settings

__all__ = ["check_settings"]


@register("notifications")
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """NOTIFICATIONS, if it is there, has known keys of the right types and sizes (E001)."""
    try:
        load_settings()
    except ImproperlyConfigured as error:
        hint = "Leave NOTIFICATIONS out to have the defaults."
        return [Error(str(error), hint=hint, id="notifications.E001")]
    return []
