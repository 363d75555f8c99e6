"""
Notifies a customer when the status of their order changes, by the admin, a shell or a task.

Owns the messages. Does not own the notification of a new order (views).
"""

from typing import Any

from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from notifications.services import notify
from project.demo.models import Order

__all__ = ["notify_customer", "remember_status"]

MESSAGES = {
    Order.Status.PLACED: "We have put your order back to the start: {product}.",
    Order.Status.PACKED: "Packed and labelled: {product}.",
    Order.Status.ON_ITS_WAY: "Your order is on its way! {product} left our shed.",
    Order.Status.DELIVERED: "Delivered: {product}. Enjoy it.",
    Order.Status.CANCELLED: "Your order was cancelled: {product}. You pay nothing.",
}


@receiver(pre_save, sender=Order)
def remember_status(sender: type[Order], instance: Order, raw: bool = False, **kwargs: Any) -> None:
    """Set `status_before` to the status in the database before this save; None for a new order."""
    stored = Order.objects.filter(pk=instance.pk).values_list("status", flat=True)
    instance.status_before = None if raw or instance.pk is None else stored.first()


@receiver(post_save, sender=Order)
def notify_customer(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    """Notify the customer if this save has changed the status, in the same transaction as the change."""
    update_fields = kwargs["update_fields"]
    is_saved = update_fields is None or "status" in update_fields
    if not is_saved or instance.status_before in (None, instance.status):
        return
    notify(
        instance.customer_id,
        MESSAGES[Order.Status(instance.status)].format(product=instance.product.name),
        kind=f"order.{instance.status}",
        title=f"Order {instance.pk}",
        url=instance.get_absolute_url(),
        data={"order": instance.pk, "status": instance.status, "label": instance.get_status_display()},
    )
