"""Every list of the admin, a form with actions, and the pages beside the lists open."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from notifications.models import Delivery, Event, Notification
from notifications.services import notify

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff(signalbox: Any) -> Client:
    """Somebody who may see everything, and one notification with a delivery that failed."""
    user = User.objects.create_superuser("carol")
    notify(user, "Lunch is served")
    Delivery.objects.create(notification=Notification.objects.get(), transport="console", state=Delivery.State.FAILED)
    client = Client()
    client.force_login(user)
    return client


def test_every_page_of_the_admin_opens(staff: Client) -> None:
    """With one row of each list where notify() makes one."""
    addresses = [reverse("admin:index")]
    for model, pages in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        addresses.append(reverse(f"{name}_changelist"))
        if row := model._default_manager.first():
            addresses.append(reverse(f"{name}_change", args=[row.pk]))
        if model in (Event, Delivery):
            addresses += [page.url for page in pages.pages(staff.get(addresses[0]).wsgi_request)]  # type: ignore[attr-defined]
    assert {address: staff.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)
    assert "Lunch is served" in staff.get(reverse("admin:notifications_event_changelist")).content.decode()


def test_an_action_runs(staff: Client) -> None:
    """Django 6.1 looks actions up by where they stand, and earlier ones do not."""
    chosen = {"action": "resend", "_selected_action": [Delivery.objects.get().pk]}
    page = staff.post(reverse("admin:notifications_delivery_changelist"), chosen, follow=True)
    assert page.status_code == 200
    assert Delivery.objects.get().state == Delivery.State.PENDING
