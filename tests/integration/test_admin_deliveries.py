"""Deliveries and preferences in the admin: what became of each, and no secret."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.models import Delivery, Destination, Digest, Preference, PushSubscription
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]
ADMIN = "/admin/notifications"


@pytest.fixture
def delivery(alice: User) -> Delivery:
    notification = services.notify(alice, "Hello").notifications.get()
    return Delivery.objects.create(
        notification=notification,
        transport="console",
        state="failed",
        attempts=8,
        answer="550 no such <b>user</b>",
        latency_seconds=0.1234,
        due_at=None,
    )


def test_a_delivery_shows_its_state_and_answer(admin_client: Client, delivery: Delivery) -> None:
    """In the list and on its own page. The provider's answer is shown as text, not as HTML."""
    for url in (f"{ADMIN}/delivery/", f"{ADMIN}/delivery/{delivery.pk}/change/"):
        text = page(admin_client, url)
        for shown in ("console", ">failed</span>", "8", "550 no such &lt;b&gt;user&lt;/b&gt;", "123 ms"):
            assert shown in text, f"{url}: {shown}"
    assert "alice" in page(admin_client, f"{ADMIN}/delivery/")


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("q=alice", True),
        ("q=bob", False),
        ("q={key}", True),
        ("q=0123456789abcdef0123456789abcdef", False),
        ("state=failed", True),
        ("state=sent", False),
        ("transport=console", True),
    ],
)
def test_deliveries_are_found(admin_client: Client, delivery: Delivery, query: str, is_found: bool) -> None:
    """By recipient, state, transport, and the key that a provider may ask about."""
    text = page(admin_client, f"{ADMIN}/delivery/?{query.format(key=delivery.key.hex)}")
    assert (f"/delivery/{delivery.pk}/change/" in text) == is_found


def test_addresses_are_shown_without_their_secrets(admin_client: Client, alice: User) -> None:
    """Everything but the beginning of a chat service's URL works like a password."""
    Preference.objects.create(user=alice, kind="order.shipped", transport="email", is_wanted=False)
    for transport, address in (
        ("webhook", "https://user:hunter2@hooks.example/secret-path?token=hunter2"),
        ("webhook", "HTTPS://bare.example?hunter2"),
        ("webhook", "https://fragment.example#hunter2"),
        ("chat", "slack://hunter2aaaa/bbbb/secret-path"),
        ("chat", "mailto://me:hunter2@gmail.example"),
        ("sms", "+15550hunter2"),
        ("sms", "hun"),
    ):
        Destination.objects.create(user=alice, transport=transport, address=address, secret="whsec_hunter2")
    endpoint = "https://push.example/secret-path"
    PushSubscription.objects.create(user=alice, endpoint=endpoint, p256dh="hunter2", auth="hunter2")
    shown = ""
    for model in (Preference, Destination, PushSubscription):
        name = model._meta.model_name
        shown += page(admin_client, f"{ADMIN}/{name}/")
        for row in model.objects.all():
            shown += page(admin_client, f"{ADMIN}/{name}/{row.pk}/change/")
    for text in (
        *("order.shipped", "https://hooks.example…", "HTTPS://bare.example…", "https://fragment.example…"),
        *("slack://hunt…", "mailto://gmai…", "+155…", "https://push.example…"),
    ):
        assert text in shown
    assert "hun…" not in shown
    for secret in ("hunter2", "secret-path", "whsec"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("destination", "address"),
        ("destination", "secret"),
        ("pushsubscription", "endpoint"),
        ("pushsubscription", "p256dh"),
        ("pushsubscription", "auth"),
    ],
)
@pytest.mark.parametrize("lookup", ["", "__startswith", "__gt"])
def test_no_filter_reveals_a_secret(admin_client: Client, model: str, field: str, lookup: str) -> None:
    """Otherwise one could guess it letter by letter, by checking whether the list is empty."""
    assert admin_client.get(f"{ADMIN}/{model}/?{field}{lookup}=whsec_a").status_code == 400


def test_an_answer_is_shown_without_the_address_that_it_names(admin_client: Client, delivery: Delivery) -> None:
    """Errors of HTTP clients contain the URL, which works like a password. On all three pages."""
    answer = "POST https://user:hunter2@hooks.example/hunter2: refused, token=hunter2"
    Delivery.objects.update(answer=answer, transport="<i>hooks</i>")
    for path in ("delivery/", f"delivery/{delivery.pk}/change/", f"notification/{delivery.notification_id}/change/"):
        text = page(admin_client, f"{ADMIN}/{path}")
        assert "hooks.example/…" in text
        assert "hunter2" not in text
        assert "<i>hooks" not in text


def test_a_notification_shows_its_deliveries_to_who_may_see_them(delivery: Delivery) -> None:
    """Transport, state, attempts, answer and latency, each with a link to its own page."""
    url = f"{ADMIN}/notification/{delivery.notification_id}/change/"
    text = page(make_staff("view_notification", "view_delivery"), url)
    for shown in ("console", ">failed</span>", "550 no such", "123 ms", f"{ADMIN}/delivery/{delivery.pk}/change/"):
        assert shown in text
    assert "550 no such" not in page(make_staff("view_notification"), url)
    Delivery.objects.all().delete()
    assert "The bot has not planned its deliveries yet." in page(make_staff("view_notification", "view_delivery"), url)


