"""Balances: nothing is missing on a busy system, and what is lost is missing until it is restored."""

import asyncio
import datetime
from collections.abc import Iterable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from notifications import conf as notifications_conf
from notifications import services
from notifications.database import clock
from notifications.database.clock import stored
from notifications.delivery.bot import Bot
from notifications.models import Delivery, Event, Notification
from notifications.statistics import balances
from notifications.statistics.balances import BROWSERS, PLANNING, read_balances
from notifications.statistics.figures import Balance, Period
from notifications.statistics.rows import read_rows
from notifications.transports import Address, Message, Transport
from notifications.workers.recovery import refill
from notifications.workers.relay import Relay
from realtime import conf
from realtime.streams import dead_letters
from realtime.streams.keys import GroupKeys
from realtime.streams.status import read_status
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
GROUPS = ("relay", "bot")


class Sending(Transport):
    """Accepts every message."""

    def __init__(self) -> None:
        super().__init__(name="console")

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="home")]

    async def send(self, message: Message, address: Address) -> str:
        return "ok"


@pytest.fixture(autouse=True)
def _quick(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {"REFILL_GRACE_SECONDS": 0}


def read(period: Period = "month") -> dict[str, Balance]:
    """The balances, by name."""
    asked_at = clock.now()
    (stream,) = read_status(conf.sync_redis(), [conf.keys().stream(notifications_conf.STREAM)], groups=GROUPS)
    found = read_balances(read_rows(period), stream, asked_at=asked_at, transports=["console"])
    return {each.name: each for each in found}


def parts_of(balance: Balance) -> tuple[int, ...]:
    """Accepted, delivered, failed, in progress, difference."""
    return balance.accepted, balance.delivered, balance.failed, balance.in_progress, balance.difference


def delete_stream(client: redis.Redis) -> None:
    client.delete(conf.keys().stream(notifications_conf.STREAM))


def make_older(seconds: float) -> None:
    """As if everything had been published that long ago."""
    for event in Event.objects.exclude(published_at=None):
        past = event.created_at - datetime.timedelta(seconds=seconds)
        Event.objects.filter(pk=event.pk).update(published_at=past, created_at=past)
        event.notifications.update(created_at=past)


def test_what_waits_on_the_stream_is_in_progress() -> None:
    """Published and not handled; what is still in the outbox is not accepted."""
    users = make_users(4)
    services.notify(users[:3], "Hello")
    event = Event.objects.create(message="in the outbox")
    Notification.objects.create(event=event, recipient=users[3])
    found = read()
    assert parts_of(found[BROWSERS]) == parts_of(found[PLANNING]) == (3, 0, 0, 3, 0)


def test_a_deleted_stream_is_missing_until_the_sweep_restores_it(redis_client: redis.Redis) -> None:
    """At once, also for what was published just before."""
    users = make_users(5)
    services.notify(users, "Hello")
    delete_stream(redis_client)
    found = read()
    assert parts_of(found[BROWSERS]) == parts_of(found[PLANNING]) == (5, 0, 0, 0, 5)
    services.notify(users[:2], "newer, and on the stream")
    assert parts_of(read()[BROWSERS]) == (7, 0, 0, 2, 5)
    assert refill() == 10
    assert parts_of(read()[BROWSERS]) == (7, 0, 0, 7, 0)


@pytest.mark.parametrize("settled_seconds", [0, 10])
async def test_it_is_balanced_at_every_moment_under_load(
    redis_server: RedisServer, keys: Any, settled_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While notifications are published, relayed, planned and sent, no read shows a difference.

    Neither if every entry is looked at in each read.
    """
    monkeypatch.setattr(balances, "SETTLED", datetime.timedelta(seconds=settled_seconds))
    users = await sync_to_async(make_users)(20)
    bot = Bot({"console": Sending()})
    differences: list[tuple[int, ...]] = []

    async def publish() -> None:
        for number in range(25):
            await services.anotify(users[number % 5 :], f"number {number}")

    async with (
        working(redis_server.url, keys, bot, group="bot"),
        working(redis_server.url, keys, Relay(), group="relay"),
    ):
        publishing = asyncio.create_task(publish())
        while not publishing.done() or (await sync_to_async(read)())[BROWSERS].in_progress:
            found = await sync_to_async(read)()
            differences.append(tuple(each.difference for each in found.values()))
        await publishing
    assert len(differences) > 3
    assert set(differences) == {(0, 0, 0)}


async def test_a_loss_under_load_shows_its_number(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is deleted in the middle: what it had is missing, however much goes on, until it is restored."""
    # As if it had been published ten seconds ago.
    monkeypatch.setattr(balances, "SETTLED", datetime.timedelta(0))
    users = await sync_to_async(make_users)(30)
    await services.anotify(users[:20], "lost")
    await sync_to_async(delete_stream)(redis_client)
    async with working(redis_server.url, keys, Relay(), group="relay") as relay:
        for number in range(10):
            await services.anotify(users[20:], f"number {number}")
            assert (await sync_to_async(read)())[BROWSERS].difference == 20
        await wait_until(lambda: relay.statistics().handled_count == 100)
        assert parts_of((await sync_to_async(read)())[BROWSERS]) == (120, 100, 0, 0, 20)
        await sync_to_async(refill)()
        await wait_until(lambda: relay.statistics().handled_count >= 120)
        assert parts_of((await sync_to_async(read)())[BROWSERS]) == (120, 120, 0, 0, 0)


def test_an_entry_counts_wherever_it_is(redis_client: redis.Redis, alice: User) -> None:
    """Unread, read by a worker, and parked."""
    stream = conf.keys().stream(notifications_conf.STREAM)
    services.notify(alice, "Hello")
    make_older(60)
    for group in GROUPS:
        redis_client.xgroup_create(stream, group, "0")
    assert read()[BROWSERS].difference == 0
    redis_client.xreadgroup("relay", "somebody", {stream: ">"})
    assert parts_of(read()[BROWSERS]) == (1, 0, 0, 1, 0)
    ((id, _),) = redis_client.xrange(stream)
    redis_client.xack(stream, "relay", id)
    assert parts_of(read()[BROWSERS]) == (1, 0, 0, 0, 1)


async def test_dead_letters_have_failed_and_replayed_ones_are_in_progress(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Any
) -> None:
    """A replayed letter waits in a backlog, without its entry on the stream. A purged one is missing."""
    users = await sync_to_async(make_users)(3)
    await services.anotify(users, "Hello")

    async def refuse(entries: Any) -> None:
        raise ValueError("broken")

    group = GroupKeys(keys.stream("notifications"), "relay")
    async with working(redis_server.url, keys, refuse, group="relay", max_attempts=1) as worker:
        await wait_until(lambda: redis_client.xlen(group.dead_letters) == 3)
        assert worker.statistics()
    await sync_to_async(make_older)(60)
    assert parts_of((await sync_to_async(read)())[BROWSERS]) == (3, 0, 3, 0, 0)
    (letters,) = dead_letters.find(redis_client, group)
    assert dead_letters.replay(redis_client, group, letters[:1]) == 1
    assert parts_of((await sync_to_async(read)())[BROWSERS]) == (3, 0, 2, 1, 0)
    assert dead_letters.purge(redis_client, group, letters[1:2]) == 1
    assert parts_of((await sync_to_async(read)())[BROWSERS]) == (3, 0, 1, 1, 1)


@pytest.mark.parametrize("entries_limit", [1000, 0])
def test_older_dead_letters_take_nothing_from_what_the_period_planned(
    redis_client: redis.Redis, keys: Any, monkeypatch: pytest.MonkeyPatch, entries_limit: int
) -> None:
    """They are accepted and failed beside it. Neither does it matter whether entries are looked at one by one."""
    monkeypatch.setattr(balances, "ENTRIES_LIMIT", entries_limit)
    users = make_users(8)
    services.notify(users[:3], "old")
    make_older(2 * 86_400)
    services.notify(users[3:], "new")
    for number, each in enumerate(Notification.objects.order_by("pk")):
        if number < 3:
            redis_client.xadd(keys.dead_letters("notifications", "bot"), {"n": str(each.pk)})
    Notification.objects.filter(recipient__in=users[3:7]).update(dispatched_at=stored(clock.now()))
    delete_stream(redis_client)
    stream = conf.keys().stream(notifications_conf.STREAM)
    redis_client.xadd(stream, {"n": str(Notification.objects.get(recipient=users[7]).pk)})
    assert parts_of(read("hour")[PLANNING]) == (8, 4, 3, 1, 0)
    assert parts_of(read("month")[PLANNING]) == (8, 4, 3, 1, 0)


def test_dead_letters_of_others_hide_no_loss(redis_client: redis.Redis, alice: User, keys: Any) -> None:
    """Malformed entries of another program, and letters of notifications that browsers have."""
    services.notify(alice, "Hello")
    Notification.objects.update(relayed_at=stored(clock.now()))
    done = Notification.objects.get()
    services.notify(alice, "lost")
    delete_stream(redis_client)
    for fields in ({"n": "not a number"}, {"x": "y"}, {"n": "9" * 30}, {"n": str(done.pk)}):
        redis_client.xadd(keys.dead_letters("notifications", "relay"), fields)
    assert parts_of(read()[BROWSERS]) == (2, 1, 0, 0, 1)


def test_repeated_entries_make_nothing_negative(redis_client: redis.Redis, alice: User) -> None:
    """Further attempts for the bot, entries that are twice on the stream, and deleted notifications."""
    stream = conf.keys().stream(notifications_conf.STREAM)
    services.notify(alice, "Hello")
    ((_, fields),) = redis_client.xrange(stream)
    for extra in ({}, {}, {b"g": b"bot"}):
        redis_client.xadd(stream, {**fields, **extra})
    assert parts_of(read()[BROWSERS]) == (1, 0, 0, 1, 0)
    Event.objects.all().delete()
    assert parts_of(read()[BROWSERS]) == (0, 0, 0, 0, 0)


def test_an_entry_for_the_other_group_is_no_evidence(redis_client: redis.Redis, alice: User) -> None:
    """The relay ignores entries for the bot."""
    stream = conf.keys().stream(notifications_conf.STREAM)
    services.notify(alice, "Hello")
    ((id, fields),) = redis_client.xrange(stream)
    redis_client.xadd(stream, {**fields, b"g": b"bot"})
    redis_client.xdel(stream, id)
    make_older(60)
    found = read()
    assert (found[BROWSERS].difference, found[PLANNING].difference) == (1, 0)


def test_with_many_entries_their_number_is_the_evidence(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What notifications exceed entries by is lost for certain."""
    monkeypatch.setattr(balances, "ENTRIES_LIMIT", 3)
    users = make_users(12)
    services.notify(users[:5], "lost")
    delete_stream(redis_client)
    services.notify(users[5:], "waits")
    # The clocks of processes may differ: what is this young may be newer than the look at the stream.
    assert parts_of(read()[BROWSERS]) == (12, 0, 0, 12, 0)
    make_older(60)
    assert parts_of(read()[BROWSERS]) == (12, 0, 0, 7, 5)


def test_the_system_gives_up_after_seven_days() -> None:
    """Older notifications are not put on the stream any more: they have failed."""
    services.notify(make_users(2), "Hello")
    make_older(8 * 86_400)
    found = read()
    assert parts_of(found[BROWSERS]) == parts_of(found[PLANNING]) == (2, 0, 2, 0, 0)


def test_deliveries_by_state(alice: User, bob: User) -> None:
    """In progress: due at a time, or held. A delivery that is to be sent and has no time for it is lost."""
    event = Event.objects.create(message="m", published_at=stored(clock.now()))
    for number, user in enumerate((alice, bob)):
        notification = Notification.objects.create(event=event, recipient=user)
        for name, state in (("email", "sent"), ("chat", "failed"), ("console", "held" if number else "pending")):
            due_at = stored(clock.now()) if state == "pending" else None
            Delivery.objects.create(notification=notification, transport=name, state=state, due_at=due_at)
    found = read()
    assert parts_of(found["email"]) == (2, 2, 0, 0, 0)
    assert parts_of(found["chat"]) == (2, 0, 2, 0, 0)
    assert parts_of(found["console"]) == (2, 0, 0, 2, 0)
    Delivery.objects.filter(state="pending").update(due_at=None)
    assert parts_of(read()["console"]) == (2, 0, 0, 1, 1)
    Delivery.objects.filter(transport="email").update(state="skipped")
    assert read()["email"].skipped == 2
