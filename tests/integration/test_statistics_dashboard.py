"""The dashboard's figures together: from the database and Redis, without one of them, and at what cost."""

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from notifications import services
from notifications.database import clock
from notifications.database.clock import stored
from notifications.models import CountedHour, Delivery, Event, Notification
from notifications.statistics import errors, hours, read_dashboard, rows
from notifications.statistics.figures import ErrorExample, Period
from notifications.statistics.hours import HourCounter
from realtime import conf
from realtime.redis.keys import Keys
from realtime.streams.keys import GroupKeys
from tests.support.domain import make_users
from tests.support.plans import plan
from tests.support.redis_server import RedisServer
from tests.support.statistics import expected_rows, figures_of, make_rows
from tests.support.waiting import is_done_within

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
PERIODS: tuple[Period, ...] = ("hour", "day", "month")
HOUR = datetime.timedelta(hours=1)
# The dashboard promises 2 s for Redis; the rest is for a machine that is busy.
REDIS_AWAY_SECONDS, SLACK_SECONDS = 2.0, 6.0


@pytest.fixture
def own_redis(signalbox: Any) -> Iterator[RedisServer]:
    """A server that the test may stop. Its data survives a restart."""
    with RedisServer(append_only=True) as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        yield server
        conf.sync_redis().close()


def keys_of(dashboard: Any) -> set[str]:
    return {notice.key for notice in dashboard.notices}


def test_figures_after_a_notify(redis_client: redis.Redis, keys: Keys) -> None:
    """Rows, balances, groups, workers and the outbox tell the same."""
    services.notify(make_users(3), "Your order is on its way!", kind="order.shipped")
    Event.objects.create(message="in the outbox")
    services.notify(make_users(1, "later"), "Later", deliver_after=HOUR)
    stream = keys.stream("notifications")
    redis_client.xgroup_create(stream, "bot", "0")
    redis_client.xreadgroup("bot", "host-1-abc", {stream: ">"}, count=2)
    redis_client.set(GroupKeys(stream, "bot").worker_lease("host-1-abc"), "token", px=60_000)
    found = read_dashboard("hour")
    assert (found.rows.funnel.created, found.rows.funnel.published, found.rows.funnel.relayed) == (3, 3, 0)
    assert [(each.kind, each.funnel.created) for each in found.rows.kinds] == [("order.shipped", 3)]
    assert [(each.name, each.accepted, each.in_progress, each.difference) for each in found.balances[:2]] == [
        ("browsers", 3, 3, 0),
        ("planning", 3, 3, 0),
    ]
    assert [(group.name, group.lag, group.pending) for group in found.groups] == [("relay", 3, 0), ("bot", 1, 2)]
    (worker,) = found.workers
    assert (worker.group, worker.consumer, worker.is_alive, worker.pending) == ("bot", "host-1-abc", True, 2)
    assert 0 <= worker.idle_seconds < 60
    assert (found.outbox, found.scheduled, found.redis_error) == (1, 1, "")
    # The relay has no worker; the bot has one.
    assert [notice.what for notice in found.notices] == [
        "No relay runs: browsers get no notifications. 3 entries wait."
    ]


def test_a_dead_consumer_is_no_worker(redis_client: redis.Redis, keys: Keys) -> None:
    """It is listed with its pending entries until others have taken them."""
    services.notify(make_users(2), "Hello")
    stream = keys.stream("notifications")
    redis_client.xgroup_create(stream, "relay", "0")
    redis_client.xreadgroup("relay", "host-2-dead", {stream: ">"})
    redis_client.hset(GroupKeys(stream, "relay").owners, "some user", "host-2-dead 1-1")
    found = read_dashboard("hour")
    (worker,) = found.workers
    assert (worker.consumer, worker.is_alive, worker.pending) == ("host-2-dead", False, 2)
    (member,) = found.groups[0].members
    assert member.keys == 1
    assert "no_consumer" in keys_of(found)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_without_redis_the_figures_of_the_database_are_there_soon(own_redis: RedisServer, how: str) -> None:
    """The reason is given. What is not handled counts as in progress, because nobody can say more."""
    make_rows(make_users(2), [clock.now()] * 5, kinds=["info"])
    Event.objects.update(published_at=stored(clock.now()))
    if how == "killed":
        own_redis.kill()
    else:
        own_redis.pause()
    read: list[Any] = []
    assert is_done_within(REDIS_AWAY_SECONDS + SLACK_SECONDS, lambda: read.append(read_dashboard("day")))
    found = read[-1]
    assert figures_of(found.rows) == expected_rows(found.rows.since)
    assert found.redis_error
    assert (found.groups, found.workers, found.tasks) == ((), (), ())
    assert all(balance.difference == 0 for balance in found.balances)
    assert keys_of(found) == {"redis_unavailable"}
    if how == "hanging":
        own_redis.resume()


