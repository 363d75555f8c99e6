"""A newcomer's tour: one idea a test, by public names, on a real Redis and a real database. Read from top to bottom."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import transaction

from notifications.events import outbox
from notifications.models import Event, Notification
from notifications.services import mark_read, notify, send_notification
from realtime import conf
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import Entry, StreamWorker
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


def test_1_notify_writes_an_event_and_a_notification_for_each_recipient(signalbox: Any, alice: User) -> None:
    """What happened is said once, however many are told of it."""
    bob = User.objects.create_user("bob")
    event = notify([alice, bob], "Lunch is served", kind="canteen.lunch")
    assert event.message == "Lunch is served"
    assert set(event.notifications.values_list("recipient__username", flat=True)) == {"alice", "bob"}


def test_2_it_is_published_to_a_redis_stream(
    signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """One entry a recipient, with the bytes that a browser will get."""
    notification = send_notification(alice.pk, "Your order is on its way!").notifications.get()
    ((_, fields),) = redis_client.xrange(keys.stream("notifications"))
    assert fields[b"u"] == str(alice.pk).encode()
    assert fields[b"n"] == str(notification.pk).encode()
    assert b'"message":"Your order is on its way!"' in fields[b"e"]


def test_3_nothing_leaves_before_the_commit(signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """A transaction that is rolled back has told nobody anything."""
    with transaction.atomic():
        notify(alice, "Nobody will ever read this")
        assert redis_client.xlen(keys.stream("notifications")) == 0
        transaction.set_rollback(True)
    assert redis_client.xlen(keys.stream("notifications")) == 0
    assert not Event.objects.exists()


def test_4_with_redis_away_the_outbox_keeps_it(signalbox: Any, alice: User) -> None:
    """The caller never fails; the sweep publishes what was left."""
    with RedisServer() as server:
        server.kill()
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 0}
        event = notify(alice, "Written down")
        assert event.published_at is None
        server.start()
        assert outbox.sweep() == 1
        event.refresh_from_db()
        assert event.published_at is not None
        conf.sync_redis().close()


def test_5_the_inbox_knows_what_was_read(signalbox: Any, alice: User) -> None:
    """Unseen, seen, read, archived: four times on a row."""
    notify(alice, "First")
    notify(alice, "Second")
    newest = Notification.objects.inbox(alice.pk).first()
    mark_read(alice.pk, [newest.pk])
    assert list(Notification.objects.unread(alice.pk).values_list("event__message", flat=True)) == ["First"]


@pytest.fixture
async def multiplexer(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Multiplexer]:
    async with (
        clients.async_reader(redis_server.url) as reader,
        clients.async_publisher(redis_server.url) as publisher,
        Multiplexer(reader, publisher=publisher, probe_channel=f"{key_prefix}probe") as multiplexer,
    ):
        yield multiplexer


async def test_6_many_listeners_share_one_redis_subscription(
    multiplexer: Multiplexer, redis_client: redis.Redis, key_prefix: str
) -> None:
    """To Redis they are one; each of them gets everything."""
    name = f"{key_prefix}vehicles"
    async with multiplexer.subscribe(name) as first, multiplexer.subscribe(name) as second:
        assert redis_client.publish(name, b"tram 7") == 1
        assert (await first.receive()).data == (await second.receive()).data == b"tram 7"


async def test_7_a_stream_worker_acks_after_the_work(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Until then the entry is pending, and if the worker dies somebody else gets it."""
    done: list[Entry] = []

    async def work(entries: Sequence[Entry]) -> None:
        done.extend(entries)

    stream = keys.stream("notifications")
    redis_client.xadd(stream, {"order": "7"})
    async with (
        clients.async_reader(redis_server.url) as reader,
        clients.async_publisher(redis_server.url) as client,
    ):
        worker = StreamWorker(
            reader,
            stream,
            "workers",
            work,
            redis=client,
        )
        running = asyncio.create_task(worker.run())
        await wait_until(lambda: len(done) == 1)
        await worker.stop()
        await running
    assert done[0].fields == {b"order": b"7"}
    assert redis_client.xpending(stream, "workers")["pending"] == 0
