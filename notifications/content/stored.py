"""
From stored rows to content and envelopes.

Owns the conversion. Does not own writing rows (events) or the limits of content (envelope).
"""

from collections.abc import Iterable

import msgspec
from django.db import router

from notifications.content.envelope import Content, Envelope
from notifications.database.clock import moment_of
from notifications.models import Event, Notification

__all__ = ["content_of", "envelopes_of"]


def content_of(event: Event) -> Content:
    """The content of a stored event."""
    return Content(
        kind=event.kind,
        title=event.title,
        message=event.message,
        url=event.url,
        data=event.data,
        created_at=moment_of(event.created_at),
    )


def envelopes_of(notification_ids: Iterable[int]) -> tuple[Envelope, ...]:
    """The envelopes of these stored notifications, oldest first. Deleted ones are left out."""
    ids = list(notification_ids)
    if not ids:
        return ()
    # Not a replica: a row that was just committed may not be there yet.
    database = router.db_for_write(Event)
    rows = Notification.objects.using(database).filter(pk__in=ids).select_related("event")
    return tuple(
        Envelope(
            id=row.pk, event_id=row.event_id, replaces=row.replaces, **msgspec.structs.asdict(content_of(row.event))
        )
        for row in rows.order_by("id")
    )
