from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    name = "realtime"
    verbose_name = "Realtime transport"

    def ready(self) -> None:
        # Registers the system checks.
        from realtime import checks  # noqa: F401
