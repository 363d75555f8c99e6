"""The figures from rows equal the rows, whichever part of them was counted in the background."""

import datetime
import random
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError

from notifications.database import clock
from notifications.database.clock import moment_of, stored
from notifications.models import CountedHour, Delivery, Event, Notification
from notifications.statistics import hours, rows, tally
from notifications.statistics.figures import Funnel, Period
from notifications.statistics.hours import HourCounter
from notifications.statistics.rows import read_rows
from tests.support.domain import make_users
from tests.support.statistics import expected_rows, figures_of, make_rows

pytestmark = pytest.mark.django_db
UTC = datetime.UTC
NOW = datetime.datetime(2026, 3, 30, 0, 40, 20, tzinfo=UTC)
MINUTE, HOUR, DAY = datetime.timedelta(minutes=1), datetime.timedelta(hours=1), datetime.timedelta(days=1)
PERIODS: tuple[Period, ...] = ("hour", "day", "month")


@pytest.fixture
def few_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every period has too many rows to be counted while the dashboard is read."""
    monkeypatch.setattr(rows, "LIVE_LIMIT", 0)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "PAUSES", dict.fromkeys(hours.PAUSES, 0))


def count_all(now: datetime.datetime) -> int:
    """Count every hour that is due, as a relay does in some rounds."""
    return HourCounter().count_due(600, now)


def skipped_hours(now: datetime.datetime) -> int:
    """With USE_TZ off, the hours of the last 31 days that are the same in columns."""
    starts = [hours.hour_of(now) - number * HOUR for number in range(31 * 24)]
    return len(starts) - len({stored(start) for start in starts})


def spread_rows(count: int = 90) -> None:
    """Rows of the last 40 days, more of them in the last hours, and at the borders of all periods."""
    chance = random.Random(7)  # noqa: S311 - the same rows in each run
    moment = datetime.timedelta(microseconds=1)
    times = [NOW - chance.random() * stretch for stretch in (40 * DAY, 25 * HOUR, 2 * HOUR) for _ in range(count // 3)]
    for period in PERIODS:
        since = read_rows(period, NOW).since
        times += [since - moment, since, since + moment]
    times += [hours.hour_of(NOW), hours.hour_of(NOW) - moment, hours.hour_of(NOW) - HOUR]
    make_rows(make_users(5), times, kinds=["info", "order.shipped", "comment"])


@pytest.mark.parametrize("period", PERIODS)
def test_a_small_site_is_counted_while_it_is_read(period: Period) -> None:
    """Every figure is the number of rows since the beginning of the period, without any relay."""
    spread_rows()
    found = read_rows(period, NOW)
    assert figures_of(found) == expected_rows(found.since)
    assert found.is_complete
    assert found.counted_at == NOW
    assert not CountedHour.objects.exists()


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("live_limit", [0, 5, 40])
@pytest.mark.parametrize("period", PERIODS)
def test_counted_hours_give_the_same_figures(period: Period, live_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the newest hours are counted from rows, or taken from counted hours too."""
    spread_rows()
    assert count_all(NOW) == 31 * 24 - skipped_hours(NOW)
    monkeypatch.setattr(rows, "LIVE_LIMIT", live_limit)
    found = read_rows(period, NOW)
    assert figures_of(found) == expected_rows(found.since)
    assert found.is_complete


def test_the_points_of_each_period() -> None:
    """In UTC, the last being the present one; the figures of a row are in the point in which it was created."""
    user = make_users(1)
    make_rows(user, [NOW - 61 * MINUTE, NOW - 3 * MINUTE, NOW], kinds=["info"])
    expected = {
        "hour": (NOW.replace(second=0) - 59 * MINUTE, MINUTE, 60, [-4, -1]),
        "day": (NOW.replace(hour=0, minute=0, second=0) - 23 * HOUR, HOUR, 24, [-2, -1]),
        "month": (NOW.replace(hour=0, minute=0, second=0) - 29 * DAY, DAY, 30, [-2, -1]),
    }
    for period in PERIODS:
        since, step, count, places = expected[period]
        found = read_rows(period, NOW)
        assert found.since == since
        assert [point.start for point in found.points] == [since + number * step for number in range(count)]
        filled = [number - count for number, point in enumerate(found.points) if point.funnel.created]
        assert filled == places


