"""Who tries Redis while it is away, and what the log says of it."""

import logging

import pytest

from notifications.breaker import Breaker
from realtime.exceptions import StreamUnavailable

AWAY = StreamUnavailable("connection refused")


def _messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_while_redis_is_there_everybody_tries() -> None:
    """And nothing is left to the sweep."""
    breaker = Breaker(pause_seconds=3600)
    assert all(breaker.try_now() for _ in range(3))
    breaker.succeeded()
    assert breaker.try_now()
    assert breaker.left_count == 0


def test_after_a_failure_nobody_tries_for_a_while() -> None:
    """Each event is left to the sweep, and counted."""
    breaker = Breaker(pause_seconds=3600)
    breaker.failed(AWAY)
    assert not any(breaker.try_now() for _ in range(3))
    assert breaker.left_count == 4


def test_after_the_pause_one_caller_tries_for_all() -> None:
    """The others do not wait with it."""
    breaker = Breaker(pause_seconds=0)
    breaker.failed(AWAY)
    assert [breaker.try_now() for _ in range(3)] == [True, False, False]
    breaker.failed(AWAY)
    assert [breaker.try_now() for _ in range(3)] == [True, False, False]


def test_a_success_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    """Everybody tries again."""
    caplog.set_level(logging.INFO)
    breaker = Breaker(pause_seconds=0)
    breaker.failed(AWAY)
    assert breaker.try_now()
    breaker.succeeded()
    assert all(breaker.try_now() for _ in range(3))
    assert _messages(caplog)[-1] == ("INFO", "Redis is back: events are published on commit again")


def test_a_lasting_failure_is_one_warning_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Not one a call; also when Redis comes and goes."""
    caplog.set_level(logging.INFO)
    breaker = Breaker(pause_seconds=0)
    for _ in range(50):
        breaker.failed(AWAY)
        breaker.try_now()
        breaker.try_now()
        breaker.succeeded()
    assert _messages(caplog) == [
        (
            "WARNING",
            "Redis is away (StreamUnavailable: connection refused): 1 event(s) left in the outbox for the sweep",
        ),
        ("INFO", "Redis is back: events are published on commit again"),
    ]


def test_the_next_warning_counts_what_was_not_mentioned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute later."""
    breaker = Breaker(pause_seconds=3600)
    breaker.failed(AWAY)
    for _ in range(4):
        breaker.try_now()
    monkeypatch.setattr("notifications.breaker.WARNING_INTERVAL_SECONDS", 0.0)
    breaker.try_now()
    assert _messages(caplog)[-1] == ("WARNING", "Redis is still away: 5 event(s) left in the outbox for the sweep")
