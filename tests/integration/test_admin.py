"""The admin of notifications: history that nobody rewrites, in lists that stay quick."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications.admin import history
from notifications.admin.states import STATES, state_of
from notifications.models import Event, Notification
from tests.support.domain import make_users
from tests.support.staff import make_staff, page

pytestmark = pytest.mark.django_db

EVENTS = "/admin/notifications/event/"
NOTIFICATIONS = "/admin/notifications/notification/"


def tell(
    users: list[User], message: str = "Your order is on its way!", *, published: bool = True, **fields: Any
) -> Event:
    """An event and its notifications, as rows."""
    event = Event.objects.create(message=message, published_at=timezone.now() if published else None, **fields)
    Notification.objects.bulk_create(Notification(event=event, recipient=user) for user in users)
    return event


def rows(client: Client, url: str) -> list[str]:
    """The texts of the rows of a list, without tags."""
    found = re.findall(r'<tr class="[^"]*">(.*?)</tr>|<tr>(.*?)</tr>', page(client, url), re.DOTALL)
    texts = [re.sub(r"<[^>]+>|\s+", " ", "".join(row)).strip() for row in found if "<td" in "".join(row)]
    return [re.sub(r" +", " ", text) for text in texts]


def queries_of(client: Client, url: str) -> int:
    """How many queries the page at `url` takes when it is not the first."""
    page(client, url)
    with CaptureQueriesContext(
        connection,
    ) as captured:
        page(client, url)
    return len(captured)


def test_the_list_of_events_shows_content_recipients_and_publication(admin_client: Client) -> None:
    """One row for each event: title and message, kind, actor, recipients, publication."""
    users = make_users(3)
    tell(users, title="Order", kind="order.shipped", actor=users[0])
    tell([], "Nobody hears this", published=False)
    newest, oldest = rows(admin_client, EVENTS)
    assert "Nobody hears this info - 0 in the outbox" in newest
    assert "Order: Your order is on its way! order.shipped user1 3 published" in oldest


def test_long_messages_are_clipped_in_lists(admin_client: Client) -> None:
    """A row shows the beginning, on one line."""
    tell([], "First line\nsecond line " + "word " * 700)
    (row,) = rows(admin_client, EVENTS)
    assert "First line second line word" in row
    assert len(row) < 200


def test_lists_take_as_many_queries_for_many_rows_as_for_one(admin_client: Client) -> None:
    """No query for each row: neither for counts, nor for users, nor for events."""
    users = make_users(10)
    tell(users[:1], actor=users[0])
    few = [queries_of(admin_client, url) for url in (EVENTS, NOTIFICATIONS)]
    for number in range(20):
        tell(users, f"m{number}", actor=users[number % 10])
    assert [queries_of(admin_client, url) for url in (EVENTS, NOTIFICATIONS)] == few


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        ("parcel", ["The parcel waits"]),
        ("HARBOUR", ["Ship sails"]),
        ("key-7", ["Has one"]),
        ("key", []),
        ("carol", ["Ship sails"]),
        ("carol@", ["Ship sails"]),
        ("parcel waits", ["The parcel waits"]),
        ("parcel sails", []),
        ("", ["Has one", "Ship sails", "The parcel waits"]),
    ],
)
def test_events_are_found_by_text_key_and_recipient(admin_client: Client, query: str, messages: list[str]) -> None:
    """Every word must be found somewhere: in title or message, as the whole key, at the beginning of a recipient."""
    carol = User.objects.create_user("carol", email="carol@example.com")
    tell(make_users(2), "The parcel waits")
    tell([carol], "Ship sails", title="From the harbour")
    tell([], "Has one", idempotency_key="key-7")
    found = rows(admin_client, f"{EVENTS}?q={query}")
    assert len(found) == len(messages)
    assert all(message in row for message, row in zip(messages, found, strict=True))


@pytest.mark.parametrize(
    ("query", "recipients"),
    [
        ("carol", ["carol"]),
        ("carol@", ["carol"]),
        ("aro", []),
        ("ship", ["carol"]),
        ("harbour", ["carol"]),
        ("waits", ["user1"]),
    ],
)
def test_notifications_are_found_by_recipient_and_text(admin_client: Client, query: str, recipients: list[str]) -> None:
    """At the beginning of a name or address, anywhere in title or message."""
    carol = User.objects.create_user("carol", email="carol@example.com")
    tell(make_users(1), "The parcel waits")
    tell([carol], "Ship sails", title="From the harbour")
    found = rows(admin_client, f"{NOTIFICATIONS}?q={query}")
    assert [row.split()[0] for row in found] == recipients


def test_events_are_filtered(admin_client: Client, settings: Any) -> None:
    """By kind, by publication, by day."""
    zone = "Z" if settings.USE_TZ else ""
    tell([], "one", kind="order.placed")
    tell([], "two", kind="info", published=False)
    Event.objects.filter(message="one").update(created_at=timezone.now() - timedelta(days=40))
    for filters, message in (
        ("kind=order.placed", "one"),
        ("kind=info", "two"),
        ("state=published", "one"),
        ("state=outbox", "two"),
        (f"created_at__gte={timezone.now():%Y-%m-%d}+00:00:00{zone}", "two"),
    ):
        (row,) = rows(admin_client, f"{EVENTS}?{filters}")
        assert message in row
    assert "order.placed" in page(admin_client, EVENTS)


def test_a_notification_is_in_exactly_one_state_the_furthest_it_has_reached(admin_client: Client) -> None:
    """Badge and filter agree, for every combination of times."""
    users = make_users(32)
    tell(users)
    fields = ("relayed_at", "seen_at", "read_at", "archived_at", "replaced_at")
    for number, notification in enumerate(Notification.objects.order_by("pk")):
        times = {field: timezone.now() for bit, field in enumerate(fields) if number & 1 << bit}
        Notification.objects.filter(pk=notification.pk).update(**times)
    listed = []
    for state in STATES:
        names = [row.split()[0] for row in rows(admin_client, f"{NOTIFICATIONS}?state={state.key}")]
        for notification in Notification.objects.select_related("recipient"):
            assert (state_of(notification) is state) == (notification.recipient.username in names)
        assert all(state.label in row for row in rows(admin_client, f"{NOTIFICATIONS}?state={state.key}"))
        listed += names
    assert sorted(listed) == sorted(user.username for user in users)


def test_a_list_counts_only_the_rows_that_it_shows(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of millions of rows does not count all, and says that it shows the latest only."""
    tell(make_users(7))
    assert "Only the latest rows" not in page(admin_client, NOTIFICATIONS)
    monkeypatch.setattr(history, "COUNT_LIMIT", 5)
    text = page(admin_client, NOTIFICATIONS)
    assert "Only the latest rows" in text
    assert re.search(r"\b5\s+notifications", text)