@pytest.mark.usefixtures("few_live")
def test_a_large_hour_begins_with_the_clock_hour_before() -> None:
    """Counted hours have kinds by hour. So the period begins there, says so, and has all of its minutes."""
    spread_rows()
    count_all(NOW)
    found = read_rows("hour", NOW)
    assert found.since == hours.hour_of(NOW) - HOUR
    assert [point.start for point in found.points][:: len(found.points) - 1] == [found.since, NOW.replace(second=0)]
    assert figures_of(found) == expected_rows(found.since)
    per_minute = {point.start: point.funnel.created for point in found.points if point.funnel.created}
    times = [moment_of(each) for each in Notification.objects.values_list("created_at", flat=True)]
    assert per_minute == {
        minute: sum(minute <= time < minute + MINUTE for time in times)
        for minute in sorted({time.replace(second=0, microsecond=0) for time in times if time >= found.since})
    }


@pytest.mark.usefixtures("few_live", "no_pauses")
def test_late_changes_are_seen_when_the_hour_is_due_again() -> None:
    """A notification of ten hours ago is read now: after 25 minutes (a 24th of its age) at the latest, it counts."""
    (old,) = make_rows(make_users(1), [NOW - 10 * HOUR], kinds=["info"])
    Notification.objects.update(read_at=None)
    count_all(NOW)
    assert read_rows("day", NOW).funnel.read == 0
    Notification.objects.filter(pk=old.pk).update(read_at=stored(NOW))
    Delivery.objects.create(notification=old, transport="late", state="failed", attempts=5, created_at=old.created_at)
    count_all(NOW + MINUTE)
    assert read_rows("day", NOW).funnel.read == 0
    later = NOW + 26 * MINUTE
    count_all(later)
    found = read_rows("day", later)
    assert found.funnel.read == 1
    assert figures_of(found) == expected_rows(found.since)
    assert NOW <= found.counted_at < later


@pytest.mark.usefixtures("no_pauses")
def test_the_newest_hour_is_counted_again_every_ten_seconds() -> None:
    """Others the more rarely, the older they are; deleted rows no longer count."""
    make_rows(make_users(1), [NOW], kinds=["info"])
    count_all(NOW)
    counter = HourCounter()
    assert counter.count_due(600, NOW + datetime.timedelta(seconds=9)) == 0
    Event.objects.all().delete()
    assert counter.count_due(600, NOW + datetime.timedelta(seconds=11)) == 1
    assert CountedHour.objects.get(start=stored(hours.hour_of(NOW))).figures["funnel"] == [0] * 5
    # The hour before ended 40 minutes ago, the one before that 100 minutes: they are due after 2 minutes, and after 4.
    assert counter.count_due(600, NOW + MINUTE) == 1
    assert counter.count_due(600, NOW + 5 * MINUTE) == 3


@pytest.mark.usefixtures("few_live")
def test_hours_that_were_never_counted_are_said() -> None:
    """The first round counts the newest hours first; until all are, the figures are marked as incomplete."""
    spread_rows()
    counter = HourCounter()
    assert counter.count_due(0.0, NOW) == 1
    assert CountedHour.objects.get().start == stored(hours.hour_of(NOW))
    assert not read_rows("day", NOW).is_complete
    count_all(NOW)
    assert all(read_rows(period, NOW).is_complete for period in PERIODS)


def test_counting_pauses_after_it_took_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old hours are counted again in 1 % of the time; the newest two are not held up by that."""
    count_all(NOW)
    counter, later = HourCounter(), NOW + 30 * DAY
    monkeypatch.setitem(hours.PAUSES, "old", 10**9)
    monkeypatch.setitem(hours.PAUSES, "new", 10**9)
    monkeypatch.setitem(hours.PAUSES, "newest", 0)
    assert counter.count_due(600, later) == 31 * 24
    assert counter.count_due(600, later + 10 * DAY) == 2
    assert counter.count_due(600, later + 10 * DAY + MINUTE) == 1


@pytest.mark.usefixtures("no_pauses")
def test_old_hours_are_deleted() -> None:
    """The table does not grow: hours are kept for 35 days."""
    count_all(NOW)
    count_all(NOW + 20 * DAY)
    first, last = (moment_of(CountedHour.objects.order_by(order)[0].start) for order in ("start", "-start"))
    assert first > NOW + 20 * DAY - 35 * DAY - HOUR
    assert last == hours.hour_of(NOW + 20 * DAY)


@pytest.mark.usefixtures("no_pauses")
def test_a_clock_that_went_back_does_not_stop_counting() -> None:
    """Hours that were counted in what is now the future are due."""
    count_all(NOW + DAY)
    assert count_all(NOW) == 31 * 24


@pytest.mark.parametrize("period", PERIODS)
def test_rows_from_the_future_count_for_the_last_point(period: Period) -> None:
    """Another machine's clock is ahead. A list since the beginning of the period shows these rows, too."""
    make_rows(make_users(1), [NOW, NOW + 3 * HOUR, NOW + 2 * DAY], kinds=["info"])
    found = read_rows(period, NOW)
    assert figures_of(found) == expected_rows(found.since)
    assert found.points[-1].funnel.created == 3


