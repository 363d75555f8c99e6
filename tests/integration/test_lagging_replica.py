"""
A project whose router reads from a replica that lags: what decides something is read where it was written.

The replica is a copy of the database as it was before anything happened, and stays so. The router notes which models it
was asked for: what names its database itself does not ask.
"""

import contextlib
import datetime
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import Client as Browser
from django.utils import timezone

from notifications import services
from notifications.conf import STATISTICS_TOPIC
from notifications.delivery.bot import Bot
from notifications.events import outbox, prune, schedule
from notifications.inbox import queries
from notifications.models import Delivery, Event, Notification
from notifications.preferences import get_preferences
from notifications.statistics import read_dashboard
from notifications.statistics.live import publish_live
from notifications.transports.webhook import WebhookTransport
from notifications.transports.webpush import WebPushTransport
from notifications.workers import recovery
from notifications.workers.relay import Relay
from realtime.redis.keys import Keys
from realtime.topics import user_topic
from tests.integration.clients import Connect
from tests.integration.hearing import Ear
from tests.integration.test_webpush_transport import PRIVATE_KEY
from tests.support.domain import make_users
from tests.support.receivers import http_receiver
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.timing import begun, streamed
from tests.support.waiting import wait_until

# The copy is one of SQLite's; what is asked of which database does not depend on which it is.
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
    pytest.mark.database_independent,
]
BROWSER = {
    "endpoint": "https://push.example/1",
    "keys": {
        "p256dh": "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM",
        "auth": "tBHItJI5svbpez7KI4CCXg",
    },
}


class Router:
    """Reads from the replica unless a query names another database."""

    # Labels of the models that were asked for; "auth.User", …
    asked: ClassVar[list[str]] = []

    def db_for_read(self, model: Any, **hints: Any) -> str:
        self.asked.append(model._meta.label)
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, first: Any, second: Any, **hints: Any) -> bool:
        return True


