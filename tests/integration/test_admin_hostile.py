"""Staff who try more than they may: no URL can filter by masked data, and no error names a user."""

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from notifications import services
from notifications.models import Delivery, Event
from tests.support.domain import make_users
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]
ADMIN = "/admin/notifications"
SEND = f"{ADMIN}/event/send/"


@pytest.mark.parametrize(
    ("permission", "question"),
    [
        ("view_event", "event/?data__reset__token__startswith=s"),
        ("view_event", "event/?data__contains=x"),
        ("view_event", "event/?message__contains=x"),
        ("view_event", "event/?actor__password__startswith=x"),
        ("view_event", "event/?notifications__deliveries__answer__contains=x"),
        ("view_delivery", "delivery/?answer__contains=token=s"),
        ("view_delivery", "delivery/?outcomes__contains=x"),
        ("view_delivery", "delivery/?notification__event__data__contains=x"),
        ("view_notification", "notification/?recipient__email__startswith=a"),
        ("view_digest", "digest/?key__startswith=a"),
        ("view_scheduled", "scheduled/?event__data__a__startswith=a"),
        ("view_destination", "destination/?user__email__startswith=a"),
        ("view_preference", "preference/?user__password__startswith=a"),
    ],
)
def test_a_url_asks_only_what_the_filters_ask(permission: str, question: str) -> None:
    """Whether the list is empty would tell it letter by letter."""
    assert make_staff(permission).get(f"{ADMIN}/{question}").status_code == 400


@pytest.mark.parametrize(
    "question",
    [
        "event/?kind=info",
        "event/?state=published",
        "event/?created_at__gte=2026-01-01 00:00:00%2B00:00&created_at__lt=2027-01-01 00:00:00%2B00:00",
        "notification/?event__id__exact=1",
        "notification/?state=seen",
        "delivery/?state=failed",
        "delivery/?state__exact=failed",
        "delivery/?transport=console",
        "delivery/?digest__id__exact=1",
        "digest/?ends_at__gte=2026-01-01 00:00:00%2B00:00",
        "scheduled/?event__id__exact=1",
        "preference/?is_wanted__exact=1",
    ],
)
def test_filters_and_links_work(admin_client: Client, question: str) -> None:
    """Those of the lists, and those between our pages."""
    page(admin_client, f"{ADMIN}/{question}")


def test_a_filter_with_a_senseless_value_is_no_failure(admin_client: Client) -> None:
    """Django leads back to the list, or shows an empty one."""
    for question in (
        "notification/?event__id__exact=x",
        f"notification/?event__id__exact={'9' * 40}",
        "event/?created_at__gte=x",
        "delivery/?state__exact=x",
        f"delivery/?digest__id__exact={'9' * 40}",
    ):
        assert admin_client.get(f"{ADMIN}/{question}").status_code in (200, 302), question


def _sent(client: Client, recipients: list[Any], message: str = "") -> str:
    """The page that answers the form."""
    form = {"recipients": recipients, "message": message, "kind": "info", "token": str(uuid.uuid4())}
    response = client.post(SEND, form)
    assert response.status_code == 200
    return response.content.decode()


class TestSendForm:
    def test_who_may_not_see_users_is_told_nothing_of_them(self) -> None:
        """Neither a name nor whether an id exists; the errors are the same."""
        carol = User.objects.create_user("carol-the-secret", email="carol@example.com")
        client = make_staff("add_event")
        known, unknown = _sent(client, [carol.pk]), _sent(client, [carol.pk + 1000])
        for text in (known, unknown):
            assert "carol" not in text
            assert "is not a user who can be chosen" in text
        assert "You need the permission to view users" in known
        assert not Event.objects.exists()

    def test_nobody_is_notified_by_who_may_not_see_users(self) -> None:
        """A form that is filled in without its page."""
        (alice,) = make_users()
        _sent(make_staff("add_event"), [alice.pk], "hello")
        assert not Event.objects.exists()

    @pytest.mark.parametrize("recipient", ["abc", "9" * 40, "-1", "1.5", "\x00", "' OR 1=1"])
    @pytest.mark.parametrize("message", ["", "hello"])
    def test_what_is_no_key_is_one_line_of_error(self, admin_client: Client, recipient: str, message: str) -> None:
        """With a valid recipient beside it, who is shown again."""
        (alice,) = make_users()
        text = _sent(admin_client, [recipient, alice.pk], message)
        assert text.count("is not a user who can be chosen") == 1
        assert f'value="{alice.pk}" selected' in text

    def test_who_may_see_users_finds_the_chosen_ones_again(self) -> None:
        """After an error elsewhere in the form."""
        (alice,) = make_users()
        assert f'value="{alice.pk}" selected' in _sent(make_staff("add_event", "view_user"), [alice.pk])


def test_deliveries_show_what_they_are_of_in_the_words_of_the_statistics(admin_client: Client, alice: User) -> None:
    """One word a state, in the list, in its filter and on the page of statistics."""
    notification = services.notify(alice, "Your order is on its way!", title="Order 7").notifications.get()
    for state in Delivery.State.values:
        Delivery.objects.create(notification=notification, transport=state, state=state, due_at=None)
    text = page(admin_client, f"{ADMIN}/delivery/")
    assert "Order 7: Your order is on its way!" in text
    statistics = page(admin_client, f"{ADMIN}/event/statistics/")
    for state in Delivery.State.values:
        assert f">{state}</span>" in text
        # What is being sent or held is pending there.
        assert state in {"sending", "held"} or f"<dt>{state}</dt>" in statistics
