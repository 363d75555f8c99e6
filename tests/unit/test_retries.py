"""The time that the attempts of a delivery cover, and that the docs agree."""

import re
from pathlib import Path
from typing import Any

import pytest

from notifications.delivery.retries import schedule_of
from realtime.redis.backoff import Backoff

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = ("topics/delivery-guarantees.md", "topics/operations.md")
CONSOLE = "notifications.transports.console.ConsoleTransport"


def shown(seconds: float) -> str:
    """As the docs have it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if round(seconds / length, 1) >= 1:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:g} s"


def test_the_docs_say_what_is_so() -> None:
    """Each attempt of the defaults, and the sums in words."""
    reach = schedule_of("console").reaches_seconds()
    text = (DOCS / PAGES[0]).read_text()
    rows = [f"| {number} | {shown(least)} | {shown(most)} |" for number, (least, most) in enumerate(reach, 1)][1:]
    assert "\n".join(rows) in text
    assert re.findall(r"^\| \d+ \|.*$", text, re.MULTILINE) == rows
    least, most = (round(seconds / 3600) for seconds in reach[-1])
    assert len(reach) == 14
    for page in PAGES:
        assert f"fourteen times in {least} to {most} hours" in (DOCS / page).read_text()


def test_an_outage_of_hours_is_outlasted_and_the_first_minutes_are_dense() -> None:
    """Whatever the random waits are, the attempts go on much longer than the quarter of an hour of greylisting."""
    reach = schedule_of("console").reaches_seconds()
    assert reach[-1][0] > 4 * 3600
    assert sum(most < 16 * 60 for _, most in reach) >= 7
    assert sum(least > 15 * 60 for least, _ in reach) >= 5


def test_a_transport_may_have_a_schedule_of_its_own(settings: Any) -> None:
    """What it leaves out is as for all."""
    own = {"BACKEND": CONSOLE, "MAX_ATTEMPTS": 3, "RETRY_SECONDS": 1, "RETRY_LIMIT_SECONDS": 1.5}
    settings.NOTIFICATIONS = {
        "TRANSPORTS": {"own": own, "console": {"BACKEND": CONSOLE}},
        "DELIVERY_MAX_ATTEMPTS": 4,
        "DELIVERY_RETRY_SECONDS": 10,
    }
    assert schedule_of("own").reaches_seconds() == [(0, 0), (0.5, 1), (1.25, 2.5)]
    assert schedule_of("console").reaches_seconds() == [(0, 0), (5, 10), (15, 30), (35, 70)]


@pytest.mark.parametrize("attempt", [0, 1, 5, 100])
def test_what_is_waited_in_any_case(attempt: int) -> None:
    """A part of each wait; the rest is left to chance."""
    backoff = Backoff(base_seconds=2, cap_seconds=10, sure_part=0.5)
    longest = backoff.longest_seconds(attempt)
    assert all(longest / 2 <= backoff.delay_seconds(attempt) <= longest for _ in range(200))