@pytest.fixture
def replica(alice: User, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The models that were read from the replica. It has alice, but nothing that is written later."""
    path = tmp_path / "replica.sqlite3"
    original, copy = sqlite3.connect(connection.settings_dict["NAME"]), sqlite3.connect(path)
    with contextlib.closing(original), contextlib.closing(copy):
        original.backup(copy)
    guarded = BaseDatabaseWrapper.ensure_connection

    def ensure_connection(self: Any) -> None:
        # Django allows a test only those that were there when it began.
        if self.alias != "replica":
            guarded(self)
        elif self.connection is None:
            self.connect()

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)
    connections.settings["replica"] = {**connection.settings_dict, "NAME": str(path)}
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    Router.asked.clear()
    yield Router.asked
    settings.DATABASE_ROUTERS = []
    connections["replica"].close()
    del connections["replica"]
    del connections.settings["replica"]


@pytest.fixture
def webhooks(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {
        **signalbox.NOTIFICATIONS,
        "TRANSPORTS": {
            "webhook": {
                "BACKEND": "notifications.transports.webhook.WebhookTransport",
                "OPTIONS": {"allow_private": True},
            }
        },
        "DEFAULT_TRANSPORTS": ["webhook"],
    }


def test_the_replica_lags(replica: list[str], alice: User) -> None:
    """The router is used: otherwise the other tests here would prove nothing."""
    services.notify(alice, "Hello")
    assert Notification.objects.count() == 0
    assert Notification.objects.using("default").count() == 1
    assert replica == ["notifications.Notification"]


async def test_a_destination_just_added_is_sent_to(
    replica: list[str], webhooks: None, redis_server: RedisServer, keys: Keys, alice: User
) -> None:
    """The replica does not have it, so the delivery would be skipped for good. Relay and bot never read from it."""
    with http_receiver() as server:
        await sync_to_async(services.add_destination)(alice.pk, "webhook", f"{server.url}/hook")
        bot = Bot({"webhook": WebhookTransport(name="webhook", allow_private=True)})
        async with (
            working(redis_server.url, keys, bot, group="bot", batch_size=1),
            working(redis_server.url, keys, Relay(), group="relay"),
        ):
            await services.anotify(alice, "Hello")
            sent = Delivery.objects.using("default").filter(state=Delivery.State.SENT)
            relayed = Notification.objects.using("default").exclude(relayed_at=None)
            await wait_until(sent.aexists)
            await wait_until(relayed.aexists)
        assert [request.path for request in server.requests] == ["/hook"]
    assert replica == []


def test_a_browser_just_subscribed_is_found(replica: list[str], alice: User) -> None:
    """As with destinations."""
    push = WebPushTransport(name="push", private_key=PRIVATE_KEY, subject="mailto:ops@shop.example")
    row = services.add_push_subscription(alice.pk, BROWSER)
    assert [address.key for address in push.find_addresses(alice)] == [str(row.pk)]
    assert replica == []


def test_a_choice_applies_at_once(
    replica: list[str], webhooks: None, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """Preferences and quiet hours, also of a new user."""
    (bob,) = make_users(1)
    replica.clear()
    services.set_preference(alice.pk, "info", "webhook", False)
    now = timezone.now()
    services.set_quiet_hours(bob.pk, now.time(), (now - datetime.timedelta(minutes=1)).time(), "UTC")
    services.notify([alice, bob], "Hello", actor=bob)
    for notification in streamed(redis_client, keys):
        assert begun(notification) == ()
    (delivery,) = Delivery.objects.using("default").select_related("notification")
    assert (delivery.state, delivery.notification.recipient_id) == ("pending", bob.pk)
    assert get_preferences(alice.pk) == []
    assert replica == []


def test_the_sweep_reads_from_the_writer(replica: list[str], signalbox: Any, alice: User) -> None:
    """The outbox, due deliveries, scheduled events, and pruning."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "OUTBOX_GRACE_SECONDS": 0, "REFILL_GRACE_SECONDS": 0}
    event = services.notify(alice, "Hello", idempotency_key="once")
    assert services.notify(alice, "Hello", idempotency_key="once").pk == event.pk
    type(event).objects.using("default").update(published_at=None)
    assert outbox.count_overdue(include_recent=True) == 1
    assert outbox.sweep(include_recent=True) == 1
    later = services.notify(alice, "Later", deliver_after=datetime.timedelta(hours=1))
    assert services.cancel(later)
    services.notify(alice, "Soon", deliver_after=datetime.timedelta(microseconds=1))
    assert schedule.release() == 1
    recovery.refill()
    assert sum(pruned.events for pruned in prune.prune(timezone.now())) == 1
    assert replica == []


def test_the_outbox_of_the_live_numbers_is_that_of_the_dashboard(
    replica: list[str], redis_client: redis.Redis, alice: User
) -> None:
    """A number that comes from two databases would jump."""
    services.notify(alice, "Hello")
    Event.objects.using("default").update(published_at=None)
    ear = Ear(redis_client, STATISTICS_TOPIC)
    assert publish_live()
    (heard,) = ear.hear()
    ear.close()
    assert json.loads(heard.frame)["data"]["outbox"] == read_dashboard("hour").outbox == 1


def test_a_mark_is_visible_at_once(replica: list[str], settings: Any, alice: User) -> None:
    """The bell and the inbox are loaded right after a form, and while newer messages have arrived."""
    # Django reads the account of a request by itself, and would read the session.
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    browser = Browser()
    browser.force_login(alice)
    services.notify(alice, "Hello")
    assert b"Hello" in browser.get("/notifications/").content
    newest = Notification.objects.using("default").get().pk
    answer = browser.post("/notifications/read/", {"up_to": newest}, headers={"accept": "application/json"})
    assert answer.json() == {"changed": 1}
    assert b'data-signalbox-unread="0"' in browser.get("/notifications/bell/").content
    assert queries.read_bell(alice.pk).unread == 0
    assert not [label for label in replica if label.startswith("notifications.")]


def test_commands_read_from_the_writer(replica: list[str], alice: User) -> None:
    """For counts of rows that they just wrote, and for the reason why an event cannot be cancelled."""
    make_users(1)
    out = io.StringIO()
    call_command("notify", "user1", "alice", "Hello", stdout=out)
    assert out.getvalue().endswith(": 2 notifications, published\n")
    call_command("notify", "--all", "Later", "--deliver-after", "1h", "--json", stdout=out)
    assert '"scheduled_count": 2' in out.getvalue()
    event_id = str(services.notify(alice, "x", deliver_after=datetime.timedelta(hours=1)).pk)
    call_command("cancel_event", event_id, stdout=out)
    call_command("cancel_event", event_id, stdout=out)
    assert out.getvalue().endswith(f"event {event_id}: was cancelled before\n")
    assert f"event {event_id}: cancelled, 1 person is not notified" in out.getvalue()
    assert [label for label in replica if label != "auth.User"] == []


async def test_a_session_that_just_began_can_connect(
    replica: list[str], connect: Connect, alice: User, bob: User
) -> None:
    """The replica has neither the session nor bob's account yet."""
    replica.clear()
    for user in (alice, bob):
        client = await connect(user)
        assert (await client.greeted())["topic"] == user_topic(user.pk)
    assert replica == []
