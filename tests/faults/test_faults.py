"""The short form of the fault matrix: three of its rows, each with one seed and less load."""

import pytest

from tests.faults.running import run

pytestmark = pytest.mark.acceptance

CALLS = 40


@pytest.mark.parametrize("row", ["relay", "redis-wiped", "two-of-three"])
def test_nothing_is_lost_and_nothing_doubled(row: str) -> None:
    """published = delivered + failed + expired at the receiver, and all of it is in the hands of the clients."""
    outcome = run(row, 1, calls=CALLS, log=True)
    assert outcome.is_well, outcome.error
    assert outcome.published == outcome.delivered + outcome.failed + outcome.expired > CALLS
    assert outcome.published == outcome.heard + outcome.read
