"""
The topics of this app: only notifications may be published on those of users, and only staff get the live numbers of
the dashboard.

Owns these two rules. Does not own the topics of users (realtime.topics), nor publishing.
"""

from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from notifications.conf import STATISTICS_TOPIC
from notifications.content.envelope import decode_envelope
from notifications.label import permission
from realtime.broker.history import HistoryPolicy
from realtime.topics import Topic, UserTopic

__all__ = ["StatisticsTopic", "check_notification"]


def check_notification(data: bytes) -> None:
    """Raise ValueError unless the data is an envelope that a browser can show as a notification."""
    try:
        decode_envelope(data)
    except ValueError as error:
        raise ValueError(
            f"it is not a notification ({error}). Use notifications.services.notify() to notify users, and "
            "declare your own topic for other data"
        ) from error


UserTopic.check_data = staticmethod(check_notification)


class StatisticsTopic(Topic):
    """The live numbers of the dashboard: from the relay that holds the lease, once a second while somebody looks."""

    pattern = STATISTICS_TOPIC
    # The next message replaces this one.
    history = HistoryPolicy(size=0, age_seconds=60.0)

    def may_subscribe(self, user: AbstractBaseUser, **parameters: Any) -> bool:
        """Only active staff with the permission to view events."""
        # Every user of a project with Django's permissions has these; others may lack them.
        is_staff = user.is_active and getattr(user, "is_staff", False)
        return bool(is_staff and user.has_perm(permission("view_event")))  # type: ignore[attr-defined]
