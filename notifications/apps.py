from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class NotificationsConfig(AppConfig):
    name = "notifications"
    verbose_name = "Notifications"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Registers the system checks.
        from notifications import checks  # noqa: F401

        # Every app declares its kinds in notification_kinds.py.
        autodiscover_modules("notification_kinds")
