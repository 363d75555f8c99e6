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
def test_a_url_can_only_use_the_filters_of_the_list(permission: str, question: str) -> None:
    """Otherwise one could guess secrets letter by letter, by checking whether the list is empty."""
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
    assert 'id="changelist"' in page(admin_client, f"{ADMIN}/{question}")


def test_a_filter_with_an_invalid_value_is_not_an_error(admin_client: Client) -> None:
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
    def test_the_form_reveals_no_users_without_the_permission(self) -> None:
        """Neither a name, nor whether an id exists: the errors are the same."""
        carol = User.objects.create_user("carol-the-secret", email="carol@example.com")
        client = make_staff("add_event")
        known, unknown = _sent(client, [carol.pk]), _sent(client, [carol.pk + 1000])
        for text in (known, unknown):
            assert "carol" not in text
            assert "is not a user who can be chosen" in text
        assert "You need the permission to view users" in known
        assert not Event.objects.exists()

    def test_sending_needs_the_permission_to_view_users(self) -> None:
        """With a forged form."""
        (alice,) = make_users()
        _sent(make_staff("add_event"), [alice.pk], "hello")
        assert not Event.objects.exists()

    @pytest.mark.parametrize("recipient", ["abc", "9" * 40, "-1", "1.5", "\x00", "' OR 1=1"])
    @pytest.mark.parametrize("message", ["", "hello"])
    def test_an_invalid_recipient_is_one_line_of_error(
        self, admin_client: Client, recipient: str, message: str
    ) -> None:
        """A valid recipient in the same form is shown again."""
        (alice,) = make_users()
        text = _sent(admin_client, [recipient, alice.pk], message)
        assert text.count("is not a user who can be chosen") == 1
        assert f'value="{alice.pk}" selected' in text

    def test_chosen_recipients_are_kept_after_an_error(self) -> None:
        """After an error in another field."""
        (alice,) = make_users()
        assert f'value="{alice.pk}" selected' in _sent(make_staff("add_event", "view_user"), [alice.pk])


def test_states_have_the_same_words_in_lists_filters_and_statistics(admin_client: Client, alice: User) -> None:
    """One word for each state: in the list, in its filter and on the statistics page."""
    notification = services.notify(alice, "Your order is on its way!", title="Order 7").notifications.get()
    for state in Delivery.State.values:
        Delivery.objects.create(notification=notification, transport=state, state=state, due_at=None)
    text = page(admin_client, f"{ADMIN}/delivery/")
    assert "Order 7: Your order is on its way!" in text
    statistics = page(admin_client, f"{ADMIN}/event/statistics/")
    for state in Delivery.State.values:
        assert f">{state}</span>" in text
        # They are columns there; what is pending, being sent or held is unfinished.
        heading = "unfinished" if state in {"pending", "sending", "held"} else state
        assert f'<th scope="col"><bdi>{heading.capitalize()}</bdi></th>' in statistics
