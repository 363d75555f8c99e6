"""What people have written stands in the direction of its own letters, on each page of the admin that shows it."""

import datetime
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from notifications.models import Delivery, Destination, Digest, Preference
from notifications.services import notify
from tests.support.staff import page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]

ADMIN = "/admin/notifications"
# Its brackets have no direction of their own.
MESSAGE = "(1) تم شحن طلبك"
TITLE = "طلب (7)"
NAME = "علي.1"
ANSWER = "تم الرفض (550)"


@pytest.fixture
def keys() -> dict[str, Any]:
    """Rows with Arabic in all that people write; their keys."""
    ali = User.objects.create(username=NAME)
    event = notify(ali, f"{MESSAGE}\nثم <b>", title=TITLE, actor=ali)
    waiting = notify(ali, MESSAGE, deliver_after=datetime.timedelta(days=1))
    notification = event.notifications.get()
    delivery = Delivery.objects.create(notification=notification, transport="email", state="failed", answer=ANSWER)
    Destination.objects.create(
        user=ali,
        transport="webhook",
        address="https://hooks.example/1",
        disabled_at=event.created_at,
        disabled_reason=ANSWER,
    )
    Digest.objects.create(recipient=ali, kind="info", transport="email", ends_at=event.created_at)
    Preference.objects.create(user=ali, kind="info", transport="email", is_wanted=True)
    return {"event": event.pk, "waiting": waiting.pk, "notification": notification.pk, "delivery": delivery.pk}


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("event/", [f"{TITLE}: {MESSAGE} ثم &lt;b&gt;", NAME]),
        ("event/{event}/change/", [TITLE, f"{MESSAGE}<br>ثم &lt;b&gt;", NAME]),
        ("event/{waiting}/change/", [MESSAGE, NAME]),
        ("scheduled/", [MESSAGE, NAME]),
        ("notification/", [f"{TITLE}: {MESSAGE} ثم &lt;b&gt;", NAME]),
        ("notification/{notification}/change/", [ANSWER]),
        ("delivery/", [f"{TITLE}: {MESSAGE} ثم &lt;b&gt;", NAME, ANSWER]),
        ("delivery/{delivery}/change/", [ANSWER]),
        ("destination/", [NAME, ANSWER]),
        ("digest/", [NAME]),
        ("preference/", [NAME]),
    ],
)
def test_texts_have_their_own_direction(
    admin_client: Client, keys: dict[str, Any], path: str, texts: list[str]
) -> None:
    """They are escaped."""
    shown = page(admin_client, f"{ADMIN}/{path.format(**keys)}")
    found = re.findall(r'<(\w+)\b[^>]* dir="auto"[^>]*>(.*?)</\1>', shown, re.DOTALL)
    assert set(texts) <= {text.strip() for _, text in found}
    assert "<b>" not in shown


def test_the_message_after_sending_has_its_own_direction(admin_client: Client, keys: dict[str, Any]) -> None:
    """In the message that follows the send form."""
    recipient = User.objects.get(username=NAME)
    form = {"recipients": [recipient.pk], "message": MESSAGE, "kind": "info", "token": "7" * 32}
    sent = admin_client.post(f"{ADMIN}/event/send/", form, follow=True).content.decode()
    assert re.search(rf'<a [^>]*dir="auto"[^>]*>{re.escape(MESSAGE)}</a>”', sent)
