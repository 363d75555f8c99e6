"""Delivery statistics are computed from the database and Redis alone, also when Redis is away."""

import dataclasses
import datetime
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import services, statistics
from notifications.database.clock import stored
from notifications.models import Delivery, Event, Notification
from realtime import conf
from realtime.redis import clients
from realtime.redis.keys import Keys
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer

UTC = datetime.UTC
NOW = datetime.datetime(2026, 3, 29, 14, 30, tzinfo=UTC)
# The page promises 2 s for Redis; the rest is for a machine that is busy.
REDIS_AWAY_SECONDS = 2.0
SLACK_SECONDS = 6.0


def tell(
    users: list[User], *, created_at: datetime.datetime = NOW, published: bool = True, **states: datetime.datetime
) -> Event:
    """Rows as some time after a notify(). `states` are the times of each notification."""
    created_at, states = stored(created_at), {name: stored(at) for name, at in states.items()}
    event = Event.objects.create(message="m", created_at=created_at, published_at=created_at if published else None)
    Notification.objects.bulk_create(
        Notification(event=event, recipient=user, created_at=created_at, **states) for user in users
    )
    return event


def deliver(event: Event, *states: str, transport: str = "email", created_at: datetime.datetime = NOW) -> None:
    """A delivery in each of these states, for the event's notifications in turn."""
    told = event.notifications.order_by("pk")
    Delivery.objects.bulk_create(
        Delivery(notification=notification, transport=transport, state=state, created_at=stored(created_at))
        for notification, state in zip(told, states, strict=False)
    )


@pytest.fixture
def own_redis(signalbox: Any) -> Iterator[RedisServer]:
    """A server that the test may stop. Its data survives a restart."""
    with RedisServer(append_only=True) as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        yield server
        conf.sync_redis().close()


def forget_everything_in_this_process() -> None:
    """Forget everything that a new process would not have."""
    conf.sync_redis().close()
    conf._sync_clients.clear()
    conf.get_settings.cache_clear()


@pytest.mark.django_db
def test_a_notification_counts_for_every_state_that_it_has_reached() -> None:
    """Created: all. Published: those whose event left the outbox. Relayed, seen, read: those with that time."""
    users = make_users(4)
    tell(users[:1], published=False)
    tell(users[:2])
    tell(users, relayed_at=NOW)
    tell(users[:3], relayed_at=NOW, seen_at=NOW)
    tell(users[:1], relayed_at=NOW, seen_at=NOW, read_at=NOW, archived_at=NOW)
    tell([], published=False)
    assert statistics.read_totals() == statistics.Totals(
        events=6, waiting=2, scheduled=0, created=11, published=10, relayed=8, seen=4, read=1
    )


@pytest.mark.django_db
def test_an_empty_site_has_zeros_and_24_hours() -> None:
    """An empty database is not an error, and the chart still has its hours."""
    assert statistics.read_totals().created == 0
    assert statistics.read_deliveries() == ()
    assert [hour.created for hour in statistics.read_hours(NOW)] == [0] * 24
    assert [hour.sent for hour in statistics.read_delivery_hours(NOW)] == [0] * 24


@pytest.mark.django_db
def test_hours_begin_on_the_hour_in_utc_and_none_is_missing(settings: Any) -> None:
    """The last is the hour of now, the first the 23rd before it, whatever the time zone of the site is."""
    settings.TIME_ZONE = "Asia/Kathmandu"
    users = make_users(2)
    this_hour = NOW.replace(minute=0)
    first = this_hour - datetime.timedelta(hours=23)
    moment = datetime.timedelta(microseconds=1)
    tell(users, created_at=first - moment)
    tell(users, created_at=first, relayed_at=NOW)
    tell(users[:1], created_at=first + datetime.timedelta(hours=1) - moment, relayed_at=NOW, seen_at=NOW)
    tell(users, created_at=this_hour - moment)
    tell(users[:1], created_at=this_hour, relayed_at=NOW, seen_at=NOW, read_at=NOW)
    tell(users, created_at=this_hour + datetime.timedelta(hours=1))
    hours = statistics.read_hours(NOW.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=45))))
    assert [hour.start for hour in hours] == [first + datetime.timedelta(hours=number) for number in range(24)]
    assert hours[0] == statistics.Hour(start=first, created=3, relayed=3, seen=1)
    assert hours[22].created == 2
    assert hours[23] == statistics.Hour(start=this_hour, created=1, relayed=1, seen=1, read=1)
    assert sum(hour.created for hour in hours) == 6


