"""The app's configuration as a site writes it that has tables already."""

from notifications.apps import NotificationsConfig

__all__ = ["PrefixedConfig"]


class PrefixedConfig(NotificationsConfig):
    """With other names on users, and the same tables."""

    default = False
    user_prefix = "told_"
