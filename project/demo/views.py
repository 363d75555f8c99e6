"""
The demo shop's pages.

Owns what a customer sees and does. Shows the one line that a project adds to its own views: `notify(…)`.
"""

import uuid
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import BadRequest
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from notifications.services import notify
from project.demo.models import Order, Product

__all__ = ["Login", "Logout", "place_order", "show_orders", "show_shop"]

# The page shows a customer's newest.
ORDERS_LIMIT = 50
# Made by seed_demo_users, with DEBUG on only.
DEMO_USERS = ("alice", "bob")


class Login(LoginView):
    """The login page; with DEBUG on it offers the demo users."""

    template_name = "demo/login.html"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(demo_users=DEMO_USERS if settings.DEBUG else (), **kwargs)


class Logout(LogoutView):
    """Signs out by POST, and leads to the shop."""


@require_safe
def show_shop(request: HttpRequest) -> HttpResponse:
    """The products. The form of each one has a key for the next order."""
    goods = [(product, uuid.uuid4()) for product in Product.objects.all()]
    return render(request, "demo/shop.html", {"goods": goods, "stops": Order.STOPS})


@require_safe
@login_required
@never_cache
def show_orders(request: HttpRequest) -> HttpResponse:
    """The customer's own orders, newest first, each with the stops of its way."""
    orders = Order.objects.filter(customer_id=request.user.pk).select_related("product")[:ORDERS_LIMIT]
    return render(request, "demo/orders.html", {"orders": orders, "stops": Order.STOPS, "show_hint": settings.DEBUG})


@require_POST
@login_required
def place_order(request: HttpRequest, product_id: int) -> HttpResponse:
    """
    Order one product. The customer is told in the same transaction: neither happens without the other.

    If the customer has an order with this `key` already, no further one is placed: a client that did not get the answer
    may send the form again.
    """
    product = get_object_or_404(Product, pk=product_id)
    key = _key(request.POST.get("key", ""))
    with transaction.atomic():
        order, is_new = _get_or_place(key, customer_id=request.user.pk, product=product, price=product.price)
        if is_new:
            notify(
                request.user,
                f"Thank you! We have your order: {product.name}.",
                kind="order.placed",
                title=f"Order {order.pk}",
                url=order.get_absolute_url(),
                data={"order": order.pk, "status": order.status, "label": order.get_status_display()},
            )
    if request.accepts("text/html"):
        return HttpResponseRedirect(order.get_absolute_url())
    answer = {"order": order.pk, "url": order.get_absolute_url(), "next_key": uuid.uuid4()}
    return JsonResponse(answer, status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


def _get_or_place(key: uuid.UUID | None, *, customer_id: Any, **fields: Any) -> tuple[Order, bool]:
    if key is None:
        return Order.objects.create(customer_id=customer_id, **fields), True
    return Order.objects.get_or_create(customer_id=customer_id, key=key, defaults=fields)


def _key(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise BadRequest(f"{text[:40]!r} is not the key of an order: it must be a UUID") from None
