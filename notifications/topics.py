"""
The rule that only notifications may be published on the topics of users.

Owns the rule. Does not own these topics or who may subscribe to them (realtime.topics).
"""

from notifications.content.envelope import decode_envelope
from realtime.topics import UserTopic

__all__ = ["check_notification"]


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
