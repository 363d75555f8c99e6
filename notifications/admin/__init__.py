"""
The admin of notifications: events, notifications and deliveries as history, what users want, sending one, and the
delivery statistics.

Works in any Django admin, and looks like django-unfold where that is installed. Owns no writing: sending calls
`services.notify`.
"""

from notifications.admin.deliveries import DeliveryAdmin, DestinationAdmin, PreferenceAdmin, PushSubscriptionAdmin
from notifications.admin.events import AdminPage, EventAdmin
from notifications.admin.notifications import NotificationAdmin

__all__ = [
    "AdminPage",
    "DeliveryAdmin",
    "DestinationAdmin",
    "EventAdmin",
    "NotificationAdmin",
    "PreferenceAdmin",
    "PushSubscriptionAdmin",
]