def forget_everything_in_this_process() -> None:
    """Forget everything that a new process would not have."""
    conf.sync_redis().close()
    conf._sync_clients.clear()
    conf.get_settings.cache_clear()


def test_figures_survive_a_restart_of_everything(own_redis: RedisServer, keys: Keys) -> None:
    """Another process, and a Redis that was killed and restarted, give the same rows, balances and dead letters."""
    services.notify(make_users(5), "Your order is on its way!")
    make_rows(make_users(3, "other"), [clock.now()] * 9, kinds=["info"])
    conf.sync_redis().xadd(keys.dead_letters("notifications", "bot"), {"n": 1})
    now = clock.now()
    before = read_dashboard("hour", now)
    own_redis.kill()
    own_redis.start()
    forget_everything_in_this_process()
    after = read_dashboard("hour", now)
    assert (after.rows, after.balances, after.errors) == (before.rows, before.balances, before.errors)
    assert [group.dead for group in after.groups] == [group.dead for group in before.groups] == [0, 1]


def test_a_redis_key_of_another_type_is_reported(redis_client: redis.Redis, keys: Keys) -> None:
    """There is another program's list instead of our stream. The dashboard says so and does not fail."""
    redis_client.rpush(keys.stream("notifications"), "not ours")
    found = read_dashboard("hour")
    assert "WRONGTYPE" in found.redis_error
    assert "redis_unavailable" in keys_of(found)


def test_overdue_events_are_said() -> None:
    """A relay publishes what is in the outbox, and releases what is due, within seconds."""
    past = stored(clock.now() - 2 * HOUR)
    Event.objects.create(message="forgotten", created_at=past)
    Event.objects.create(message="due", created_at=past, deliver_at=past)
    assert {"outbox_overdue", "scheduled_overdue"} <= keys_of(read_dashboard("hour"))


def test_errors_are_those_of_the_newest_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal answers are counted together, with the newest as an example. Secrets are not shown."""
    monkeypatch.setattr(errors, "FAILURES_LIMIT", 5)
    now = clock.now()
    event = Event.objects.create(message="m", published_at=stored(now))
    answers = [
        "too old",
        "full",
        "given up after 3 attempts: full\r\n",
        "https://hooks.example.com/T0/secret\x1b[31m",
        "token=abc",
        "full",
    ]
    made = [
        Delivery.objects.create(
            notification=Notification.objects.create(event=event, recipient=user),
            transport="chat",
            state="failed",
            answer=answer,
            due_at=None,
            finished_at=stored(now - datetime.timedelta(minutes=10 - number)),
        )
        for number, (user, answer) in enumerate(zip(make_users(6), answers, strict=True))
    ]
    Delivery.objects.create(
        notification=made[0].notification, transport="mail", state="sent", answer="ok", finished_at=stored(now)
    )
    Delivery.objects.create(
        notification=made[1].notification,
        transport="mail",
        state="pending",
        attempts=2,
        answer="refused",
        attempt_at=stored(now),
        due_at=stored(now + HOUR),
    )
    # Not tried yet.
    Delivery.objects.create(notification=made[2].notification, transport="mail", state="pending")
    first, *others = read_dashboard("day").errors
    at = now - datetime.timedelta(minutes=5)
    assert first == ErrorExample(transport="chat", answer="full", is_final=True, count=3, delivery_id=made[5].pk, at=at)
    assert sorted((each.answer, each.is_final) for each in others) == [
        ("https://hooks.example.com/…\\x1b[31m", True),
        ("refused", False),
        ("token=•••", True),
    ]
    assert [each.answer for each in read_dashboard("day", now + 48 * HOUR).errors] == ["refused"]


def test_retries_are_counted_before_their_answers_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer has an id of its own, and final ones are more frequent: the notice has the number all the same."""
    monkeypatch.setattr(errors, "ERRORS_SHOWN", 2)
    now = clock.now()
    event = Event.objects.create(message="m")
    for number, user in enumerate(make_users(14)):
        is_final = number < 4
        Delivery.objects.create(
            notification=Notification.objects.create(event=event, recipient=user),
            transport="chat",
            state="failed" if is_final else "pending",
            answer=f"refused {number % 2}" if is_final else f"503, request {number}",
            attempts=1,
            attempt_at=stored(now),
            due_at=None if is_final else stored(now + HOUR),
            finished_at=stored(now) if is_final else None,
        )
    found = read_dashboard("hour")
    assert [each.is_final for each in found.errors] == [True, True]
    whats = {notice.key: notice.what for notice in found.notices}
    assert whats["transport_retries"] == "chat: at least 10 deliveries have failed and wait for another attempt."


