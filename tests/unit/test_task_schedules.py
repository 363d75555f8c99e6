"""Schedules of periodic tasks: their ticks, also when clocks are turned; and what `periodic` refuses."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from realtime.tasks.django_api import InvalidTask, task
from realtime.tasks.periodic_tasks import all_periodic_tasks, periodic
from realtime.tasks.schedule import CronSchedule, IntervalSchedule, Schedule
from tests.support.howto import blocks_of


@task
def tidy(*args: Any, **kwargs: Any) -> None:
    """A task."""


@task
def sweep() -> None:
    """Another task."""


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The periodic tasks that the test declares."""
    monkeypatch.setattr("realtime.tasks.periodic_tasks._declared", found := {})
    return found


def ticks(schedule: Schedule, begin: datetime, count: int) -> list[str]:
    """The next ticks, as short texts in UTC."""
    found = []
    for _ in range(count):
        following = schedule.following(begin)
        assert following is not None
        begin = following
        found.append(f"{begin:%d. %H:%M}")
    return found


# 29 March 2026, 01:00 UTC: the clocks of Zurich are turned from 02:00 to 03:00.
FORWARD = datetime(2026, 3, 28, 23, 45, tzinfo=UTC)
# 25 October 2026, 01:00 UTC: from 03:00 to 02:00.
BACK = datetime(2026, 10, 24, 23, 45, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "begin", "expected"),
    [
        # 02:30 does not exist: 03:00 instead.
        ("30 2 * * *", FORWARD, ["29. 01:00", "30. 00:30"]),
        # 02:30 and 03:00 are the same moment then, and one tick.
        ("0,30 2,3 * * *", FORWARD, ["29. 01:00", "29. 01:30", "30. 00:00"]),
        # 02:30 exists twice: the first time.
        ("30 2 * * *", BACK, ["25. 00:30", "26. 01:30"]),
        # The time that passes.
        ("*/30 * * * *", FORWARD, ["29. 00:00", "29. 00:30", "29. 01:00", "29. 01:30"]),
        ("*/30 * * * *", BACK, ["25. 00:00", "25. 00:30", "25. 01:00", "25. 01:30", "25. 02:00"]),
        ("0 * * * *", BACK, ["25. 00:00", "25. 01:00", "25. 02:00"]),
    ],
)
def test_cron_when_clocks_are_turned(expression: str, begin: datetime, expected: list[str]) -> None:
    """As Debian's cron."""
    assert ticks(CronSchedule(expression, "Europe/Zurich"), begin, len(expected)) == expected


@pytest.mark.parametrize("minutes", range(-30, 120, 15))
def test_cron_in_the_hour_that_exists_twice(minutes: int) -> None:
    """Whenever a process starts, it finds the same ticks."""
    schedule = CronSchedule("30 2 * * *", "Europe/Zurich")
    tick = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    moment = tick + timedelta(minutes=minutes)
    later = datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    earlier = datetime(2026, 10, 24, 0, 30, tzinfo=UTC)
    assert schedule.following(moment) == (tick if minutes < 0 else later)
    assert schedule.latest(moment) == (earlier if minutes < 0 else tick)


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "*/7", "30", "5,55"]),
    st.sampled_from(["*", "2", "*/5", "1-3", "0,2,23"]),
    st.sampled_from(["*", "1", "29", "L"]),
    st.sampled_from(["*", "2", "3,10"]),
    st.sampled_from(["*", "SUN", "MON#1"]),
)
MOMENTS = st.integers(min_value=0, max_value=3 * 366 * 86_400).map(
    lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(FIELDS, MOMENTS, st.sampled_from(["UTC", "Europe/Zurich", "America/Havana"]))
def test_latest_and_following_enclose_a_moment(fields: tuple[str, ...], moment: datetime, zone: str) -> None:
    """There is no tick between them, and each tick finds itself."""
    schedule = CronSchedule(" ".join(fields), zone)
    latest, following = schedule.latest(moment), schedule.following(moment)
    assert following is not None
    assert moment < following
    assert schedule.latest(following) == following
    if latest is not None:
        assert latest <= moment
        assert schedule.following(latest) == following


def test_latest_finds_rare_and_frequent_ticks() -> None:
    """The 29th of February, and the last minute of a day full of minutes."""
    moment = datetime(2026, 11, 30, tzinfo=UTC)
    assert CronSchedule("0 0 29 2 *", "UTC").latest(moment) == datetime(2024, 2, 29, tzinfo=UTC)
    assert CronSchedule("* * 1 * *", "UTC").latest(moment) == datetime(2026, 11, 1, 23, 59, tzinfo=UTC)
    assert IntervalSchedule(1.5).latest(datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC)) == datetime(
        1970, 1, 1, 0, 0, 3, tzinfo=UTC
    )