@pytest.mark.parametrize("url", [EVENTS, NOTIFICATIONS])
def test_nobody_adds_or_changes_history(admin_client: Client, url: str) -> None:
    """Not even a superuser: the pages show, and take no form."""
    event = tell(make_users(1))
    row = event if url == EVENTS else event.notifications.get()
    assert admin_client.get(f"{url}add/").status_code == 403
    assert admin_client.post(f"{url}add/", {}).status_code == 403
    assert admin_client.post(f"{url}{row.pk}/change/", {"message": "other", "kind": "x"}).status_code == 403
    text = page(admin_client, f"{url}{row.pk}/change/")
    assert 'name="message"' not in text
    assert "_save" not in text
    event.refresh_from_db()
    assert event.message == "Your order is on its way!"


def test_deleting_an_event_deletes_its_notifications() -> None:
    """The confirmation counts related rows instead of listing thousands."""
    event = tell(make_users(60))
    assert make_staff("view_event").post(f"{EVENTS}{event.pk}/delete/", {"post": "yes"}).status_code == 403
    client = make_staff("view_event", "delete_event")
    text = page(client, f"{EVENTS}{event.pk}/delete/")
    assert re.search(r"Notifications: 60", text)
    assert "user60" not in text
    client.post(f"{EVENTS}{event.pk}/delete/", {"post": "yes"})
    assert not Event.objects.exists()
    assert not Notification.objects.exists()


def test_an_event_shows_its_first_recipients_and_links_to_all(admin_client: Client) -> None:
    """A thousand recipients need as many queries as fifty. The states of all are counted."""
    users = make_users(1000)
    event = tell(users[:50])
    few = queries_of(admin_client, f"{EVENTS}{event.pk}/change/")
    event = tell(users, title="<b>Big</b>", data={"order": 7, "note": "<i>", "api_key": "hunter2"}, url="/orders/7")
    event.notifications.filter(recipient__in=users[:300]).update(seen_at=timezone.now())
    assert queries_of(admin_client, f"{EVENTS}{event.pk}/change/") == few
    text = page(admin_client, f"{EVENTS}{event.pk}/change/")
    assert text.count('<th scope="row">') == 50
    assert "The first 50 of 1000." in text
    plain = re.sub(r"<[^>]+>|\s+", " ", text)
    assert re.search(r"300 +seen +700 +not relayed", plain)
    assert "<b>Big" not in text
    assert "&lt;i&gt;" in text
    assert "hunter2" not in text
    (link,) = re.findall(r'href="([^"]*event__id__exact=[^"]*)"', text)
    assert "1000 notifications" in re.sub(r"\s+", " ", page(admin_client, link))


def test_pages_need_the_permission_to_view() -> None:
    """Each list needs its own permission."""
    tell(make_users(1))
    events, notifications = make_staff("view_event"), make_staff("view_notification")
    assert events.get(EVENTS).status_code == 200
    assert events.get(NOTIFICATIONS).status_code == 403
    assert notifications.get(NOTIFICATIONS).status_code == 200
    assert notifications.get(EVENTS).status_code == 403


def test_pages_are_linked_for_those_who_may_open_them(admin_client: Client) -> None:
    """From the list of events and from the index."""
    viewer = make_staff("view_event")
    for url in ("/admin/", EVENTS):
        assert f'href="{EVENTS}send/"' in page(admin_client, url)
        assert f'href="{EVENTS}statistics/"' in page(admin_client, url)
        assert f'href="{EVENTS}send/"' not in page(viewer, url)
        assert f'href="{EVENTS}statistics/"' in page(viewer, url)


@pytest.mark.parametrize("url", ["/admin/", "/admin/login/", EVENTS, "/admin/notifications/event/statistics/"])
def test_only_the_admin_has_a_relaxed_policy(signalbox: Any, admin_client: Client, url: str) -> None:
    """Compiled expressions and style attributes there, nothing inline; the rest of the site keeps the strict policy."""
    response = (Client() if "login" in url else admin_client).get(url)
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval';" in policy
    assert "style-src 'self';" in policy
    assert "frame-ancestors 'self'" in policy
    text = response.content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>", text)
    assert not re.search(r"<style|\son[a-z]+=\"", text)
    strict = Client().get("/login/").headers["Content-Security-Policy"]
    assert "unsafe" not in strict
    assert "frame-ancestors 'none'" in strict
