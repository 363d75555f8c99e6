"""The app's configurations for INSTALLED_APPS: with its own label, or with another one. Owns the labels."""

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules


class NotificationsConfig(AppConfig):
    """
    The configuration that `"notifications"` in INSTALLED_APPS selects.

    Attributes:
        user_prefix: The prefix of the relations on users: user.notifications, user.push_subscriptions, …
    """

    name = "notifications"
    verbose_name = "Notifications"
    default_auto_field = "django.db.models.BigAutoField"
    default = True
    user_prefix = ""

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        other = apps.app_configs.get(self.label)
        if other is not None and other.name != self.name:
            raise ImproperlyConfigured(
                f'The app {other.name} has the label "{self.label}" too: in INSTALLED_APPS, write '
                '"notifications.apps.SignalboxConfig" instead of "notifications".'
            )

    def ready(self) -> None:
        # Registers the system checks.
        from notifications import checks  # noqa: F401

        # Every app declares its kinds in notification_kinds.py.
        autodiscover_modules("notification_kinds")


class SignalboxConfig(NotificationsConfig):
    """For projects in which another app has the label "notifications", or users have another `user.notifications`."""

    default = False
    label = "signalbox_notifications"
    user_prefix = "signalbox_"