def test_an_interval_does_not_depend_on_when_it_begins() -> None:
    """Its ticks are its multiples since 1970."""
    schedule = IntervalSchedule(90)
    moments: Iterator[datetime] = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=each) for each in range(90))
    for moment in moments:
        latest, following = schedule.latest(moment), schedule.following(moment)
        assert latest is not None
        assert following == latest + timedelta(seconds=90)
        assert latest <= moment < following
        assert latest.timestamp() % 90 == 0
    assert schedule.text != IntervalSchedule(91).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either cron or every_seconds"),
        ({"cron": "* * * * *", "every_seconds": 5}, "either cron or every_seconds"),
        ({"cron": "* * * *"}, "must have five fields"),
        ({"cron": "* * * * * *"}, "must have five fields"),
        ({"cron": 5}, "must have five fields"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"cron": "0 0 * * *", "time_zone": "Europe/Bern-Nord"}, "no time zone 'Europe/Bern-Nord'"),
        ({"cron": "0 0 * * *", "time_zone": "../etc"}, "no time zone"),
        ({"every_seconds": 5, "time_zone": "UTC"}, "time_zone is for cron"),
        ({"every_seconds": 0.5}, "every_seconds is 0.5: it must be"),
        ({"every_seconds": float("nan")}, "every_seconds is nan"),
        ({"every_seconds": "5"}, "every_seconds is '5'"),
        ({"every_seconds": 5, "args": [object()]}, "arguments of the periodic task .* are no JSON"),
        ({"every_seconds": 5, "name": "x" * 201}, "more than 200 characters"),
    ],
)
def test_what_is_not_valid(declared: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    """It says why, where it is declared."""
    with pytest.raises(InvalidTask, match=message):
        periodic(**arguments)(tidy)
    assert declared == {}


def test_the_declaration_leaves_the_task_as_it_is(declared: dict[str, Any], settings: Any) -> None:
    """The zone is that of the settings; arguments become JSON."""
    settings.TIME_ZONE = "Asia/Tokyo"
    assert periodic(cron="0  3 * * *", args=[(1, 2)], kwargs={"a": None})(tidy) is tidy
    found = declared[tidy.module_path]
    assert (found.args, found.kwargs, found.schedule.text) == (([1, 2],), {"a": None}, "0 3 * * * Asia/Tokyo")


def test_a_name_has_one_declaration(declared: dict[str, Any]) -> None:
    """A module that is imported again may repeat its own."""
    for _ in range(2):
        periodic(every_seconds=5)(tidy)
    with pytest.raises(InvalidTask, match=r"two periodic tasks .* give one of them a name"):
        periodic(every_seconds=6)(tidy)
    with pytest.raises(InvalidTask, match="two periodic tasks"):
        periodic(every_seconds=5, name=tidy.module_path)(sweep)
    periodic(every_seconds=6, name="tidy more")(tidy)
    assert list(declared) == [tidy.module_path, "tidy more"]
    assert all_periodic_tasks("another backend") == ()


def test_the_examples_of_the_page(declared: dict[str, Any]) -> None:
    """docs/how-to/schedule-periodic-tasks.md."""
    (block,) = blocks_of("how-to/schedule-periodic-tasks.md")
    exec(block.text, {"__name__": "mysite.tasks"})  # noqa: S102 - our own page
    assert {name: each.schedule.text for name, each in declared.items()} == {
        "mysite.tasks.clear_sessions": "30 2 * * * UTC",
        "weekly report": "0 7 * * MON Europe/Zurich",
        "short report": "every 10 s",
    }


def test_a_function_that_is_no_task() -> None:
    """The decorators are in the wrong order."""
    with pytest.raises(TypeError, match="put @periodic above @task"):
        periodic(every_seconds=5)(test_what_is_not_valid)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval needs none."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImproperlyConfigured, match=r"cronsim is not installed .* -m pip install .*\[tasks\]"):
        periodic(cron="0 3 * * *")
    assert periodic(every_seconds=5)


def test_schedules_that_differ_by_a_second_are_different() -> None:
    """However long they are: a changed schedule is known by its text."""
    assert IntervalSchedule(2_592_000).text == "every 2592000 s"
    assert IntervalSchedule(2_592_000).text != IntervalSchedule(2_592_001).text
