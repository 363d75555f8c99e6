"""
The admin of notifications: events, notifications and deliveries as history, what users want, sending one, the delivery
statistics, and what was given up.

Works in any Django admin, and looks like django-unfold where that is installed. Owns no writing: sending calls
`services.notify`, sending again `deliveries.reopen`, and dead letters are moved by `realtime.streams`.
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