@pytest.mark.django_db
def test_the_number_of_queries_does_not_grow(signalbox: Any, django_assert_num_queries: Any) -> None:
    """Seven queries and one Redis round trip, however much there is to count."""
    for hours in range(30):
        at = timezone.now() - datetime.timedelta(hours=hours)
        event = tell(make_users(3, prefix=f"u{hours}-"), created_at=at)
        deliver(event, "sent", "failed", "pending", created_at=at)
    with django_assert_num_queries(7):
        statistics.collect()


@pytest.mark.django_db
def test_a_scheduled_event_does_not_count_as_waiting(signalbox: Any) -> None:
    """It has no notifications yet, and is not late. A cancelled event counts neither as scheduled nor as waiting."""
    user = make_users(1)[0]
    later = [services.notify(user, "Later", deliver_after=datetime.timedelta(hours=1)) for _ in range(2)]
    assert statistics.read_totals() == statistics.Totals(
        events=2, waiting=0, scheduled=2, created=0, published=0, relayed=0, seen=0, read=0
    )
    services.cancel(later[0])
    totals = statistics.read_totals()
    assert (totals.waiting, totals.scheduled) == (0, 1)


@pytest.mark.django_db
def test_each_delivery_is_counted_once_by_its_state() -> None:
    """By transport, and by the hour in which it was created. "Pending" includes sending."""
    event = tell(make_users(5))
    deliver(event, "sent", "sent", "failed", "skipped", "sending", transport="email")
    deliver(event, "pending", "sent", transport="chat")
    deliver(event, "failed", transport="sms", created_at=NOW - datetime.timedelta(hours=30))
    counts = statistics.DeliveryCounts
    assert statistics.read_deliveries() == (
        counts(transport="chat", sent=1, failed=0, skipped=0, pending=1),
        counts(transport="email", sent=2, failed=1, skipped=1, pending=1),
        counts(transport="sms", sent=0, failed=1, skipped=0, pending=0),
    )
    hours = statistics.read_delivery_hours(NOW)
    this_hour = NOW.replace(minute=0)
    assert hours[-1] == statistics.DeliveryHour(start=this_hour, sent=3, failed=1, skipped=1, pending=2)
    assert [(hour.sent, hour.failed) for hour in hours[:-1]] == [(0, 0)] * 23


@pytest.mark.django_db
@pytest.mark.database_independent
def test_counting_uses_indexes(signalbox: Any) -> None:
    """In SQLite's plan there is one scan of the notifications, for their times. All other counts use indexes."""
    with CaptureQueriesContext(connection) as asked:
        statistics.collect()
    scanned = []
    with connection.cursor() as cursor:
        for query in asked.captured_queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            steps = [step for *_, step in cursor.fetchall() if "notifications_" in step]
            scanned += [step for step in steps if step.startswith("SCAN") and "INDEX" not in step]
    assert scanned == ["SCAN notifications_notification"]


def test_figures_from_redis(redis_client: redis.Redis, keys: Keys) -> None:
    """The status of each group as in `stream_status`, and the sums of the ingress counters."""
    stream = keys.stream("notifications")
    ids = [redis_client.xadd(stream, {"n": number}) for number in range(5)]
    redis_client.xgroup_create(stream, "relay", id="0")
    redis_client.xreadgroup("relay", "worker", {stream: ">"}, count=3)
    redis_client.xack(stream, "relay", ids[0])
    for group, count in (("relay", 1), ("bot", 2)):
        for _ in range(count):
            redis_client.xadd(keys.dead_letters("notifications", group), {"n": 1})
    for name, count in (("accepted", 7), ("refused:not_json", 2), ("refused:oversize", 1), ("dropped", 4)):
        redis_client.hincrby(keys.counters("ingress"), name, count)

    redis_client.hset(keys.parked_entries("notifications", "relay"), "60000-0", "as a worker writes it")

    status = statistics.read_redis(redis_client, keys)
    assert status.stream_length == 5
    relay, bot = status.groups
    assert (relay.name, relay.lag, relay.pending, relay.delayed, relay.dead) == ("relay", 2, 2, 1, 1)
    assert (relay.consumers, relay.workers) == (1, 0)
    # The parked entry is from the beginning of 1970.
    assert relay.oldest.endswith(" d")
    # Not made yet: it will start from the first entry.
    assert (bot.name, bot.lag, bot.pending, bot.delayed, bot.dead) == ("bot", 5, 0, 0, 2)
    assert (bot.consumers, bot.workers) == (0, 0)
    assert bot.oldest.endswith(" s")
    assert status.failed == 3
    assert (status.ingress_accepted, status.ingress_refused, status.ingress_dropped) == (7, 3, 4)


