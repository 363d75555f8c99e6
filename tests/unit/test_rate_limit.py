"""The token bucket."""

import time

from realtime.untrusted.rate_limit import TokenBucket
from tests.support.waiting import wait_until_sync


def test_a_burst_is_allowed_and_no_more() -> None:
    """It begins full; an empty one gives nothing, however often it is asked."""
    bucket = TokenBucket(per_second=0.001, burst=3)
    assert [bucket.take() for _ in range(100)] == [True] * 3 + [False] * 97


def test_tokens_come_back_at_the_rate() -> None:
    """Whoever keeps to the rate is never refused, and whoever did not is let in again soon."""
    bucket = TokenBucket(per_second=200.0, burst=1)
    assert bucket.take()
    started = time.monotonic()
    wait_until_sync(bucket.take)
    assert time.monotonic() - started < 5.0


def test_tokens_do_not_pile_up() -> None:
    """After a silence that is worth twenty there are as many as at the beginning."""
    bucket = TokenBucket(per_second=100.0, burst=5)
    time.sleep(0.2)
    taken = 0
    while bucket.take():
        taken += 1
    assert taken < 20
