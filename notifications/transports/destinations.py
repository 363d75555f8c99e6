"""
Disables users' addresses when their provider answers that they no longer exist.

Owns disabling each address once, and the signal to the project. Does not own adding addresses (preferences) or
interpreting answers (the transports). All functions are sync: call them in a thread.
"""

from django.db import router
from django.utils import timezone

from notifications.database.transactions import write_transaction
from notifications.models import REASON_LIMIT, Destination, PushSubscription
from notifications.signals import address_gone

__all__ = ["disable_destination", "forget_browser"]


def disable_destination(pk: int, reason: str) -> None:
    """Disable a destination. It is kept, with the reason, so that its owner and staff can see it."""
    database = router.db_for_write(Destination)
    with write_transaction(database):
        row = Destination.objects.using(database).select_for_update().filter(pk=pk, disabled_at=None).first()
        if row is None:
            return
        row.disabled_at, row.disabled_reason = timezone.now(), reason[:REASON_LIMIT]
        row.save(using=database, update_fields=["disabled_at", "disabled_reason"])
    _send_signal(row, row.transport, reason)


def forget_browser(pk: int, transport: str, reason: str) -> None:
    """Delete a push subscription. A browser that returns makes a new one."""
    database = router.db_for_write(PushSubscription)
    with write_transaction(database):
        row = PushSubscription.objects.using(database).select_for_update().filter(pk=pk).first()
        if row is None:
            return
        PushSubscription.objects.using(database).filter(pk=pk).delete()
    _send_signal(row, transport, reason)


def _send_signal(row: Destination | PushSubscription, transport: str, reason: str) -> None:
    address_gone.send_robust(sender=type(row), address=row, user_id=row.user_id, transport=transport, reason=reason)