def test_a_redis_without_anything_has_zeros(redis_client: redis.Redis, keys: Keys) -> None:
    """The stream, the groups and the counters are created when they are first needed."""
    status = statistics.read_redis(redis_client, keys)
    assert (status.stream_length, status.failed, status.ingress_accepted) == (0, 0, 0)
    assert [(group.name, group.lag, group.pending, group.oldest) for group in status.groups] == [
        ("relay", 0, 0, "-"),
        ("bot", 0, 0, "-"),
    ]


@pytest.mark.django_db(transaction=True)
def test_figures_after_a_notify(signalbox: Any) -> None:
    """Three notifications are created and published, and both groups have three entries to read."""
    services.notify(make_users(3), "Your order is on its way!")
    found = statistics.collect()
    assert (found.totals.events, found.totals.created, found.totals.published, found.totals.waiting) == (1, 3, 3, 0)
    assert found.redis is not None
    assert found.redis.stream_length == 3
    assert [group.lag for group in found.redis.groups] == [3, 3]
    assert found.failed == 0
    assert found.hours[-1].created == 3


def without_ages(found: statistics.Statistics) -> statistics.Statistics:
    """The same figures without the ages of the oldest entries, which grow."""
    assert found.redis is not None
    groups = [dataclasses.replace(group, oldest_seconds=None) for group in found.redis.groups]
    return dataclasses.replace(found, redis=dataclasses.replace(found.redis, groups=groups))


@pytest.mark.django_db(transaction=True)
def test_figures_survive_a_restart_of_everything(own_redis: RedisServer, keys: Keys) -> None:
    """Another process, and a Redis that was killed and restarted, give the same figures."""
    users = make_users(5)
    services.notify(users, "Your order is on its way!")
    now = timezone.now()
    deliver(tell(users[:2], relayed_at=NOW, seen_at=NOW), "sent", "failed", created_at=now)
    with clients.publisher(own_redis.url) as client:
        client.xadd(keys.dead_letters("notifications", "bot"), {"n": 1})
        client.hincrby(keys.counters("ingress"), "accepted", 9)
    before = statistics.collect(now)
    own_redis.kill()
    own_redis.start()
    forget_everything_in_this_process()
    after = statistics.collect(now)
    assert without_ages(after) == without_ages(before)
    assert (after.totals.created, after.totals.seen, after.failed) == (7, 2, 1)
    assert (after.deliveries[0].failed, after.delivery_hours[-1].failed) == (1, 1)


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_without_redis_the_figures_of_the_database_are_there_soon(own_redis: RedisServer, how: str) -> None:
    """The number of dead letters is unknown, not zero. The reason is given, and the call ends in time."""
    tell(make_users(2), published=False)
    if how == "killed":
        own_redis.kill()
    else:
        own_redis.pause()
    started = time.monotonic()
    found = statistics.collect()
    assert time.monotonic() - started < REDIS_AWAY_SECONDS + SLACK_SECONDS
    assert found.redis is None
    assert found.failed is None
    assert found.redis_error
    assert (found.totals.created, found.totals.published, found.totals.waiting) == (2, 0, 1)
    if how == "hanging":
        own_redis.resume()


@pytest.mark.django_db
def test_a_redis_key_of_another_type_is_reported(signalbox: Any, redis_client: redis.Redis, keys: Keys) -> None:
    """There is another program's list instead of our stream. The page says so and does not fail."""
    redis_client.rpush(keys.stream("notifications"), "not ours")
    found = statistics.collect()
    assert found.redis is None
    assert "WRONGTYPE" in found.redis_error
