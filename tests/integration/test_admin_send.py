"""Sending a notification from the admin: who may, to whom, and what is said of what became of it."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth.models import User
from django.test import Client

from notifications.content.envelope import KIND_LIMIT, MESSAGE_LIMIT, TITLE_LIMIT, URL_LIMIT
from notifications.models import Event
from realtime import conf
from realtime.redis.keys import Keys
from tests.support.domain import make_users, recipients_on_stream
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page

pytestmark = pytest.mark.django_db

SEND = "/admin/notifications/event/send/"
AUTOCOMPLETE = "/admin/autocomplete/?app_label=notifications&model_name=notification&field_name=recipient&term="


@pytest.fixture
def away(signalbox: Any) -> Iterator[None]:
    """An unavailable Redis."""
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        yield
        conf.sync_redis().close()


def filled(users: list[User], **fields: str) -> dict[str, Any]:
    """The form as a browser sends it."""
    return {
        "recipients": [user.pk for user in users],
        "message": "The office closes at noon.",
        "kind": "info",
        "title": "",
        "url": "",
        "token": str(uuid.uuid4()),
        **fields,
    }


def errors(html: str) -> dict[str, str]:
    """The errors of the form, by field."""
    found = {}
    for field, text in re.findall(r'<ul class="errorlist[^"]*" id="id_(\w+)_error">(.*?)</ul>', html, re.DOTALL):
        found[field] = re.sub(r"<[^>]+>|\s+", " ", text).strip()
    return found


@pytest.mark.django_db(transaction=True)
def test_the_form_notifies_each_recipient_with_the_user_as_actor(
    signalbox: Any, admin_client: Client, admin_user: User, redis_client: redis.Redis, keys: Keys
) -> None:
    """An event with its actor, an entry on the stream for each recipient, a log entry, and a link to the event."""
    users = make_users(3)
    form = filled(users[:2], title="Holiday", url="/calendar", kind="office.hours")
    text = admin_client.post(SEND, form, follow=True).content.decode()
    event = Event.objects.get()
    assert (event.actor, event.title, event.message) == (admin_user, "Holiday", "The office closes at noon.")
    assert (event.url, event.kind) == ("/calendar", "office.hours")
    assert recipients_on_stream(redis_client, keys) == [user.pk for user in users[:2]]
    assert f'href="/admin/notifications/event/{event.pk}/change/">Holiday</a>” is on its way to 2 recipients.' in text
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.action_flag) == (admin_user, str(event.pk), ADDITION)


@pytest.mark.django_db(transaction=True)
def test_without_redis_the_event_stays_in_the_outbox(away: None, admin_client: Client) -> None:
    """The event is committed, and the page says that it waits."""
    text = admin_client.post(SEND, filled(make_users(1)), follow=True).content.decode()
    assert "is saved for 1 recipient and waits in the outbox" in text
    assert Event.objects.get().published_at is None


def test_a_second_click_sends_nothing_twice_but_a_changed_form_is_another_event(
    signalbox: Any, admin_client: Client
) -> None:
    """The form's token and its content identify the event."""
    users = make_users(2)
    form = filled(users[:1])
    for _ in range(2):
        admin_client.post(SEND, form)
    assert Event.objects.count() == 1
    admin_client.post(SEND, {**form, "message": "The office closes at one."})
    admin_client.post(SEND, {**form, "recipients": [users[1].pk]})
    assert Event.objects.count() == 3
    first, second = (re.search(r'name="token" value="([^"]+)"', page(admin_client, SEND)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("message", "x" * (MESSAGE_LIMIT + 1), str(MESSAGE_LIMIT)),
        ("message", "", "required"),
        ("message", " \n ", "say what happened"),
        ("message", "bell \x07", "control character"),
        ("title", "x" * (TITLE_LIMIT + 1), str(TITLE_LIMIT)),
        ("title", "two\x0blines", "control character"),
        ("url", "/" + "x" * URL_LIMIT, str(URL_LIMIT)),
        ("url", "javascript:alert(1)", "must be a path"),
        ("url", "//evil.example", "must be a path"),
        ("kind", "Not a kind!", "use one or more of"),
        ("kind", "k" * (KIND_LIMIT + 1), str(KIND_LIMIT)),
        ("recipients", "987654", "is not a user who can be chosen"),
        ("recipients", "", "required"),
    ],
)
def test_errors_are_shown_at_their_fields_and_nothing_is_sent(
    signalbox: Any, admin_client: Client, field: str, value: str, problem: str
) -> None:
    """The limits of the form and of notify(). The input is kept."""
    form = filled(make_users(1), **{field: value})
    if field == "recipients" and not value:
        del form["recipients"]
    html = admin_client.post(SEND, form).content.decode()
    found = errors(html)
    assert set(found) == {field}
    assert problem in found[field]
    assert "Nothing was sent" in html
    assert not Event.objects.exists()
    assert not LogEntry.objects.exists()


