"""The database is the truth: what Redis has lost, and what is due again, is put on the stream."""

import datetime
from collections.abc import Iterable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import services
from notifications.delivery import records
from notifications.delivery.bot import Bot
from notifications.models import Delivery, Event, Notification
from notifications.transports import Address, Message, Transport
from notifications.workers.recovery import refill
from notifications.workers.relay import Relay
from realtime.exceptions import StreamUnavailable
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users
from tests.support.plans import plan
from tests.support.redis_server import RedisServer
from tests.support.streams import Recorder, working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
GROUPS = ("relay", "bot")


class Counting(Transport):
    """A transport that counts its messages by notification."""

    def __init__(self) -> None:
        super().__init__(name="console")
        self.counts: dict[int, int] = {}

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="home")]

    async def send(self, message: Message, address: Address) -> str:
        id = message.notification.id
        self.counts[id] = self.counts.get(id, 0) + 1
        return ""


@pytest.fixture(autouse=True)
def _quick(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {"REFILL_GRACE_SECONDS": 0}


def wipe(client: redis.Redis, keys: Keys) -> None:
    """Delete this test's keys, like FLUSHALL."""
    for name in client.scan_iter(match=f"*{keys.prefix}*"):
        client.delete(name)


def groups_of(client: redis.Redis, keys: Keys) -> list[tuple[bytes, bytes]]:
    """The notification and the group of each entry that is for one group only."""
    return [(fields[b"n"], fields[b"g"]) for _, fields in client.xrange(keys.stream("notifications")) if b"g" in fields]


async def test_a_wiped_redis_is_refilled(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """Notifications that were not handled are delivered once. Others are not touched."""
    users = await sync_to_async(make_users)(30)
    transport = Counting()
    bot = Bot({"console": transport})
    async with working(redis_server.url, keys, bot, group="bot") as worker:
        await services.anotify(users[:10], "before")
        await wait_until(lambda: worker.statistics().handled_count == 10)
    await services.anotify(users[10:], "unhandled")
    await sync_to_async(wipe)(redis_client, keys)
    assert await sync_to_async(refill)() == 30 + 20
    assert await sync_to_async(refill)() == 0
    async with (
        working(redis_server.url, keys, bot, group="bot") as worker,
        working(redis_server.url, keys, Relay(), group="relay") as relay,
    ):
        await wait_until(lambda: worker.statistics().handled_count == relay.statistics().handled_count == 50)
    assert len(transport.counts) == 30
    assert set(transport.counts.values()) == {1}
    assert await Notification.objects.filter(relayed_at=None).acount() == 0
    assert await Delivery.objects.filter(state="sent").acount() == 30
    assert await sync_to_async(refill)() == 0


def test_an_entry_on_the_stream_is_not_put_back(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Whether unread, or read and not finished, for any time."""
    stream = keys.stream("notifications")
    services.notify(alice, "unread")
    ((id, fields),) = redis_client.xrange(stream)
    redis_client.delete(stream)
    # The same an hour ago, ids of the stream included.
    age(hours=1)
    redis_client.xadd(stream, fields, id=int(id.partition(b"-")[0]) - 3_600_000)
    for group in GROUPS:
        redis_client.xgroup_create(stream, group, "0")
    assert refill() == 0
    for group in GROUPS:
        redis_client.xreadgroup(group, "somebody", {stream: ">"})
    assert refill() == 0
    for group in GROUPS:
        ((id, _),) = redis_client.xrange(stream)
        redis_client.xack(stream, group, id)
    assert refill() == 2
    assert sorted(group for _, group in groups_of(redis_client, keys)) == [b"bot", b"relay"]


def test_what_waits_in_a_line_is_left_there(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Outside the stream, for its next attempt or behind another of its user."""
    stream = keys.stream("notifications")
    services.notify(alice, "waiting")
    ((id, _),) = redis_client.xrange(stream)
    for group in GROUPS:
        redis_client.xgroup_create(stream, group, "$")
        redis_client.hset(keys.parked_entries("notifications", group), id, "as the worker writes it")
    assert refill() == 0
    redis_client.delete(*(keys.parked_entries("notifications", group) for group in GROUPS))
    assert refill() == 2


def test_a_lost_notification_is_put_back_once(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Even if it is never handled, because its handler always fails. Not after a week."""
    services.notify(alice, "lost")
    redis_client.delete(keys.stream("notifications"))
    assert refill() == 2
    for group in GROUPS:
        redis_client.xgroup_create(keys.stream("notifications"), group, "$")
    assert refill() == 0
    wipe(redis_client, keys)
    age(days=8)
    assert refill() == 0


async def test_a_notification_that_is_lost_again_is_put_back_again(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Only the stream is deleted; the guards stay."""
    stream = keys.stream("notifications")
    await services.anotify(await sync_to_async(make_users)(1), "lost twice")
    for _ in range(3):
        redis_client.delete(stream)
        async with working(redis_server.url, keys, Recorder(), group="relay", groups=GROUPS) as worker:
            await worker.wait_ready()
        assert await sync_to_async(refill)() == 2
        assert await sync_to_async(refill)() == 0
    # It waits there, though it was put back before its group was made again.
    redis_client.xgroup_destroy(stream, "bot")
    async with working(redis_server.url, keys, Recorder(), group="relay", groups=GROUPS) as worker:
        await worker.wait_ready()
    assert await sync_to_async(refill)() == 0


def test_entries_for_a_missing_group_are_not_put_back(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """The group's first worker creates it, and reads from the first entry."""
    services.notify(alice, "waiting")
    age(hours=1)
    ((_, fields),) = redis_client.xrange(keys.stream("notifications"))
    redis_client.delete(keys.stream("notifications"))
    redis_client.xadd(keys.stream("notifications"), fields, id=1)
    assert refill() == 0


def test_an_event_in_the_outbox_is_not_lost(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """The outbox sweep publishes it, with its usual guard."""
    services.notify(alice, "waiting")
    wipe(redis_client, keys)
    Event.objects.update(published_at=None)
    assert refill() == 0


async def test_a_delivery_is_put_back_when_it_is_due(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """For the bot only, so browsers do not get it again. The content is the same."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Counting()
    await services.anotify(alice, "Hello", title="Order 7", url="/orders/7/", data={"order": 7})
    first = (await sync_to_async(entries_on_stream)(redis_client, keys))[0]
    notification = await Notification.objects.aget()
    await Delivery.objects.acreate(notification=notification, transport="console", attempts=1)
    await Notification.objects.aupdate(dispatched_at=timezone.now(), relayed_at=timezone.now())
    await sync_to_async(wipe)(redis_client, keys)
    assert await sync_to_async(refill)() == 1
    assert await sync_to_async(refill)() == 0
    assert groups_of(redis_client, keys) == [(b"%d" % notification.pk, b"bot")]
    (entry,) = await sync_to_async(entries_on_stream)(redis_client, keys)
    assert entry == first
    async with (
        working(redis_server.url, keys, Bot({"console": transport}), group="bot") as worker,
        working(redis_server.url, keys, Relay(Refusing()), group="relay") as relay,
    ):
        await wait_until(lambda: worker.statistics().handled_count == relay.statistics().handled_count == 1)
    assert transport.counts == {notification.pk: 1}
    assert (await Delivery.objects.aget()).attempts == 2


@pytest.mark.parametrize("state", ["pending", "sending"])
def test_a_delivery_without_a_time_to_be_sent_gets_one(
    signalbox: Any, alice: User, bob: User, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When a claim would lapse: a bot may be sending it. It is found by an index, and others stay as they are."""
    signalbox.NOTIFICATIONS = {
        **signalbox.NOTIFICATIONS,
        "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.console.ConsoleTransport"}},
    }
    now = timezone.now()
    event = Event.objects.create(message="x", published_at=now)
    for user, names in ((alice, {"email": state, "gone": state}), (bob, {"email": "sent", "chat": "held"})):
        done = Notification.objects.create(event=event, recipient=user, relayed_at=now, dispatched_at=now)
        for transport, its_state in names.items():
            Delivery.objects.create(notification=done, transport=transport, state=its_state, due_at=None)
    # Of a table with few rows, a server may read any index as a whole.
    finished = [
        Delivery(notification=done, transport=f"t-{number}", state="sent", due_at=None) for number in range(2000)
    ]
    Delivery.objects.bulk_create(finished)
    with CaptureQueriesContext(connection) as queries:
        assert refill() == 0
    (update,) = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE notifications_delivery")
        assert "delivery_finished" in " ".join(plan(update))
        # Other tests ask for plans too.
        transaction.set_rollback(True)
    due = Delivery.objects.get(transport="email", state=state)
    assert due.due_at is not None
    assert 0 < (due.due_at - now).total_seconds() < 120
    assert Delivery.objects.filter(due_at=None).count() == 3 + len(finished)
    assert [record.getMessage() for record in caplog.records] == [
        "gave a time to 1 deliveries that were to be sent but had none"
    ]
    Delivery.objects.filter(pk=due.pk).update(due_at=now)
    assert refill() == 1


def test_an_entry_that_waits_for_a_bot_is_not_appended_again(
    redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """Otherwise the stream would grow while no bot runs. If it was read without effect, it is appended again."""
    services.notify(alice, "Hello")
    notification = Notification.objects.get()
    Notification.objects.update(dispatched_at=timezone.now(), relayed_at=timezone.now())
    Delivery.objects.create(notification=notification, transport="console", due_at=timezone.now())
    stream = keys.stream("notifications")
    ((id, fields),) = redis_client.xrange(stream)
    redis_client.delete(stream)
    # The same ten minutes ago.
    redis_client.xadd(stream, fields, id=int(id.partition(b"-")[0]) - 600_000)
    redis_client.xgroup_create(stream, "bot", "0")
    Delivery.objects.update(queued_at=timezone.now() - datetime.timedelta(minutes=5))
    assert refill() == 0
    redis_client.xgroup_setid(stream, "bot", "$")
    assert refill() == 1


def test_a_dead_letter_does_not_hide_a_lost_notification(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """The dead letter is unfinished too, and older. It was put back once."""
    for number in range(3):
        services.notify(alice, str(number))
    wipe(redis_client, keys)
    dead = Notification.objects.order_by("id")[:2]
    assert refill(limit=2) == 4
    redis_client.delete(keys.stream("notifications"))
    assert refill(limit=2) == 2
    lost = Notification.objects.exclude(pk__in=[each.pk for each in dead]).get()
    assert {id for id, _ in groups_of(redis_client, keys)} == {b"%d" % lost.pk}


class Refusing:
    """A channel layer that must not be used."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        raise AssertionError("sent to a browser again")


def test_an_outage_of_redis_is_reported(signalbox: Any, alice: User) -> None:
    """No delivery is marked as queued."""
    notification = Notification.objects.create(
        event=Event.objects.create(message="x", published_at=timezone.now()), recipient=alice
    )
    Delivery.objects.create(notification=notification, transport="console")
    signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": "unix:///nowhere.sock"}
    with pytest.raises(StreamUnavailable):
        refill()
    assert records.find_overdue(10, read_until=timezone.now()) == [notification.pk]


def age(**how_long: float) -> None:
    """Move all times back."""
    passed = datetime.timedelta(**how_long)
    for event in Event.objects.all():
        Event.objects.filter(pk=event.pk).update(
            created_at=event.created_at - passed, published_at=event.published_at - passed
        )
        event.notifications.update(created_at=event.created_at - passed)