def test_a_delivery_cannot_be_deleted_alone(admin_client: Client, delivery: Delivery) -> None:
    """Neither on its page nor by an action. It is deleted with its notification, and with the user."""
    assert "_delete" not in page(admin_client, f"{ADMIN}/delivery/{delivery.pk}/change/").replace("_delete_", "")
    assert admin_client.post(f"{ADMIN}/delivery/{delivery.pk}/delete/", {"post": "yes"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": [delivery.pk], "post": "yes"}
    admin_client.post(f"{ADMIN}/delivery/", form)
    assert Delivery.objects.exists()
    user = delivery.notification.recipient
    assert admin_client.post(f"/admin/auth/user/{user.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Delivery.objects.exists()
    assert not User.objects.filter(pk=user.pk).exists()


@pytest.mark.parametrize("model", ["delivery", "digest", "preference", "quiethours", "destination", "pushsubscription"])
def test_nobody_adds_or_changes_them_here(model: str) -> None:
    """Who may view sees the list; nobody else does."""
    allowed, other = make_staff(f"view_{model}", f"add_{model}", f"change_{model}"), make_staff("view_event")
    assert page(allowed, f"{ADMIN}/{model}/")
    assert allowed.get(f"{ADMIN}/{model}/add/").status_code == 403
    assert other.get(f"{ADMIN}/{model}/").status_code == 403


def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    admin_client: Client, delivery: Delivery, django_assert_max_num_queries: object
) -> None:
    """However many recipients there are."""
    for number in range(20):
        user = User.objects.create_user(f"user{number}")
        notification = services.notify(user, "Hello").notifications.get()
        Delivery.objects.create(notification=notification, transport="console", answer=f"answer {number}")
    with django_assert_max_num_queries(12):  # type: ignore[operator]
        assert "answer 19" in page(admin_client, f"{ADMIN}/delivery/")


def resend(client: Client, *deliveries: Delivery) -> str:
    """What the list says after "Send failed deliveries again" for these."""
    form = {"action": "resend", "_selected_action": [each.pk for each in deliveries]}
    return client.post(f"{ADMIN}/delivery/", form, follow=True).content.decode()


def test_failed_deliveries_are_sent_again_and_that_is_recorded(admin_client: Client, delivery: Delivery) -> None:
    """Under the same key. Sent deliveries do not change."""
    sent = Delivery.objects.create(notification=delivery.notification, transport="email", state="sent", due_at=None)
    assert "1 failed delivery is sent again" in resend(admin_client, delivery, sent)
    again = Delivery.objects.get(pk=delivery.pk)
    assert (again.state, again.attempts, again.key) == ("pending", 0, delivery.key)
    assert again.due_at is not None
    assert Delivery.objects.get(pk=sent.pk).state == "sent"
    record = LogEntry.objects.get()
    assert (record.user.username, record.change_message) == ("admin", f"Sent 1 again: {delivery.pk}.")
    assert "None of the selected deliveries has failed." in resend(admin_client, delivery, sent)
    assert LogEntry.objects.count() == 1


def test_a_failed_digest_is_sent_again_as_a_whole(admin_client: Client, delivery: Delivery) -> None:
    """It is one message under one key. A part of it would be another message, and the rest would never be sent."""
    digest = Digest.objects.create(
        recipient=delivery.notification.recipient, kind="info", transport="console", ends_at=timezone.now()
    )
    other = services.notify(digest.recipient, "Hello again").notifications.get()
    second = Delivery.objects.create(notification=other, transport="console", state="failed", due_at=None)
    Delivery.objects.update(digest=digest)
    assert "2 failed deliveries are sent again" in resend(admin_client, second)
    assert set(Delivery.objects.values_list("state", flat=True)) == {"pending"}


def test_sending_again_needs_its_own_permission(delivery: Delivery) -> None:
    """Staff who may only view or delete do not have the action, and cannot run it."""
    looker = make_staff("view_delivery", "delete_delivery")
    assert "_selected_action" not in page(looker, f"{ADMIN}/delivery/")
    resend(looker, delivery)
    assert Delivery.objects.get(pk=delivery.pk).state == "failed"
    sender = make_staff("view_delivery", "resend_delivery")
    assert "delete_selected" not in page(sender, f"{ADMIN}/delivery/")
    resend(sender, delivery)
    assert Delivery.objects.get(pk=delivery.pk).state == "pending"


def test_dead_letters_are_linked_from_the_list_and_the_menu() -> None:
    """Only for users with the permission."""
    allowed, other = make_staff("view_delivery", "view_dead_letters"), make_staff("view_delivery")
    assert page(allowed, f"{ADMIN}/delivery/").count("/delivery/dead-letters/") == 2
    assert "/delivery/dead-letters/" not in page(other, f"{ADMIN}/delivery/")
