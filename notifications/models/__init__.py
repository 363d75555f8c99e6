"""
The tables: events (Event) and their notifications, one for each recipient (Notification); deliveries on each transport
(Delivery), also several in one message (Digest); the recipients of scheduled events (Scheduled); what users want
(Preference, QuietHours), and their addresses (Destination, PushSubscription); and what was counted (CountedHour,
CounterPeriod).

Owns the tables and the queries of the inbox. Does not own writes (events, delivery, preferences, services) or Redis.
"""

# First, because its error says what is missing in INSTALLED_APPS; that of a model does not.
from notifications.label import LABEL as LABEL
from notifications.models.deliveries import ANSWER_LIMIT, TRANSPORT_LIMIT, Delivery, Digest
from notifications.models.events import COLLAPSE_KEY_LIMIT, IN_OUTBOX, Event, Scheduled
from notifications.models.inbox import Notification
from notifications.models.people import (
    QUIET_HOURS_RELATION,
    REASON_LIMIT,
    Destination,
    Preference,
    PushSubscription,
    QuietHours,
)
from notifications.models.statistics import CountedHour, CounterPeriod

__all__ = [
    "ANSWER_LIMIT",
    "COLLAPSE_KEY_LIMIT",
    "IN_OUTBOX",
    "QUIET_HOURS_RELATION",
    "REASON_LIMIT",
    "TRANSPORT_LIMIT",
    "CountedHour",
    "CounterPeriod",
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
