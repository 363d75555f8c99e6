"""Waits between tries grow, are random from nothing on, and have a limit."""

from realtime.redis.backoff import Backoff


def test_each_wait_is_anywhere_below_a_bound_that_doubles() -> None:
    """Full jitter: of many who failed at one time, few come back at one time."""
    backoff = Backoff(base_seconds=1.0, cap_seconds=10.0)
    for attempt, bound in enumerate([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]):
        waits = [backoff.delay_seconds(attempt) for _ in range(500)]
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
        assert 0.4 * bound < sum(waits) / len(waits) < 0.6 * bound


def test_no_number_of_failures_is_too_large() -> None:
    """The bound stays the limit where its power of two would overflow."""
    assert 0 <= Backoff(cap_seconds=5.0).delay_seconds(100_000) <= 5.0
