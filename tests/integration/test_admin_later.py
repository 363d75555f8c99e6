"""What is told later, at once with others, or not at all, in the admin: waiting events, digests, quiet hours."""

import datetime
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.database.clock import moment_of
from notifications.events import schedule
from notifications.models import Delivery, Digest, Event, Notification, QuietHours, Scheduled
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]
ADMIN = "/admin/notifications"
DAY = datetime.timedelta(days=1)


@pytest.fixture
def waiting(alice: User, bob: User) -> Event:
    """A scheduled event for alice and bob."""
    return services.notify(
        [alice, bob],
        "The shop opens",
        deliver_after=DAY,
        collapse_key="opening",
        fallback={"console": datetime.timedelta(minutes=15)},
    )


def plain(text: str) -> str:
    """A page without tags."""
    return re.sub(r"<[^>]+>|\s+", " ", text)


def found(client: Client, query: str) -> bool:
    """Whether the list of events contains the scheduled one."""
    return "The shop opens" in page(client, f"{ADMIN}/event/?{query}")


def test_a_scheduled_event_is_not_in_the_outbox(admin_client: Client, waiting: Event) -> None:
    """List and filters show its state, its time and the number of recipients. It is found by a recipient."""
    services.notify([], "Nobody hears this")
    Event.objects.filter(message="Nobody hears this").update(published_at=None)
    assert found(admin_client, "state=scheduled")
    assert not found(admin_client, "state=outbox")
    assert not found(admin_client, "state=published")
    assert "Nobody hears this" in page(admin_client, f"{ADMIN}/event/?state=outbox")
    text = re.sub(" +", " ", plain(page(admin_client, f"{ADMIN}/event/?q=alice")))
    assert waiting.deliver_at is not None
    until = timezone.localtime(moment_of(waiting.deliver_at))
    assert f"The shop opens info - 2 scheduled {until:%Y-%m-%d %H:%M:%S}" in text
    assert not found(admin_client, "q=carol")


def test_a_scheduled_event_shows_its_time_recipients_and_keys(admin_client: Client, waiting: Event) -> None:
    """On its page, and in the list of scheduled recipients."""
    text = page(admin_client, f"{ADMIN}/event/{waiting.pk}/change/")
    for shown in (
        "Scheduled recipients",
        "alice",
        "bob",
        "opening",
        "console if unread after 0:15:00",
        "Scheduled for",
    ):
        assert shown in text
    (link,) = re.findall(r'href="([^"]*/scheduled/[^"]*event__id__exact=[^"]*)"', text)
    listed = page(admin_client, link)
    assert listed.count("The shop opens") == 2
    assert page(admin_client, f"{ADMIN}/scheduled/?q=ali").count("The shop opens") == 1
    row = Scheduled.objects.get(recipient__username="bob")
    assert "Scheduled for" in page(admin_client, f"{ADMIN}/scheduled/{row.pk}/change/")


def test_a_removed_recipient_is_not_notified(alice: User, waiting: Event) -> None:
    """Removing needs the permission to delete. The others are notified."""
    row = Scheduled.objects.get(recipient__username="bob")
    url = f"{ADMIN}/scheduled/{row.pk}/delete/"
    assert make_staff("view_scheduled").post(url, {"post": "yes"}).status_code == 403
    make_staff("view_scheduled", "delete_scheduled").post(url, {"post": "yes"})
    Event.objects.filter(pk=waiting.pk).update(deliver_at=timezone.now())
    assert schedule.release(publish=False) == 1
    assert [told.recipient for told in Notification.objects.all()] == [alice]


def test_a_cancelled_event_is_neither_published_nor_scheduled(admin_client: Client, waiting: Event) -> None:
    """Although it is not in the outbox."""
    services.cancel(waiting)
    for state in ("scheduled", "outbox", "published"):
        assert not found(admin_client, f"state={state}")
    assert found(admin_client, "state=cancelled")
    text = page(admin_client, f"{ADMIN}/event/{waiting.pk}/change/")
    assert "sb-badge-cancelled" in text
    assert "sb-badge-published" not in text
    assert "nobody" in text


def test_a_replaced_notification_and_the_newer_one_refer_to_each_other(admin_client: Client, alice: User) -> None:
    """By state, key, and the id of the older one."""
    older, newer = (services.notify(alice, text, collapse_key="order-7").notifications.get() for text in "ab")
    listed = page(admin_client, f"{ADMIN}/notification/?state=replaced")
    assert f"/notification/{older.pk}/change/" in listed
    assert f"/notification/{newer.pk}/change/" not in listed
    assert ">replaced</span>" in page(admin_client, f"{ADMIN}/notification/{older.pk}/change/")
    text = page(admin_client, f"{ADMIN}/notification/{newer.pk}/change/")
    assert "order-7" in text
    assert re.search(rf"[Rr]eplaces.{{0,600}}\b{older.pk}\b", text, re.DOTALL)


def test_digests_are_listed_with_their_state_and_their_deliveries(admin_client: Client, alice: User) -> None:
    """Open, due or closed, the latest first. Each links to its deliveries."""
    now = timezone.now()
    times = (("open", now + DAY, None), ("due", now - DAY, None), ("closed", now - 2 * DAY, now))
    for number, (_, ends_at, closed_at) in enumerate(times):
        digest = Digest.objects.create(
            recipient=alice, kind="news", transport="console", ends_at=ends_at, closed_at=closed_at
        )
        for part in range(number + 1):
            told = services.notify(alice, f"News {number} {part}").notifications.get()
            Delivery.objects.create(notification=told, transport="console", digest=digest)
    text = re.sub(" +", " ", plain(page(admin_client, f"{ADMIN}/digest/?q=alice")))
    assert re.findall(r"(open|due|closed) (\d+) ", text) == [("closed", "3"), ("due", "2"), ("open", "1")]
    digest = Digest.objects.get(closed_at=now)
    (link,) = re.findall(
        r'href="([^"]*digest__id__exact=[^"]*)"', page(admin_client, f"{ADMIN}/digest/{digest.pk}/change/")
    )
    assert page(admin_client, link).count("/delivery/") >= 3
    assert f"/digest/{digest.pk}/change/" in page(admin_client, f"{ADMIN}/digest/?q={digest.key}")
    assert admin_client.post(f"{ADMIN}/digest/{digest.pk}/delete/", {"post": "yes"}).status_code == 403


def test_quiet_hours_are_shown(admin_client: Client, alice: User) -> None:
    """With their time zone. They are found by user."""
    QuietHours.objects.create(user=alice, starts="22:00", ends="07:00", time_zone="Europe/Berlin")
    assert "Europe/Berlin" in page(admin_client, f"{ADMIN}/quiethours/?q=ali")
    assert "Europe/Berlin" not in page(admin_client, f"{ADMIN}/quiethours/?q=bob")
    hours = QuietHours.objects.get()
    assert "Europe/Berlin" in page(admin_client, f"{ADMIN}/quiethours/{hours.pk}/change/")
