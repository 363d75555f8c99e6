"""What a transport is given to send, for tests."""

from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import User

from notifications.content.envelope import Envelope
from notifications.transports import Message, Texts

__all__ = ["KEY", "envelope", "message"]

KEY = "0123456789abcdef0123456789abcdef"


def envelope(**fields: Any) -> Envelope:
    """One that says nothing but these fields."""
    plain = {"id": 7, "event_id": 3, "kind": "info", "title": "", "message": "x", "url": "", "data": None}
    return Envelope(**{**plain, "created_at": datetime(2026, 1, 2, tzinfo=UTC), **fields})


def message(user: User | None = None, /, said: Envelope | None = None, **texts: str) -> Message:
    """The first attempt, by default for user 42."""
    found = Texts(**{"subject": "Order 7", "body": "Unterwegs – ütf\n", **texts})
    return Message(key=KEY, recipient=user or User(pk=42), notification=said or envelope(), texts=found, attempt=1)
