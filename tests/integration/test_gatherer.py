"""Gathering statistics in the background: rounds go on, whatever fails."""

import asyncio
from typing import Any

import pytest
from django.db import OperationalError

from notifications.models import CountedHour
from notifications.workers import gatherer
from notifications.workers.gatherer import Gatherer
from realtime.exceptions import StreamUnavailable
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


async def running(gathering: Gatherer, fact: Any) -> None:
    """Run rounds until this is true."""
    task = asyncio.create_task(gathering.run())
    try:
        await wait_until(fact)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_rounds_count_the_hours_and_go_on() -> None:
    """The present hour is there after the first one."""
    gathering = Gatherer(interval_seconds=0.01)
    await running(gathering, lambda: gathering.round_count >= 3)
    assert await CountedHour.objects.aexists()
    assert gathering.defect_count == 0


@pytest.mark.parametrize("error", [StreamUnavailable("away"), OperationalError("away"), ZeroDivisionError()])
async def test_no_failure_of_a_step_ends_the_rounds_or_keeps_others_from_running(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only defects are logged, each step's once; the sweep logs outages."""
    failures = []

    def fail() -> int:
        failures.append(1)
        raise error

    gathering = Gatherer(interval_seconds=0.01)
    monkeypatch.setattr(gathering._rollup, "copy", fail)
    monkeypatch.setattr(gatherer, "publish_live", fail)
    await running(gathering, lambda: len(failures) >= 6)
    assert await CountedHour.objects.aexists()
    is_defect = isinstance(error, ZeroDivisionError)
    assert (gathering.defect_count > 0) is is_defect
    assert [record.message for record in caplog.records if record.name == gatherer.__name__] == [
        f"{step} failed: it is tried again in every round"
        for step in ("copying the counters of processes", "publishing the live numbers")
        if is_defect
    ]


@pytest.mark.parametrize(("is_watched", "least", "most"), [(True, 4, 10_000), (False, 0, 3)])
async def test_live_numbers_are_published_often_only_while_somebody_looks(
    is_watched: bool, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise once a round, to find out whether somebody does."""
    ticks = []

    def publish() -> bool:
        ticks.append(1)
        return is_watched

    monkeypatch.setattr(gatherer, "publish_live", publish)
    gathering = Gatherer(interval_seconds=0.5, live_seconds=0.001)
    await running(gathering, lambda: gathering.round_count >= 2)
    assert least <= len(ticks) <= most
