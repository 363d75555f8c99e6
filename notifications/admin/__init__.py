"""
The admin of notifications: events and notifications as history, sending one, and the delivery statistics.

Works in any Django admin, and looks like django-unfold where that is installed. Owns no writing: sending calls
`services.notify`.
"""

from notifications.admin.events import AdminPage, EventAdmin
from notifications.admin.notifications import NotificationAdmin

__all__ = ["AdminPage", "EventAdmin", "NotificationAdmin"]
