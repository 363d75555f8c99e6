"""What the parts of the notifications app count: each notification and delivery once, by kind and transport."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import transaction

from notifications import services
from notifications.delivery.bot import Bot
from notifications.events import outbox
from notifications.models import Delivery, Notification
from notifications.workers.relay import Relay
from realtime.exceptions import PermanentError
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.integration.test_bot import Recording
from tests.support.domain import make_users
from tests.support.growth import Growth

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture
def transports(signalbox: Any) -> Iterator[dict[str, Recording]]:
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"email": backend, "chat": backend},
        "DEFAULT_TRANSPORTS": ["email", "chat"],
        "DELIVERY_MAX_ATTEMPTS": 2,
        "DELIVERY_RETRY_SECONDS": 0.01,
    }
    yield {name: Recording(name=name) for name in ("email", "chat")}


def entries(client: redis.Redis, keys: Keys) -> list[Entry]:
    return [Entry(id, fields, 1) for id, fields in client.xrange(keys.stream("notifications"))]


def test_created_and_published_are_counted_by_kind_after_the_commit(growth: Growth) -> None:
    """One for each recipient. What is rolled back, or called again with its key, is not counted."""
    users = make_users(3)
    services.notify(users, "Hello", kind="news")
    services.notify(users[0], "Hello", kind="order.shipped", idempotency_key="7")
    services.notify(users[0], "Hello", kind="order.shipped", idempotency_key="7")
    services.notify([], "Nobody", kind="news")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.notify(users, "Never", kind="news")
        1 / 0  # noqa: B018
    with transaction.atomic():
        services.notify(users[1], "Later", kind="news")
        assert growth.of("notifications.")[("notifications.created", "news")] == 3
    numbers = {"news": 4, "order.shipped": 1}
    assert growth.of("notifications.") == {
        (f"notifications.{what}", kind): number for what in ("created", "published") for kind, number in numbers.items()
    }
    assert Notification.objects.count() == 5


def test_what_the_sweep_publishes_is_counted_once(growth: Growth, signalbox: Any) -> None:
    """By whoever took the event out of the outbox."""
    event = services.notify(make_users(2), "Hello", kind="news")
    event.published_at = None
    event.save()
    assert outbox.sweep(include_recent=True) == 1
    assert outbox.sweep(include_recent=True) == 0
    assert growth.of("notifications.created") == {("notifications.created", "news"): 2}
    assert growth.of("notifications.published") == {("notifications.published", "news"): 4}


async def test_the_relay_counts_what_it_relays_for_the_first_time(
    growth: Growth, redis_client: redis.Redis, keys: Keys
) -> None:
    """An entry that is handed out again is not counted again."""
    users = await sync_to_async(make_users)(2)
    await services.anotify(users, "Hello", kind="news")
    await services.anotify(users[0], "Hello", kind="alarm")
    relay = Relay()
    try:
        handed = entries(redis_client, keys)
        await relay(handed[:2])
        await relay(handed)
        await relay(handed)
    finally:
        relay.close()
    assert growth.of("notifications.relayed") == {
        ("notifications.relayed", "news"): 2,
        ("notifications.relayed", "alarm"): 1,
    }
    assert growth.durations("notifications.relay_seconds") == 3


def test_what_recipients_do_is_counted_when_it_is_committed(growth: Growth) -> None:
    """Each mark once."""
    (alice,) = make_users()
    for number in range(4):
        services.notify(alice, f"{number}")
    newest = Notification.objects.latest("pk").pk
    services.mark_read(alice.pk, [newest])
    services.mark_seen(alice.pk)
    services.mark_seen(alice.pk)
    services.mark_archived(alice.pk, [newest, newest - 1])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.mark_read(alice.pk)
        1 / 0  # noqa: B018
    assert growth.of("notifications.read", "notifications.seen", "notifications.archived") == {
        ("notifications.read",): 1,
        ("notifications.seen",): 3,
        ("notifications.archived",): 2,
    }


async def test_the_bot_counts_what_becomes_of_deliveries(
    growth: Growth, transports: dict[str, Recording], redis_client: redis.Redis, keys: Keys
) -> None:
    """By kind and transport; each delivery ends once, and retries are counted for themselves."""
    (alice,) = await sync_to_async(make_users)()
    await services.anotify(alice, "Hello", kind="news")
    (entry,) = entries(redis_client, keys)
    transports["email"].errors = [ConnectionError("busy"), None]
    transports["chat"].errors = [PermanentError("no")]
    bot = Bot(transports)
    try:
        async with asyncio.timeout(60):
            await bot([entry])
            while await sync_to_async(Delivery.objects.exclude(due_at=None).exists)():
                await sync_to_async(Delivery.objects.exclude(due_at=None).update)(due_at="2020-01-01T00:00Z")
                await bot([entry])
            await bot([entry])
    finally:
        bot.close()
    assert growth.of("deliveries.") == {
        ("deliveries.retried", "news", "email"): 1,
        ("deliveries.sent", "news", "email"): 1,
        ("deliveries.failed", "news", "chat"): 1,
    } | growth.of("deliveries.send_seconds")
    assert growth.durations("deliveries.send_seconds") == 1


async def test_a_delivery_without_an_address_is_skipped(
    growth: Growth, transports: dict[str, Recording], redis_client: redis.Redis, keys: Keys
) -> None:
    """So is one whose notification was replaced before it was sent; that is counted by the number alone."""
    (alice,) = await sync_to_async(make_users)()
    transports["email"].addresses = ()
    await services.anotify(alice, "Hello", kind="news", collapse_key="7")
    (entry,) = entries(redis_client, keys)
    bot = Bot(transports)
    try:
        await bot([entry])
        await sync_to_async(_make_pending)()
        await services.anotify(alice, "Hello again", kind="news", collapse_key="7")
    finally:
        bot.close()
    assert growth.of("deliveries.skipped") == {
        ("deliveries.skipped", "news", "email"): 1,
        ("deliveries.skipped", "", ""): 1,
    }


def _make_pending() -> None:
    Delivery.objects.filter(transport="chat").update(state=Delivery.State.PENDING, due_at="2030-01-01T00:00Z")
