"""Deleting a user who has very many notifications: they are counted and not listed, and all of them go."""

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from notifications import services
from notifications.events import prune
from notifications.models import Delivery, Destination, Event, Notification
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]
COUNT = 300


@pytest.fixture
def url(alice: User, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where alice is deleted; she has 300 notifications, each with a delivery, and an address."""
    monkeypatch.setattr(prune, "BATCH_SIZE", 100)
    events = Event.objects.bulk_create(Event(message=f"message-{number}") for number in range(COUNT))
    told = Notification.objects.bulk_create(Notification(event=event, recipient=alice) for event in events)
    Delivery.objects.bulk_create(Delivery(notification=each, transport="console") for each in told)
    Destination.objects.create(user=alice, transport="webhook", address="https://hooks.example/hunter2")
    return f"/admin/auth/user/{alice.pk}/delete/"


def test_the_page_counts_them(admin_client: Client, alice: User, bob: User, url: str) -> None:
    """However many there are, it stays small, and takes the same number of queries."""
    services.notify(bob, "stays")
    with CaptureQueriesContext(connection) as queries:
        text = page(admin_client, url)
    assert "message-" not in text
    assert "hunter2" not in text
    assert f"Notifications: {COUNT}" in text
    assert f"Deliveries: {COUNT}" in text
    assert "User: " in text
    # Fewer than one for ten of them.
    assert len(queries) < COUNT / 10


def test_all_of_them_are_deleted_and_those_of_others_stay(
    admin_client: Client, alice: User, bob: User, url: str
) -> None:
    """In batches."""
    services.notify(bob, "stays")
    assert admin_client.post(url, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=alice.pk).exists()
    assert [each.recipient for each in Notification.objects.select_related("recipient")] == [bob]
    assert not Destination.objects.exists()


# unfold overrides a method of Django's whose signature has changed.
@pytest.mark.filterwarnings("ignore:Overriding get_action_choices")
def test_several_users_at_once(admin_client: Client, alice: User, bob: User, url: str) -> None:
    """By the action of the list."""
    services.notify(bob, "goes too")
    action = {"action": "delete_selected", "_selected_action": [alice.pk, bob.pk]}
    listed = admin_client.post("/admin/auth/user/", action).content.decode()
    assert f"Notifications: {COUNT + 1}" in listed
    assert admin_client.post("/admin/auth/user/", {**action, "post": "yes"}).status_code == 302
    assert not Notification.objects.exists()


def test_deleting_a_user_needs_the_permission_to_delete_notifications(url: str) -> None:
    """As Django has it."""
    client = make_staff("view_user", "delete_user")
    assert "notification" in page(client, url)
    assert client.post(url, {"post": "yes"}).status_code == 403
    assert User.objects.filter(username="alice").exists()


def test_deleting_a_user_needs_the_permission_to_delete_deliveries(url: str) -> None:
    """They are deleted with the notifications. The page names the missing permission."""
    client = make_staff("view_user", "delete_user", "delete_notification", "delete_destination")
    text = page(client, url)
    assert "permission to delete" in text
    assert "delivery" in text
    assert client.post(url, {"post": "yes"}).status_code == 403
    assert Delivery.objects.count() == COUNT
