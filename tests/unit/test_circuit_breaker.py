"""Which callers try Redis while it is unavailable, and what is logged."""

import asyncio
import contextlib
import logging

import pytest
from django.db import OperationalError

from notifications.events.circuit_breaker import Breaker
from realtime.exceptions import StreamUnavailable


def fail(breaker: Breaker, error: BaseException = StreamUnavailable("connection refused")) -> None:  # noqa: B008
    with contextlib.suppress(type(error)), breaker.judging():
        raise error


def succeed(breaker: Breaker) -> None:
    with breaker.judging():
        pass


def _messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_while_redis_is_available_all_callers_try() -> None:
    """And nothing is left to the sweep."""
    breaker = Breaker(pause_seconds=3600)
    assert all(breaker.try_now() for _ in range(3))
    succeed(breaker)
    assert breaker.try_now()
    assert breaker.left_count == 0


def test_after_a_failure_no_caller_tries_for_a_while() -> None:
    """Each event is left to the sweep, and counted."""
    breaker = Breaker(pause_seconds=3600)
    fail(breaker)
    assert not any(breaker.try_now() for _ in range(3))
    assert breaker.left_count == 4


def test_after_the_pause_one_caller_tries_for_all() -> None:
    """The others do not wait with it."""
    breaker = Breaker(pause_seconds=0)
    fail(breaker)
    assert [breaker.try_now() for _ in range(3)] == [True, False, False]
    fail(breaker)
    assert [breaker.try_now() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("error", [OperationalError("locked"), asyncio.CancelledError()])
def test_only_redis_decides(error: BaseException) -> None:
    """Another error, or a cancelled caller, neither opens nor closes it, and does not keep others from trying."""
    breaker = Breaker(pause_seconds=3600)
    fail(breaker, error)
    assert breaker.try_now()
    breaker = Breaker(pause_seconds=0)
    fail(breaker)
    for _ in range(3):
        assert [breaker.try_now() for _ in range(2)] == [True, False]
        fail(breaker, error)


def test_a_success_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    """All callers try again."""
    caplog.set_level(logging.INFO)
    breaker = Breaker(pause_seconds=0)
    fail(breaker)
    assert breaker.try_now()
    succeed(breaker)
    assert all(breaker.try_now() for _ in range(3))
    assert _messages(caplog)[-1] == ("INFO", "Redis is available again: events are published on commit again")


def test_an_ongoing_outage_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Not once per call. Also if Redis is available in between."""
    caplog.set_level(logging.INFO)
    breaker = Breaker(pause_seconds=0)
    for _ in range(50):
        fail(breaker)
        breaker.try_now()
        breaker.try_now()
        succeed(breaker)
    assert _messages(caplog) == [
        (
            "WARNING",
            "Redis is unavailable (StreamUnavailable: connection refused): 1 event(s) left in the outbox for the sweep",
        ),
        ("INFO", "Redis is available again: events are published on commit again"),
    ]


def test_the_next_warning_counts_the_events_since_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute later."""
    breaker = Breaker(pause_seconds=3600)
    fail(breaker)
    for _ in range(4):
        breaker.try_now()
    monkeypatch.setattr("notifications.events.circuit_breaker.WARNING_INTERVAL_SECONDS", 0.0)
    breaker.try_now()
    assert _messages(caplog)[-1] == (
        "WARNING",
        "Redis is still unavailable: 5 event(s) left in the outbox for the sweep",
    )
