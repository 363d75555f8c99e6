"""What the holder of the relays' lease does again and again: over outages, and over what it cannot cope with."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone

from notifications import services
from notifications.models import Delivery, Event, Notification
from notifications.workers import recovery
from notifications.workers.service import Subscriber
from notifications.workers.sweeper import GRACE_SECONDS, Sweeper
from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys
from realtime.redis.outage import Outage
from tests.support.domain import make_users
from tests.support.streams import dead_letters
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture(autouse=True)
def _quick(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {
        "OUTBOX_GRACE_SECONDS": 0.0,
        "REFILL_GRACE_SECONDS": 0.0,
        "SWEEP_INTERVAL_SECONDS": 0.02,
        "INGRESS_LEASE_SECONDS": 0.4,
    }


@contextlib.asynccontextmanager
async def sweeping(**options: Any) -> AsyncIterator[Sweeper]:
    """A running sweeper, which is cancelled at the end."""
    sweeper = Sweeper(
        redis_outage=Outage("Redis"), database_outage=Outage("the database"), interval_seconds=0.02, **options
    )
    task = asyncio.create_task(sweeper.run(), name="sweeper under test")
    try:
        yield sweeper
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
def database_away() -> Iterator[Any]:
    """In this context, new connections find no database. It yields a function that ends the outage."""
    settings, name = connections.settings["default"], connections["default"].settings_dict["NAME"]

    @contextlib.contextmanager
    def away() -> Iterator[Any]:
        settings["NAME"] = "/nowhere/at/all"
        try:
            yield lambda: settings.update(NAME=name)
        finally:
            settings["NAME"] = name

    yield away
    settings["NAME"] = name


def make_overdue() -> Delivery:
    """A delivery that is due, and not on the stream."""
    (alice,) = make_users()
    event = Event.objects.create(message="again", published_at=timezone.now())
    notification = Notification.objects.create(
        event=event, recipient=alice, dispatched_at=timezone.now(), relayed_at=timezone.now()
    )
    return Delivery.objects.create(notification=notification, transport="console", attempts=1)


def leave_in_outbox() -> Event:
    """An event that was committed, but not published."""
    return Event.objects.create(message="left")


async def is_published(event: Event) -> bool:
    return await Event.objects.filter(pk=event.pk, published_at__isnull=False).aexists()


async def is_queued(delivery: Delivery) -> bool:
    return await Delivery.objects.filter(pk=delivery.pk, queued_at__isnull=False).aexists()


async def test_a_foreign_entry_with_an_id_from_the_far_future_ends_nothing(
    redis_client: redis.Redis, keys: Keys
) -> None:
    """It becomes a dead letter. Later ids continue from it: notifications are relayed, and due deliveries found."""
    subscriber = Subscriber(parts=("relay",))
    running = asyncio.create_task(subscriber.run(), name="subscriber under test")
    redis_client.execute_command("XADD", keys.stream("notifications"), "300000000000000-0", "x", "y")
    try:
        await wait_until(lambda: running.done() or dead_letters(redis_client, keys, "relay"))
        overdue = await sync_to_async(make_overdue)()
        await wait_until(lambda: running.done() or is_queued(overdue))
        await services.anotify(overdue.notification.recipient_id, "Hello")
        await wait_until(lambda: Notification.objects.exclude(relayed_at=None).filter(event__message="Hello").aexists())
        assert not running.done()
        ((newest, _),) = redis_client.xrevrange(keys.stream("notifications"), count=1)
        assert newest.startswith(b"300000000000000-")
    finally:
        subscriber.stop()
        await running


async def test_a_defect_of_one_step_ends_neither_the_others_nor_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of error is logged once with its traceback, and all are counted. The step is tried until it works."""
    errors: list[Exception] = [ValueError("year 11476 is out of range")] * 5 + [KeyError("n")] * 5
    real = recovery.refill

    def fail() -> int:
        if errors:
            raise errors.pop(0)
        return real()

    monkeypatch.setattr(recovery, "refill", fail)
    overdue = await sync_to_async(make_overdue)()
    event = await sync_to_async(leave_in_outbox)()
    async with sweeping() as sweeper:
        await wait_until(lambda: is_queued(overdue))
        await wait_until(lambda: is_published(event))
        await wait_until(lambda: "refilling the stream works again, after 10 failures" in caplog.text)
    assert sweeper.defect_count == 10
    records = [record for record in caplog.records if record.name == "notifications.workers.sweeper"]
    defects = [record for record in records if record.levelno == logging.ERROR]
    assert [record.exc_info[0] for record in defects if record.exc_info] == [ValueError, KeyError]


@pytest.mark.parametrize("grace_seconds", [3600.0, 0.05])
async def test_after_an_outage_of_the_database_bots_have_a_grace_period(
    grace_seconds: float, database_away: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """They first record the answers that they could not write. The outbox does not wait for that."""
    overdue = await sync_to_async(make_overdue)()
    event = await sync_to_async(leave_in_outbox)()
    with database_away() as bring_back:
        async with sweeping(grace_seconds=grace_seconds):
            await wait_until(lambda: "the database is unavailable (OperationalError" in caplog.text)
            bring_back()
            await wait_until(lambda: "the database is available again" in caplog.text)
            await wait_until(lambda: is_published(event))
            if grace_seconds < 1:
                await wait_until(lambda: is_queued(overdue))
    assert await is_queued(overdue) == (grace_seconds < 1)


def test_the_grace_period_is_long_enough_for_all_bots_to_try_again() -> None:
    """Twice, because the random wait is at most half of it."""
    assert 2 * Backoff().cap_seconds <= GRACE_SECONDS
