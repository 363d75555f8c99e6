"""Transports that wait: until something is still unread, and until quiet hours end."""

import datetime
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.utils import timezone

from notifications import services
from notifications.database import clock
from notifications.exceptions import InvalidPreference
from notifications.models import Delivery, Notification, QuietHours
from notifications.workers.recovery import refill
from realtime.redis.keys import Keys
from tests.support.timing import begun, declare, ends, own_registry, pass_time, streamed

__all__ = ["own_registry"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "own_registry", "two")]
FALLBACK = {"email": datetime.timedelta(minutes=15)}
BACKEND = {"BACKEND": "notifications.transports.console.ConsoleTransport"}


@pytest.fixture
def two(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {"TRANSPORTS": {"email": BACKEND, "push": BACKEND}, "DEFAULT_TRANSPORTS": ["push"]}


def quiet_now(user: User) -> None:
    """From an hour ago until an hour from now."""
    now = clock.now()
    hour = datetime.timedelta(hours=1)
    services.set_quiet_hours(user.pk, (now - hour).time(), (now + hour).time(), "UTC")


def test_a_fallback_is_used_if_unread(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """The other transports send at once. The sweep puts the fallback on the stream when it is due."""
    declare(transports=("push",), fallback=FALLBACK)
    services.notify(alice, "Red", kind="build")
    (notification,) = streamed(redis_client, keys)
    assert [claim.transport for claim in begun(notification)] == ["push"]
    pass_time(minutes=14)
    Delivery.objects.filter(transport="push").update(due_at=None, state="sent")
    assert (refill(), begun(notification)) == (0, ())
    pass_time(minutes=2)
    assert refill() == 1
    assert [claim.transport for claim in begun(notification)] == ["email"]


@pytest.mark.parametrize("what", ["read", "archived"])
def test_a_fallback_is_skipped_if_read(redis_client: redis.Redis, keys: Keys, alice: User, what: str) -> None:
    """Or archived. Its row has the reason."""
    declare(fallback=FALLBACK)
    services.notify(alice, "Red", kind="build")
    (notification,) = streamed(redis_client, keys)
    assert begun(notification) == ()
    mark = {"read": services.mark_read, "archived": services.mark_archived}[what]
    assert mark(alice.pk, [notification.notification_id]) == 1
    pass_time(minutes=16)
    assert refill() == 1
    assert begun(notification) == ()
    assert ends() == [("skipped", "read before it was due")]
    assert refill() == 0


def test_a_call_may_have_its_own_fallback(redis_client: redis.Redis, keys: Keys, alice: User, bob: User) -> None:
    """For any kind, also on a transport that would send at once, but not if the user does not want it."""
    services.set_preference(bob.pk, "info", "email", False)
    services.notify([alice, bob], "x", fallback={**FALLBACK, "push": datetime.timedelta(hours=1)})
    assert [begun(notification) for notification in streamed(redis_client, keys)] == [(), ()]
    assert sorted(Delivery.objects.values_list("notification__recipient", "transport", "if_unread")) == [
        (alice.pk, "email", True),
        (alice.pk, "push", True),
        (bob.pk, "push", True),
    ]


def test_a_replaced_notification_is_not_sent(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Whether planned or still on the stream. Sent deliveries do not change."""
    declare(transports=("push",), fallback=FALLBACK)
    services.notify(alice, "1", kind="build", collapse_key="7")
    (first,) = streamed(redis_client, keys)
    assert len(begun(first)) == 1
    services.notify(alice, "2", kind="build", collapse_key="7")
    services.notify(alice, "3", kind="build", collapse_key="7")
    _, second, third = streamed(redis_client, keys)
    assert begun(second) == ()
    assert [claim.transport for claim in begun(third)] == ["push"]
    assert list(Delivery.objects.order_by("id").values_list("transport", "state")) == [
        ("email", "skipped"),
        ("push", "sending"),
        ("email", "skipped"),
        ("push", "skipped"),
        ("email", "pending"),
        ("push", "sending"),
    ]
    assert set(Delivery.objects.filter(state="skipped").values_list("answer", flat=True)) == {
        "replaced by a newer notification"
    }


def test_transports_wait_until_quiet_hours_end(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """The bell does not wait: the notification is in the inbox and on the stream."""
    quiet_now(alice)
    services.notify(alice, "x")
    (notification,) = streamed(redis_client, keys)
    assert begun(notification) == ()
    (delivery,) = Delivery.objects.all()
    assert delivery.due_at is not None
    assert datetime.timedelta(minutes=59) < delivery.due_at - timezone.now() <= datetime.timedelta(hours=1)
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    pass_time(minutes=61)
    assert refill() == 1
    QuietHours.objects.all().delete()
    assert len(begun(notification)) == 1


def test_a_retry_waits_for_the_end_of_quiet_hours_too(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Quiet hours may begin between two attempts."""
    services.notify(alice, "x")
    (notification,) = streamed(redis_client, keys)
    assert len(begun(notification)) == 1
    quiet_now(alice)
    pass_time(minutes=2)
    assert begun(notification) == ()
    assert list(Delivery.objects.values_list("state", "attempts")) == [("pending", 1)]


def test_urgent_kinds_do_not_wait(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Nor do notifications of other users."""
    declare(transports=("push",), is_urgent=True)
    quiet_now(alice)
    services.notify(alice, "Fire", kind="build")
    (notification,) = streamed(redis_client, keys)
    assert len(begun(notification)) == 1


def test_quiet_hours_are_set_changed_and_removed(alice: User) -> None:
    """One row for each user. Invalid times are refused."""
    services.set_quiet_hours(alice.pk, datetime.time(22), datetime.time(7), "Europe/Berlin")
    services.set_quiet_hours(alice.pk, datetime.time(23), datetime.time(7), "Asia/Kolkata")
    assert str(QuietHours.objects.get()) == "23:00 to 07:00 Asia/Kolkata"
    for wrong in ((datetime.time(1), None, "UTC"), (datetime.time(1), datetime.time(1), "UTC")):
        with pytest.raises(InvalidPreference, match="an end that differ"):
            services.set_quiet_hours(alice.pk, *wrong)
    for zone in ("Mars", "", "../../etc/passwd", "x" * 300):
        with pytest.raises(InvalidPreference, match="time zone"):
            services.set_quiet_hours(alice.pk, datetime.time(1), datetime.time(2), zone)
    services.set_quiet_hours(alice.pk, None)
    assert not QuietHours.objects.exists()


def test_a_notification_deleted_while_it_waits_is_not_sent(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Its deliveries are deleted too."""
    declare(fallback=FALLBACK)
    services.notify(alice, "x", kind="build")
    assert begun(streamed(redis_client, keys)[0]) == ()
    Notification.objects.all().delete()
    pass_time(hours=1)
    assert refill() == 0
