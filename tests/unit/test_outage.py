"""An outage is logged once when it begins and once when it is over."""

import asyncio
import logging
import re
import time
from collections import Counter

import pytest
import redis

from realtime.redis.backoff import Backoff
from realtime.redis.outage import Outage
from tests.support.waiting import wait_until

REFUSED = redis.ConnectionError("refused")
OUT_OF_MEMORY = redis.ResponseError("OOM command not allowed")
UNAVAILABLE = "Redis is unavailable (ConnectionError: refused): trying again until it is available"


async def test_an_outage_is_logged_once_whoever_meets_it(caplog: pytest.LogCaptureFixture) -> None:
    """Many users, many failures: two lines."""
    outage = Outage("Redis", backoff=Backoff(base_seconds=0.001, cap_seconds=0.002))
    one, other = outage.observer(), outage.observer()
    one.worked()
    assert not outage.is_on
    for attempt in range(5):
        await one.wait(REFUSED, attempt)
        other.failed(redis.TimeoutError("too slow"))
    assert outage.is_on
    for observer in (one, other, one, other):
        observer.worked()
    assert not outage.is_on
    begin, end = caplog.records
    assert begin.getMessage() == UNAVAILABLE
    assert re.fullmatch(r"Redis is available again after \d+\.\d s", end.getMessage())
    assert begin.levelno == end.levelno == logging.WARNING


async def test_it_is_over_when_everybody_that_failed_has_succeeded(caplog: pytest.LogCaptureFixture) -> None:
    """One command works and another is refused, again and again: that is one outage, and not one a second."""
    outage = Outage("Redis")
    reader, writer = outage.observer(), outage.observer()
    for _ in range(3):
        writer.failed(OUT_OF_MEMORY, asked_at=time.monotonic())
        reader.worked(asked_at=time.monotonic())
    assert outage.is_on
    writer.worked(asked_at=time.monotonic())
    assert not outage.is_on
    assert len(caplog.records) == 2


async def test_it_does_not_wait_for_somebody_who_has_left(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving tells nothing about Redis: the next success of any observer ends the outage."""
    outage = Outage("Redis")
    leaving, staying = outage.observer(), outage.observer()
    leaving.failed(REFUSED)
    leaving.leave()
    assert outage.is_on
    assert caplog.messages == [UNAVAILABLE]
    staying.worked()
    assert not outage.is_on


async def test_the_first_success_wakes_everybody_who_waits_once() -> None:
    """Even the success of an observer that had not failed. An observer that fails again then waits its full time."""
    outage = Outage("Redis", backoff=Backoff(base_seconds=3600, cap_seconds=3600))
    tries: Counter[str] = Counter()

    async def command(name: str) -> None:
        tries[name] += 1
        if name == "refused" or tries[name] == 1:
            raise REFUSED

    tasks = [asyncio.create_task(outage.until_done(command, name)) for name in ("one", "other", "refused")]
    await wait_until(lambda: tries.total() == 3)
    outage.observer().worked(asked_at=time.monotonic())
    await asyncio.gather(*tasks[:2])
    await wait_until(lambda: tries["refused"] == 2)
    for _ in range(100):
        outage.observer().worked(asked_at=time.monotonic())
        await asyncio.sleep(0)
    assert tries["refused"] == 2
    tasks[2].cancel()
    await asyncio.wait(tasks)


async def test_a_failure_that_comes_late_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Of two calls that were made during an outage, one may fail after the other has worked; or the other way round."""
    outage = Outage("Redis")
    early, late = outage.observer(), outage.observer()
    asked_at = time.monotonic()
    early.failed(REFUSED, asked_at=asked_at)
    early.worked()
    late.failed(redis.TimeoutError("too slow"), asked_at=asked_at)
    assert not outage.is_on
    assert len(caplog.records) == 2
    late.failed(REFUSED, asked_at=time.monotonic())
    assert outage.is_on
    for observer in (early, late):
        observer.worked(asked_at=asked_at)
    assert outage.is_on
    assert len(caplog.records) == 3


async def test_a_refusal_that_comes_late_is_news(caplog: pytest.LogCaptureFixture) -> None:
    """Redis did answer it: that another command has worked meanwhile does not make it accepted."""
    outage = Outage("Redis")
    asked_at = time.monotonic()
    outage.observer().worked()
    outage.observer().failed(OUT_OF_MEMORY, asked_at=asked_at)
    assert outage.is_on


async def test_a_refusal_is_logged_also_during_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Redis is available again and a script fails for ever: its error is logged, once."""
    observer = Outage("Redis").observer()
    observer.failed(REFUSED)
    for _ in range(3):
        observer.failed(redis.ResponseError("user_script:27: attempt to compare number with nil"))
    observer.failed(REFUSED)
    assert caplog.messages == [
        UNAVAILABLE,
        "Redis refuses a command (ResponseError: user_script:27: attempt to compare number with nil): "
        "trying again until it accepts it",
    ]
    observer.worked()
    caplog.clear()
    observer.failed(OUT_OF_MEMORY)
    assert caplog.messages == [
        "Redis refuses a command (ResponseError: OOM command not allowed): trying again until it accepts it"
    ]


async def test_an_error_without_words_is_named_by_its_class(caplog: pytest.LogCaptureFixture) -> None:
    """As a TimeoutError of asyncio."""
    Outage("Redis").observer().failed(TimeoutError())
    assert caplog.messages == ["Redis is unavailable (TimeoutError): trying again until it is available"]


async def test_a_command_is_sent_until_it_is_accepted() -> None:
    """Its answer is returned; what is no outage is raised, and the outage does not wait for that caller."""
    errors = iter([redis.ConnectionError(), OSError(), redis.ResponseError("LOADING")])

    async def command(name: str) -> str:
        for error in errors:
            raise error
        return name

    async def defect() -> None:
        for error in errors:
            raise error
        raise ValueError("defect")

    outage = Outage("Redis", backoff=Backoff(base_seconds=0.001, cap_seconds=0.001))
    assert await outage.until_done(command, "done") == "done"
    assert not outage.is_on
    errors = iter([redis.ConnectionError()])
    with pytest.raises(ValueError, match="defect"):
        await outage.until_done(defect)
    outage.observer().worked()
    assert not outage.is_on
