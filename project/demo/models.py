"""The products and orders of the demo shop. Owns the states of an order. Does not own notifications (receivers)."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

__all__ = ["Order", "Product"]


class Product(models.Model):
    """A product of the shop."""

    name = models.CharField(max_length=80)
    description = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=7, decimal_places=2)
    # The id of its drawing in static/demo/goods.svg.
    drawing = models.SlugField(max_length=32)

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """One product, ordered by one customer."""

    class Status(models.TextChoices):
        """The steps of an order, in order; or cancelled."""

        PLACED = "placed", "Placed"
        PACKED = "packed", "Packed"
        ON_ITS_WAY = "on_its_way", "On its way"
        DELIVERED = "delivered", "Delivered"
        CANCELLED = "cancelled", "Cancelled"

    STOPS: ClassVar = (Status.PLACED, Status.PACKED, Status.ON_ITS_WAY, Status.DELIVERED)

    customer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="orders")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    # The form contains it. If the form is sent twice because the first answer was lost, there is still one order.
    key = models.UUIDField(null=True, editable=False)
    # The product's price when the order was placed.
    price = models.DecimalField(max_digits=7, decimal_places=2)
    status = models.CharField(max_length=16, choices=Status, default=Status.PLACED)
    # A text that a background task makes; empty until then.
    receipt = models.TextField(default="", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    # During a save: the status in the database before it; None for a new order. Set by receivers.py.
    status_before: str | None = None

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["customer", "key"], name="demo_order_key")]

    def __str__(self) -> str:
        return f"Order {self.pk}"

    def get_absolute_url(self) -> str:
        """The order on its customer's page of orders."""
        return f"{reverse('orders')}#order-{self.pk}"
