"""Staff disconnect users from the admin of users."""

from typing import Any

import pytest
from channels.db import database_sync_to_async as in_thread
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from realtime import access
from realtime.admin import disconnect_users
from realtime.protocol.close_codes import CloseCode
from tests.integration.clients import Connect
from tests.support.staff import make_staff, page

pytestmark = pytest.mark.django_db(transaction=True)

USERS = "/admin/auth/user/"


def press(client: Client, *users: User) -> str:
    """Select users, run the action, and return the next page."""
    form = {"action": "disconnect_users", "_selected_action": [user.pk for user in users]}
    return client.post(USERS, form, follow=True).content.decode()


async def test_staff_end_the_connections_of_the_users_they_select(
    connect: Connect, alice: User, bob: User, db: None
) -> None:
    """And of no others. Each is logged in the admin."""
    staff = await in_thread(make_staff)("view_user", "change_user")
    hers, his = await connect(alice), await connect(bob)
    for client in (hers, his):
        await client.greeted()
    answer = await in_thread(press)(staff, alice)
    assert "1 user was disconnected, in 1 web process." in answer
    assert (await hers.closed())["code"] == CloseCode.DISCONNECTED
    assert await his.answer(type="ping") == {"type": "pong"}
    (entry,) = [each async for each in LogEntry.objects.all()]
    assert (entry.object_id, entry.get_change_message()) == (str(alice.pk), "Disconnected.")


def test_the_action_needs_a_permission(signalbox: Any, alice: User) -> None:
    """Neither on the page nor by a forged request."""
    staff = make_staff("view_user")
    assert "disconnect_users" not in page(staff, USERS)
    assert "disconnected" not in press(staff, alice)
    assert not LogEntry.objects.exists()
    assert "Disconnect the selected users" in page(make_staff("view_user", "change_user"), USERS)


def test_errors_are_shown(signalbox: Any, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many users at a time, and an outage of Redis."""
    staff = make_staff("view_user", "change_user")
    monkeypatch.setattr("realtime.admin.users.USERS_LIMIT", 1)
    assert "at most 1 users can be disconnected" in press(staff, *User.objects.all())
    monkeypatch.undo()
    layers = {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]}}
    signalbox.CHANNEL_LAYERS = {"default": layers}
    assert "Nobody was disconnected: the web processes could not be notified" in press(staff, alice)
    assert not LogEntry.objects.exists()


def test_the_projects_own_admin_of_users_names_the_action_once() -> None:
    """It is registered after this app's."""
    actions = list(admin.site.get_model_admin(User).actions)
    assert actions == [disconnect_users]
    assert access.USERS_LIMIT == 1_000
