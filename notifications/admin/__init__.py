"""
The admin of notifications: the history of events, notifications and deliveries, what users want, a form to send a
notification, the delivery statistics, and dead letters.

It works in any Django admin, and uses the look of django-unfold if that is installed. Does not own writes: sending is
`services.notify`, sending again is `delivery.changes.reopen`, and `realtime.streams` moves dead letters.
"""

from notifications.admin.deleting import CountedDeletion
from notifications.admin.deliveries import DeliveryAdmin, DigestAdmin
from notifications.admin.events import EventAdmin, ScheduledAdmin
from notifications.admin.notifications import NotificationAdmin
from notifications.admin.pages import AdminPage
from notifications.admin.people import DestinationAdmin, PreferenceAdmin, PushSubscriptionAdmin, QuietHoursAdmin

__all__ = [
    "AdminPage",
    "CountedDeletion",
    "DeliveryAdmin",
    "DestinationAdmin",
    "DigestAdmin",
    "EventAdmin",
    "NotificationAdmin",
    "PreferenceAdmin",
    "PushSubscriptionAdmin",
    "QuietHoursAdmin",
    "ScheduledAdmin",
]
