"""
The demo's background task: it makes the receipt of an order, and notifies the customer.

Owns when a receipt is made, and who is told. Does not own its text (templates/demo/receipt.txt) nor its page (views).
"""

import logging
from decimal import ROUND_HALF_UP, Decimal

from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse

from notifications.services import notify
from project.demo.models import Order
from realtime.exceptions import TasksUnavailable
from realtime.tasks.django_api import task

__all__ = ["ask_for_receipt", "make_receipt"]

logger = logging.getLogger(__name__)

VAT_PERCENT = 20
CENT = Decimal("0.01")


@task
def make_receipt(order_id: int) -> str:
    """
    Make the receipt of an order, once: a task may run twice, for example if its worker dies at its end.

    Returns:
        Where the receipt is.
    """
    order = Order.objects.select_related("customer", "product").get(pk=order_id)
    url = reverse("receipt", args=[order_id])
    tax = (order.price * VAT_PERCENT / (100 + VAT_PERCENT)).quantize(CENT, ROUND_HALF_UP)
    text = render_to_string(
        "demo/receipt.txt", {"order": order, "net": order.price - tax, "tax": tax, "tax_name": f"VAT {VAT_PERCENT} %"}
    )
    with transaction.atomic():
        # The task that changes the row is the only one that notifies.
        if Order.objects.filter(pk=order_id, receipt="").update(receipt=text):
            notify(
                order.customer_id,
                f"Your receipt is ready: {order.product.name}.",
                kind="receipt.ready",
                title=f"Order {order_id}",
                url=url,
                data={"order": order_id, "receipt": url},
            )
    return url


def ask_for_receipt(order_id: int) -> None:
    """
    Let a worker make the receipt of an order that is committed. While an earlier request waits, nothing is added.

    If Redis is unavailable, the order is not at fault: the customer can ask again, on the page of the receipt.
    """
    try:
        request = make_receipt.using(max_attempts=5, backoff=2, unique_key="{order_id}", enqueue_on_commit=False)
        request.enqueue(order_id)
    except TasksUnavailable as error:
        logger.warning("the receipt of order %s was not requested: %s", order_id, error)