@pytest.mark.parametrize("length", range(140, 200, 7))
def test_an_answer_is_masked_before_it_is_cut(length: int, alice: User) -> None:
    """The cut may be between a password and the "@" by which it is recognised."""
    event = Event.objects.create(message="m")
    Delivery.objects.create(
        notification=Notification.objects.create(event=event, recipient=alice),
        transport="chat",
        state="failed",
        answer=f"{'x' * length} https://bot:s3cretpassw0rdverylongone@hooks.example.com/T0 is away",
        due_at=None,
        finished_at=stored(clock.now()),
    )
    (found,) = read_dashboard("hour").errors
    assert "s3cret" not in found.answer
    assert len(found.answer) <= errors.ANSWER_SHOWN + 1


@pytest.fixture
def many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 31 days, of which most hours are counted, as on a large site."""
    monkeypatch.setattr(rows, "LIVE_LIMIT", 20)
    monkeypatch.setattr(hours, "PAUSES", dict.fromkeys(hours.PAUSES, 0))
    now = clock.now()
    times = [now - number * 15 * HOUR for number in range(48)] + [now - number * HOUR / 30 for number in range(25)]
    make_rows(make_users(5), times, kinds=["info", "order.shipped"])
    HourCounter().count_due(600, now)
    assert CountedHour.objects.count() > 740


@pytest.mark.usefixtures("many_rows")
@pytest.mark.parametrize("period", PERIODS)
def test_no_table_is_read_as_a_whole(period: Period) -> None:
    """
    Every look at notifications, deliveries and events is a search in an index.

    Two are ordered walks along an index that end after LIVE_LIMIT entries, and some read a whole index that has only
    what is unfinished.
    """
    with CaptureQueriesContext(connection) as asked:
        read_dashboard(period)
    tables = [model._meta.db_table for model in (Notification, Delivery, Event)]
    whole_indexes = ("event_outbox", "event_waiting", "delivery_due", "delivery_failed", "notification_unhandled")
    seen = 0
    for query in asked.captured_queries:
        sql = query["sql"].rpartition(" WITH HOLD FOR ")[2]
        for step in plan(sql):
            is_scan = "SCAN" in step if connection.vendor == "sqlite" else "Seq Scan" in step
            seen += any(table in step or "U0" in step for table in tables)
            if is_scan and (any(table in step for table in tables) or " U0" in step):
                is_bounded = "ORDER BY" in sql and "OFFSET 20" in sql and "COVERING INDEX" in step
                assert is_bounded or any(name in step for name in whole_indexes), f"{step} in {sql}"
    assert seen > 10


@pytest.mark.usefixtures("many_rows")
def test_the_number_of_queries_does_not_grow(django_assert_max_num_queries: Any) -> None:
    """With rows in every part of the month, some hundred kinds, and all transports."""
    for period in PERIODS:
        with django_assert_max_num_queries(20):
            read_dashboard(period)


@pytest.mark.usefixtures("many_rows")
def test_all_periods_are_equal_to_the_rows() -> None:
    """Through the whole of it, with counted hours and the newest rows."""
    for period in PERIODS:
        found = read_dashboard(period)
        assert figures_of(found.rows) == expected_rows(found.rows.since)
        assert all(balance.name for balance in found.balances)
