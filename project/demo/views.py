"""
The pages of the demo shop. They show the one line that a project adds to its own views: `notify(…)`.

Owns pages, sign-in and placing orders. Does not own changes of an order's status (receivers) nor receipts (tasks).
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
from project.demo.tasks import ask_for_receipt

__all__ = ["Login", "Logout", "place_order", "show_orders", "show_receipt", "show_shop"]

# The most orders on the page; the newest are shown.
ORDERS_LIMIT = 50
# seed_demo_users creates them, only with DEBUG on.
DEMO_USERS = ("alice", "bob")


class Login(LoginView):
    """The login page. With DEBUG on, it offers the demo users."""

    template_name = "demo/login.html"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(demo_users=DEMO_USERS if settings.DEBUG else (), **kwargs)


class Logout(LogoutView):
    """Signs the user out on POST, and redirects to the shop."""


@require_safe
def show_shop(request: HttpRequest) -> HttpResponse:
    """The products. Each has a form with the key of the next order."""
    goods = [(product, uuid.uuid4()) for product in Product.objects.all()]
    return render(request, "demo/shop.html", {"goods": goods, "stops": Order.STOPS})


@require_safe
@login_required
@never_cache
def show_orders(request: HttpRequest) -> HttpResponse:
    """The customer's orders, newest first, each with its steps."""
    orders = Order.objects.filter(customer_id=request.user.pk).select_related("product")[:ORDERS_LIMIT]
    return render(request, "demo/orders.html", {"orders": orders, "stops": Order.STOPS, "show_hint": settings.DEBUG})


@require_safe
@login_required
@never_cache
def show_receipt(request: HttpRequest, order_id: int) -> HttpResponse:
    """The receipt of the customer's order. If there is none yet, ask a worker for it, and say that it comes later."""
    order = get_object_or_404(Order, pk=order_id, customer_id=request.user.pk)
    if order.receipt:
        return HttpResponse(order.receipt, content_type="text/plain; charset=utf-8")
    ask_for_receipt(order.pk)
    return render(request, "demo/receipt_later.html", {"order": order}, status=HTTPStatus.ACCEPTED)


@require_POST
@login_required
def place_order(request: HttpRequest, product_id: int) -> HttpResponse:
    """
    Place an order for one product, and notify the customer in the same transaction.

    If the customer already has an order with this `key`, no other order is placed. So a client that did not get the
    answer may send the form again.
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
            transaction.on_commit(lambda: ask_for_receipt(order.pk))
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