def test_all_errors_are_shown_at_once(signalbox: Any, admin_client: Client) -> None:
    """The limits of the form and of notify(): four mistakes do not need four tries."""
    form = filled([], message="x" * (MESSAGE_LIMIT + 100), title="bell \x07", url="javascript:1", kind="Not a kind!")
    found = errors(admin_client.post(SEND, form).content.decode())
    assert set(found) == {"recipients", "message", "title", "url", "kind"}
    assert str(MESSAGE_LIMIT) in found["message"]
    assert "must be a path" in found["url"]
    assert not Event.objects.exists()


def test_too_many_recipients_are_an_error_of_that_field(signalbox: Any, admin_client: Client) -> None:
    """The limit of notify() is shown at the field."""
    signalbox.NOTIFICATIONS = {"MAX_RECIPIENTS": 2}
    html = admin_client.post(SEND, filled(make_users(3))).content.decode()
    assert "more than 2 recipients" in errors(html)["recipients"]
    assert not Event.objects.exists()


def test_only_who_may_add_events_sends(signalbox: Any) -> None:
    """The permission to view is not enough. A user who may send but not view gets a message without a link."""
    users = make_users(1)
    viewer, sender, visitor = make_staff("view_event"), make_staff("add_event", "view_user"), Client()
    assert viewer.get(SEND).status_code == 403
    assert viewer.post(SEND, filled(users)).status_code == 403
    assert visitor.post(SEND, filled(users)).status_code == 302
    assert not Event.objects.exists()
    response = sender.post(SEND, filled(users), follow=True)
    assert response.redirect_chain == [(SEND, 302)]
    assert "The office closes at noon." in response.content.decode()
    assert f"/{Event.objects.get().pk}/change/" not in response.content.decode()


def test_recipients_are_found_by_typing(admin_client: Client) -> None:
    """Twenty at a time, by a part of the name or address. It needs the permission to view users."""
    make_users(30)
    carol = User.objects.create_user("carol", email="carol@example.com")
    found = admin_client.get(AUTOCOMPLETE + "aro").json()
    assert found == {"results": [{"id": str(carol.pk), "text": "carol"}], "pagination": {"more": False}}
    assert admin_client.get(AUTOCOMPLETE + "l@example.com").json()["results"][0]["text"] == "carol"
    many = admin_client.get(AUTOCOMPLETE + "user").json()
    assert len(many["results"]) == 20
    assert many["pagination"]["more"]
    assert make_staff("view_user").get(AUTOCOMPLETE + "carol").status_code == 200
    assert make_staff("add_event").get(AUTOCOMPLETE + "carol").status_code == 403


def test_the_form_never_lists_all_users(admin_client: Client) -> None:
    """The page contains only the chosen ones, for any number of users."""
    users = make_users(50)
    assert ">user7<" not in page(admin_client, SEND)
    html = admin_client.post(SEND, filled(users[6:7], kind="")).content.decode()
    assert re.search(r"<option[^>]*selected[^>]*>\s*user7\s*</option>", html)
    assert len(re.findall(r"<option", html)) == 1