@pytest.mark.usefixtures("few_live", "no_pauses")
def test_hostile_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind for each notification, and kinds of any text: the largest are counted by name, the others together."""
    monkeypatch.setattr(tally, "KINDS_LIMIT", 3)
    users = make_users(12)
    strange = ["", "(other kinds)", "ki'nd\"\\", "🚚" * 16, "null"]
    event = Event.objects.create(kind="large", message="m", created_at=stored(NOW), published_at=stored(NOW))
    Notification.objects.bulk_create(
        Notification(event=event, recipient=user, created_at=stored(NOW)) for user in users
    )
    make_rows(users, [NOW] * 10, kinds=strange)
    count_all(NOW)
    stored_kinds = CountedHour.objects.get(start=stored(hours.hour_of(NOW))).figures["kinds"]
    assert len(stored_kinds) == 4
    assert stored_kinds["large"][0] == 12
    found = read_rows("day", NOW)
    assert found.funnel.created == sum(each.funnel.created for each in found.kinds) == 22
    assert found.kinds[0].kind == "large"
    assert found.funnel == expected_rows(found.since)[0]


def test_an_empty_site_has_zeros_and_all_points() -> None:
    """Also before anything was ever counted."""
    for period, count in (("hour", 60), ("day", 24), ("month", 30)):
        found = read_rows(period, NOW)  # type: ignore[arg-type]
        assert len(found.points) == count
        assert found.funnel == Funnel()
        assert (found.kinds, found.transports, found.is_complete) == ((), (), True)


@pytest.mark.usefixtures("few_live")
@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"])
def test_hours_are_those_of_utc(settings: Any, zone: str) -> None:
    """Whatever the time zone of the site is, with half hours and quarters too."""
    settings.TIME_ZONE = zone
    spread_rows(30)
    count_all(NOW)
    for period in PERIODS:
        found = read_rows(period, NOW)
        assert figures_of(found) == expected_rows(found.since)
        assert found.since.minute == 0 or period == "hour"


@pytest.mark.usefixtures("few_live", "no_pauses")
@pytest.mark.parametrize("change", ["2026-11-01 06:00", "2026-03-08 07:00"])
def test_no_row_is_lost_at_a_change_of_summer_time(change: str) -> None:
    """In New York. With USE_TZ off, the two repeated hours are one in columns, and are counted once."""
    at = datetime.datetime.fromisoformat(change).replace(tzinfo=UTC)
    now = at + 5 * HOUR
    make_rows(make_users(3), [at + number * 10 * MINUTE for number in range(-30, 30)], kinds=["info"])
    count_all(now)
    for period in ("day", "month"):
        found = read_rows(period, now)  # type: ignore[arg-type]
        assert found.is_complete
        assert found.funnel.created == 60
        assert figures_of(found) == expected_rows(found.since)


@pytest.mark.usefixtures("few_live", "no_pauses")
@pytest.mark.parametrize("minutes", [-40, 20, 80])
def test_a_lone_row_in_a_repeated_hour_is_counted(minutes: int) -> None:
    """By the counted hours: empty ones before and after it do not hide it."""
    end_of_summer = datetime.datetime(2026, 11, 1, 6, tzinfo=UTC)
    now = end_of_summer + 30 * HOUR
    times = [end_of_summer + minutes * MINUTE, now - 20 * HOUR, now - 10 * HOUR]
    make_rows(make_users(1), times, kinds=["info"])
    count_all(now)
    found = read_rows("month", now)
    assert found.is_complete
    assert found.funnel.created == 3


@pytest.mark.parametrize("live_limit", [0, 2, 10_000])
@pytest.mark.parametrize("minutes", [0, 10, 30, 59, 60, 90])
def test_the_last_hour_at_the_end_of_summer_time(
    live_limit: int, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In New York. With USE_TZ off, a repeated hour is one in columns: the newest rows are counted all the same."""
    monkeypatch.setattr(rows, "LIVE_LIMIT", live_limit)
    count_rows, live_counts = tally.count_rows, list[int]()

    def count_and_note(using: str, starts: Any, end: datetime.datetime | None = None) -> tally.Tally:
        live_counts.append(Notification.objects.filter(created_at__gte=stored(starts[0])).count())
        return count_rows(using, starts, end)

    now = datetime.datetime(2026, 11, 1, 6, tzinfo=UTC) + minutes * MINUTE
    make_rows(make_users(1), [now - number * MINUTE for number in (0, 5, 25, 40)], kinds=["info"])
    count_all(now)
    monkeypatch.setattr(rows, "count_rows", count_and_note)
    found = read_rows("hour", now)
    assert found.is_complete
    assert found.funnel.created == 4
    assert found.points[-1].start == now
    assert max(live_counts, default=0) <= live_limit


