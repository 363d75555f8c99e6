"""The counters of a period: from Redis, and from the database for what Redis no longer has."""

import datetime
from collections import Counter
from typing import Any

import pytest
import redis

from notifications.database.clock import stored
from notifications.models import CounterPeriod
from notifications.statistics.counters import read_counters
from notifications.statistics.rollup import Rollup
from realtime.conf import sync_redis
from realtime.exceptions import StreamUnavailable
from realtime.redis.keys import Keys
from realtime.statistics.fields import encode
from realtime.statistics.histograms import bucket_of
from realtime.statistics.pusher import Pusher
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.django_db

NOW = datetime.datetime(2026, 11, 30, 12, 34, 56, tzinfo=datetime.UTC)
MINUTES, HOURS, DAYS = (datetime.timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))


class Past:
    """A process that counted in the past."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.totals: Counter[str] = Counter()
        self.now: dict[str, int] = {}
        self.moment = NOW
        self._pusher = Pusher(
            lambda: (client, keys),
            role=lambda: "web",
            read=lambda: (Counter(self.totals), self.now),
            clock=lambda: self.moment.timestamp(),
        )

    def count(self, moment: datetime.datetime, **numbers: int) -> None:
        """Add to totals at that moment; "__" stands for the dot in a name."""
        self.moment = moment
        self.totals.update({name.replace("__", "."): number for name, number in numbers.items()})
        assert self._pusher.push()


@pytest.fixture
def past(signalbox: Any, redis_client: redis.Redis, keys: Keys) -> Past:
    return Past(redis_client, keys)


def totals(period: Any, metric: str = "hub.delivery_count", now: datetime.datetime = NOW) -> tuple[int, dict[int, int]]:
    """The total, and the numbers of the points that have some: how many points ago → number."""
    counters = read_counters(period, now)
    points = [point.get(metric, 0) for _, point in counters.points]
    found = {back: number for back, number in enumerate(reversed(points)) if number}
    return counters.totals.get(metric, 0), found


def test_an_hour_has_sixty_minutes(past: Past) -> None:
    """The running one included."""
    past.count(NOW - 60 * MINUTES, hub__delivery_count=1000)
    past.count(NOW - 59 * MINUTES, hub__delivery_count=100)
    past.count(NOW, hub__delivery_count=1)
    assert totals("hour") == (101, {0: 1, 59: 100})
    starts = [start for start, _ in read_counters("hour", NOW).points]
    assert (len(starts), starts[-1]) == (60, NOW.replace(second=0))


def test_a_day_has_twenty_four_hours_and_a_month_thirty_days(past: Past) -> None:
    """Redis is enough for the newest day; the older ones are in the database."""
    rollup = Rollup()
    for hours, number in ((700, 100_000), (100, 10_000), (30, 1000), (23, 100), (1, 10), (0, 1)):
        moment = NOW - hours * HOURS
        past.count(moment, hub__delivery_count=number)
        rollup.copy(moment)
    assert totals("day") == (111, {0: 1, 1: 10, 23: 100})
    total, points = totals("month")
    assert total == 111_111
    assert points == {0: 11, 1: 1100, 4: 10_000, 29: 100_000}


def test_what_was_copied_outlives_redis(past: Past, redis_client: redis.Redis, keys: Keys) -> None:
    """And what is counted in the same hour after a loss is added to it."""
    past.count(NOW - HOURS, hub__delivery_count=40)
    past.count(NOW, hub__delivery_count=2)
    Rollup().copy(NOW)
    for name in redis_client.scan_iter(match=f"*{keys.prefix}*"):
        redis_client.delete(name)
    assert totals("day") == (42, {0: 2, 1: 40})
    past.count(NOW, hub__delivery_count=5)
    assert totals("day") == (47, {0: 7, 1: 40})
    Rollup().copy(NOW)
    Rollup().copy(NOW)
    assert totals("day") == (47, {0: 7, 1: 40})
    assert totals("month") == (47, {0: 47})


def test_a_copy_is_repeated_without_effect_and_replaced_by_a_newer_one(past: Past) -> None:
    """The whole hour is copied each time."""
    rollup = Rollup()
    past.count(NOW, hub__delivery_count=2)
    assert (rollup.copy(NOW), rollup.copy(NOW)) == (1, 1)
    past.count(NOW, hub__delivery_count=3)
    rollup.copy(NOW)
    row = CounterPeriod.objects.get()
    assert (row.figures["hub.delivery_count"], row.length) == (5, "hour")


def test_hours_in_which_no_relay_ran_are_copied_later(past: Past) -> None:
    """As long as Redis keeps them."""
    for hours in range(10):
        past.count(NOW - hours * HOURS, hub__delivery_count=1)
    assert Rollup().copy(NOW) == 10


def test_an_hour_that_changes_late_is_copied_in_the_next_hour(past: Past) -> None:
    """A process that could not reach Redis pushes what it counted two hours ago; the relay may have been away too."""
    rollup = Rollup()
    past.count(NOW, hub__delivery_count=1)
    rollup.copy(NOW)
    past.count(NOW + 2 * HOURS, hub__delivery_count=10)
    rollup.copy(NOW + 2 * HOURS)
    past.count(NOW, hub__delivery_count=100)
    past.count(NOW + 3 * HOURS, hub__delivery_count=1000)
    rollup.copy(NOW + 3 * HOURS)
    rollup.copy(NOW + 3 * HOURS)
    figures = CounterPeriod.objects.order_by("start").values_list("figures", flat=True)
    assert [each["hub.delivery_count"] for each in figures] == [101, 10, 1000]


def test_the_repeated_hour_at_the_end_of_summer_time_counts_once(past: Past) -> None:
    """In New York. With USE_TZ off, both of its hours are one in columns."""
    rollup, first = Rollup(), datetime.datetime(2026, 11, 1, 5, 30, tzinfo=datetime.UTC)
    for moment, number in ((first, 100), (first + HOURS, 10)):
        past.count(moment, hub__delivery_count=number)
        rollup.copy(moment)
    assert CounterPeriod.objects.count() == 2
    assert totals("day", now=first + HOURS) == (110, {0: 10, 1: 100})


def test_the_hours_of_a_day_are_added_up_once_it_is_over(past: Past) -> None:
    """A day is then read from one row, and its hours are deleted when no page shows them."""
    rollup = Rollup()
    first = NOW.replace(hour=0)
    for hour in range(24):
        past.count(first + hour * HOURS, hub__delivery_count=1)
        past.now["clients.open_count"] = 100 - hour
        rollup.copy(first + hour * HOURS)
    later = first + 5 * DAYS
    Rollup().copy(later)
    day = CounterPeriod.objects.get(length="day")
    assert day.start == stored(first.replace(minute=0, second=0))
    assert day.figures["hub.delivery_count"] == 24
    assert totals("month", now=later) == (24, {5: 24})
    Rollup().copy(first + 40 * DAYS)
    assert [row.length for row in CounterPeriod.objects.all()] == ["day"]


def test_figures_are_there_by_label_and_as_percentiles(past: Past) -> None:
    """Of histograms, percentiles take the place of counts."""
    past.totals.update(
        {
            encode(("deliveries.sent", "order.shipped", "email")): 3,
            encode(("deliveries.sent", "news", "email")): 4,
            encode(("others.totals", "ingress", "refused:not_json")): 2,
            encode(("deliveries.send_seconds", "email", str(bucket_of(0.5)))): 98,
            encode(("deliveries.send_seconds", "email", str(bucket_of(60)))): 2,
        }
    )
    past.count(NOW)
    counters = read_counters("hour", NOW)
    assert counters.totals == {"deliveries.sent": 7, "others.totals": 2}
    assert counters.by_label["deliveries.sent"] == {("order.shipped", "email"): 3, ("news", "email"): 4}
    assert counters.by_label["others.totals"] == {("ingress", "refused:not_json"): 2}
    (latency,) = counters.latencies
    assert (latency.name, latency.count) == ("transport email", 100)
    assert latency.p50_seconds == pytest.approx(0.5, rel=0.1)
    assert latency.p95_seconds == pytest.approx(0.5, rel=0.1)
    assert latency.p99_seconds == pytest.approx(60, rel=0.1)


def test_the_present_state_of_all_processes_is_noted(signalbox: Any, redis_client: redis.Redis, keys: Keys) -> None:
    """Of a minute, the largest is kept."""
    one, two = Past(redis_client, keys), Past(redis_client, keys)
    now = datetime.datetime.now(datetime.UTC)
    for process, count in ((one, 10), (two, 5)):
        process.now["clients.open_count"] = count
        process.count(now, hub__delivery_count=1)
    rollup = Rollup()
    rollup.copy(now)
    assert totals("hour", "clients.open_count", now) == (15, {0: 15})
    one.now = {"clients.open_count": 3}
    one.count(now, hub__delivery_count=1)
    rollup.copy(now)
    assert totals("hour", "clients.open_count", now) == (15, {0: 15})
    processes = read_counters("hour", now).processes
    assert sorted(each.now["clients.open_count"] for each in processes) == [3, 5]


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_without_redis_the_database_answers(settings: Any, keys: Keys, how: str) -> None:
    """Also while Redis is stopped. The copy fails as other work does in an outage."""
    with RedisServer() as server:
        settings.REALTIME = {"REDIS_URL": server.url, "KEY_PREFIX": keys.prefix, "STATISTICS": False}
        process = Past(sync_redis(), keys)
        process.count(NOW, hub__delivery_count=2)
        Rollup().copy(NOW)
        getattr(server, how)()
        try:
            assert totals("day") == (2, {0: 2})
            assert totals("hour") == (0, {})
            with pytest.raises(StreamUnavailable):
                Rollup().copy(NOW)
        finally:
            if how == "pause":
                server.resume()
