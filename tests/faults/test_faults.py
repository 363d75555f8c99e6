"""The short form of the fault matrix: its row of many faults, with one seed and less load."""

import pytest

from tests.faults.running import run

# Half a minute; more processes than a busy machine starts quickly.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

CALLS = 60


def test_nothing_is_lost_and_nothing_doubled() -> None:
    """published = delivered + failed + expired at the receiver, and all of it is in the hands of the clients."""
    outcome = run("mixed", 1, calls=CALLS, log=True)
    assert outcome.is_ok, outcome.error
    assert outcome.published == outcome.delivered + outcome.failed + outcome.expired > CALLS
    assert outcome.published == outcome.received + outcome.read
