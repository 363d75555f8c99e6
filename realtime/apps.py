from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class RealtimeConfig(AppConfig):
    name = "realtime"
    verbose_name = "Realtime transport"

    def ready(self) -> None:
        # Registers the system checks.
        from realtime import checks  # noqa: F401
        from realtime.websocket.django_signals import connect_receivers

        connect_receivers()
        # As the admin finds admin.py: each app declares its topics in topics.py.
        autodiscover_modules("topics")
