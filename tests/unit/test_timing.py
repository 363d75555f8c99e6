"""When: deliver_after, fallbacks, digest windows and quiet hours, by a clock that is given."""

import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from notifications.content.timing import check_deliver_after, check_fallback, find_zone, quiet_end, window_end
from notifications.exceptions import InvalidField

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime.datetime(2026, 11, 21, 12, 30, tzinfo=datetime.UTC)
TRANSPORTS = {"email": None}


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def clock(text: str) -> datetime.time:
    return datetime.time.fromisoformat(text)


def test_a_wait_and_a_moment_are_the_same() -> None:
    """Also in another time zone."""
    later = NOW + datetime.timedelta(minutes=5)
    assert check_deliver_after(datetime.timedelta(minutes=5), NOW) == later
    assert check_deliver_after(later.astimezone(BERLIN), NOW) == later


@pytest.mark.parametrize("value", [None, datetime.timedelta(0), -datetime.timedelta(days=1), utc("2001-01-01T00:00")])
def test_what_is_past_is_at_once(value: Any) -> None:
    """As if nothing had been said."""
    assert check_deliver_after(value, NOW) is None


@pytest.mark.parametrize(
    "value", [5, "tomorrow", NOW.replace(tzinfo=None), datetime.timedelta(days=4000), datetime.timedelta.max]
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidField, match="deliver_after"):
        check_deliver_after(value, NOW)


def test_a_naive_moment_is_one_of_the_projects_zone(settings: Any) -> None:
    """Where the project keeps such times; an aware one is taken all the same."""
    settings.USE_TZ, settings.TIME_ZONE = False, "Europe/Berlin"
    later = NOW + datetime.timedelta(minutes=5)
    assert check_deliver_after(later.astimezone(BERLIN).replace(tzinfo=None), NOW) == later
    assert check_deliver_after(later, NOW) == later


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "Europe", "../../etc/passwd", "x" * 5000, "a\0b"])
def test_a_zone_that_is_not_there_is_none(name: str) -> None:
    """Whatever is made of it as a path."""
    assert find_zone(name) is None


def test_a_fallback_is_stored_in_seconds() -> None:
    """Nothing stays nothing."""
    assert check_fallback({"email": datetime.timedelta(minutes=15)}, TRANSPORTS) == {"email": 900.0}
    assert check_fallback(None, TRANSPORTS) is check_fallback({}, TRANSPORTS) is None


@pytest.mark.parametrize(
    "value",
    [
        {"fax": datetime.timedelta(1)},
        {"email": 900},
        {"email": -datetime.timedelta(1)},
        {"email": datetime.timedelta(4000)},
        ["email"],
    ],
)
def test_what_is_no_fallback_is_refused(value: Any) -> None:
    """An unknown transport, a number without a unit, what is past or far away."""
    with pytest.raises(InvalidField, match="fallback"):
        check_fallback(value, TRANSPORTS)


def test_an_hour_ends_at_the_full_hour() -> None:
    """The full hour itself begins the next."""
    assert window_end(NOW, "hourly", BERLIN) == utc("2026-11-21T13:00")
    assert window_end(utc("2026-11-21T13:00"), "hourly", BERLIN) == utc("2026-11-21T14:00")


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-21T06:59", "2026-11-21T07:00"),
        ("2026-11-21T07:00", "2026-11-22T07:00"),
        # The clocks go back in the night, and forward.
        ("2026-10-24T12:00", "2026-10-25T07:00"),
        ("2026-03-28T12:00", "2026-03-29T06:00"),
    ],
)
def test_a_daily_digest_ends_at_the_hour_of_the_user(now: str, end: str) -> None:
    """Eight in Berlin, in winter and in summer."""
    assert window_end(utc(now), "daily", BERLIN, hour=8) == utc(end)


def test_a_day_ends_later_than_now_wherever_the_user_is() -> None:
    """On both sides of the date line, at every hour."""
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata", "America/St_Johns"):
        for hour in range(24):
            end = window_end(NOW, "daily", ZoneInfo(zone), hour=hour)
            assert NOW < end <= NOW + datetime.timedelta(days=1)
            assert end.astimezone(ZoneInfo(zone)).hour == hour


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-21T20:59", None),
        ("2026-11-21T21:00", "2026-11-22T06:00"),
        ("2026-11-21T23:30", "2026-11-22T06:00"),
        ("2026-11-22T05:59", "2026-11-22T06:00"),
        ("2026-11-22T06:00", None),
    ],
)
def test_quiet_hours_around_midnight(now: str, end: str | None) -> None:
    """From ten to seven in Berlin; their end is not quiet."""
    assert quiet_end(utc(now), clock("22:00"), clock("07:00"), BERLIN) == (end and utc(end))


@pytest.mark.parametrize(("now", "end"), [("11:59", None), ("12:00", "13:00"), ("12:59", "13:00"), ("13:00", None)])
def test_quiet_hours_within_a_day(now: str, end: str | None) -> None:
    """From one to two in Berlin."""
    moment = utc(f"2026-11-21T{now}")
    assert quiet_end(moment, clock("13:00"), clock("14:00"), BERLIN) == (end and utc(f"2026-11-21T{end}"))


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-10-25T00:10", "2026-10-25T00:30"),
        ("2026-10-25T00:40", None),
        ("2026-10-25T01:10", "2026-10-25T01:30"),
        ("2026-10-25T01:30", None),
        ("2026-03-29T00:45", "2026-03-29T01:30"),
        ("2026-03-29T01:30", None),
    ],
)
def test_quiet_hours_while_the_clocks_change(now: str, end: str | None) -> None:
    """Half past two comes twice in one night of the year, and not at all in another; neither lasts a day longer."""
    assert quiet_end(utc(now), clock("22:00"), clock("02:30"), BERLIN) == (end and utc(end))


def test_quiet_hours_but_for_an_hour_that_is_left_out_last_on() -> None:
    """Awake from two to three, and there is no such hour: asked at the end, they go on until the next night."""
    end = quiet_end(utc("2026-03-28T23:30"), clock("03:00"), clock("02:00"), BERLIN)
    assert end == utc("2026-03-29T01:00")
    assert quiet_end(end, clock("03:00"), clock("02:00"), BERLIN) == utc("2026-03-30T00:00")


def test_a_daily_digest_comes_once_a_day_while_the_clocks_change() -> None:
    """Its hour comes twice in one night."""
    first = window_end(utc("2026-10-24T12:00"), "daily", BERLIN, hour=2)
    assert first == utc("2026-10-25T00:00")
    assert window_end(first, "daily", BERLIN, hour=2) == utc("2026-10-26T01:00")


def test_equal_times_are_no_quiet_hours() -> None:
    """Rather than all day."""
    assert quiet_end(NOW, clock("12:30"), clock("12:30"), ZoneInfo("UTC")) is None
