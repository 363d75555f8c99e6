"""An outage is said once when it begins and once when it is over."""

import logging
import time

import pytest
import redis

from realtime.backoff import Backoff
from realtime.outage import Outage


async def test_an_outage_is_said_once_whoever_meets_it(caplog: pytest.LogCaptureFixture) -> None:
    """Many users, many failures: two lines."""
    outage = Outage("Redis", backoff=Backoff(base_seconds=0.001, cap_seconds=0.002))
    outage.over()
    assert not outage.is_on
    for attempt in range(5):
        await outage.wait(redis.ConnectionError("refused"), attempt)
        outage.begin(redis.TimeoutError("too slow"))
    assert outage.is_on
    outage.over()
    outage.over()
    assert not outage.is_on
    begin, end = caplog.records
    assert begin.getMessage() == "Redis is away (ConnectionError: refused): trying again until it is back"
    assert end.getMessage().startswith("Redis: back after 0.")
    assert begin.levelno == end.levelno == logging.WARNING


async def test_a_failure_that_comes_late_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Of two calls that were made during an outage, one may fail after the other has worked; or the other way round."""
    outage = Outage("Redis")
    asked_at = time.monotonic()
    outage.begin(redis.ConnectionError("refused"), asked_at=asked_at)
    outage.over()
    outage.begin(redis.TimeoutError("too slow"), asked_at=asked_at)
    assert not outage.is_on
    assert len(caplog.records) == 2
    outage.begin(redis.ConnectionError("refused"), asked_at=time.monotonic())
    assert outage.is_on
    outage.over(asked_at=asked_at)
    assert outage.is_on
    assert len(caplog.records) == 3


async def test_what_is_refused_is_said_also_during_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Redis is back and a script fails for ever: the log has its words, once, and not only that Redis is away."""
    outage = Outage("Redis")
    outage.begin(redis.ConnectionError("refused"))
    for _ in range(3):
        outage.begin(redis.ResponseError("user_script:27: attempt to compare number with nil"))
    outage.begin(redis.ConnectionError("refused"))
    assert [record.getMessage() for record in caplog.records] == [
        "Redis is away (ConnectionError: refused): trying again until it is back",
        "Redis refuses a command (ResponseError: user_script:27: attempt to compare number with nil): "
        "trying again until it does not",
    ]
    outage.over()
    caplog.clear()
    outage.begin(redis.ResponseError("OOM command not allowed"))
    assert caplog.messages == [
        "Redis refuses a command (ResponseError: OOM command not allowed): trying again until it does not"
    ]


async def test_a_command_is_sent_until_it_is_taken() -> None:
    """Its answer is returned; what is no outage is raised."""
    errors = iter([redis.ConnectionError(), OSError(), redis.ResponseError("LOADING")])

    async def command(name: str) -> str:
        for error in errors:
            raise error
        return name

    async def defect() -> None:
        raise ValueError("defect")

    outage = Outage("Redis", backoff=Backoff(base_seconds=0.001, cap_seconds=0.001))
    assert await outage.until_done(command, "done") == "done"
    assert not outage.is_on
    with pytest.raises(ValueError, match="defect"):
        await outage.until_done(defect)
