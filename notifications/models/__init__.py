"""
The truth about notifications: what happened (Event), what each recipient was told of it (Notification), and what became
of it on each transport (Delivery), alone or with others (Digest); whom an event will tell later (Scheduled); what
people want (Preference, QuietHours) and where they are reached (Destination, PushSubscription).

Owns the tables and the questions that the inbox asks of them. Every write goes through `services`, those of deliveries
through `deliveries`; nothing here talks to Redis.
"""

from notifications.models.deliveries import ANSWER_LIMIT, TRANSPORT_LIMIT, Delivery, Digest
from notifications.models.events import COLLAPSE_KEY_LIMIT, Event, Scheduled
from notifications.models.inbox import Notification
from notifications.models.people import (
    QUIET_HOURS_RELATION,
    REASON_LIMIT,
    Destination,
    Preference,
    PushSubscription,
    QuietHours,
)

__all__ = [
    "ANSWER_LIMIT",
    "COLLAPSE_KEY_LIMIT",
    "QUIET_HOURS_RELATION",
    "REASON_LIMIT",
    "TRANSPORT_LIMIT",
    "Delivery",
    "Destination",
    "Digest",
    "Event",
    "Notification",
    "Preference",
    "PushSubscription",
    "QuietHours",
    "Scheduled",
]