@pytest.mark.usefixtures("no_pauses")
def test_an_hour_that_cannot_be_counted_does_not_keep_others_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its query takes longer than the database allows: what was counted before is stored, and it is tried last."""
    spread_rows()
    count_rows, too_large = tally.count_rows, hours.hour_of(NOW) - 2 * HOUR

    def count_in_time(using: str, starts: Any, end: datetime.datetime | None = None) -> tally.Tally:
        if starts[0] == too_large:
            raise OperationalError("canceling statement due to statement timeout")
        return count_rows(using, starts, end)

    monkeypatch.setattr(tally, "count_rows", count_in_time)
    counter = HourCounter()
    for stored_count in (2, 31 * 24 - skipped_hours(NOW) - 1):
        with pytest.raises(OperationalError, match="timeout"):
            counter.count_due(600, NOW)
        assert CountedHour.objects.count() == stored_count
    monkeypatch.undo()
    assert counter.count_due(600, NOW) == 1


@pytest.mark.usefixtures("no_pauses")
def test_of_hours_that_could_not_be_counted_the_one_that_failed_longest_ago_is_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So one that always fails does not hold up one that failed once. It is logged, once, when it has failed twice."""
    spread_rows()
    count_rows, always, once = tally.count_rows, hours.hour_of(NOW) - 2 * HOUR, hours.hour_of(NOW) - 3 * HOUR
    failed = set[datetime.datetime]()

    def count_some(using: str, starts: Any, end: datetime.datetime | None = None) -> tally.Tally:
        if starts[0] == always or (starts[0] == once and once not in failed):
            failed.add(starts[0])
            raise OperationalError("canceling statement due to statement timeout")
        return count_rows(using, starts, end)

    monkeypatch.setattr(tally, "count_rows", count_some)
    counter = HourCounter()
    for _ in range(5):
        with pytest.raises(OperationalError, match="timeout"):
            counter.count_due(600, NOW)
    assert CountedHour.objects.count() == 31 * 24 - skipped_hours(NOW) - 1
    messages = [record.message for record in caplog.records if "cannot be counted" in record.message]
    assert len(messages) == 1
    assert f"the hour from {always:%Y-%m-%d %H:%M} UTC cannot be counted" in messages[0]
    monkeypatch.undo()
    assert counter.count_due(600, NOW) == 1
    assert not counter._failed


def test_empty_hours_cost_no_queries(django_assert_max_num_queries: Any) -> None:
    """All hours of a month, with a row in one of them."""
    make_rows(make_users(1), [NOW - 9 * DAY], kinds=["info"])
    with django_assert_max_num_queries(60):
        assert count_all(NOW) == 31 * 24 - skipped_hours(NOW)


def test_the_present_time_is_the_default(alice: User) -> None:
    """What is created now counts, in the last point."""
    make_rows([alice], [clock.now()], kinds=["info"])
    HourCounter().count_due()
    for period in PERIODS:
        assert read_rows(period).funnel.created == 1
