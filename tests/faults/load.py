"""
The load on a site under fault: the publishing process, started again until all of its calls are made.

Owns how much is published, how far it is, and whom it must have reached. Does not own the calls (publishing).
"""

import json
import random
import signal

from tests.faults.publishing import recipients_of
from tests.faults.site import Site
from tests.support.waiting import wait_until_sync

__all__ = ["Load"]

PAUSE_SECONDS = 0.06
SECONDS = 60.0


class Load:
    """
    Args:
        calls: How often notify() is called, with one to three recipients each.
        deaths: How often the process is killed between commit and publishing.
        burst: So many calls follow each other at once; the pauses between them come before the next ones.

    Attributes:
        expected_count: How many notifications that makes.
    """

    def __init__(self, site: Site, seed: int, *, calls: int, deaths: int = 0, burst: int = 1) -> None:
        users = sorted(site.sessions)
        self._site = site
        self._calls = calls
        self._path = site.directory / "published"
        self._path.touch()
        chance = random.Random(f"{seed}:deaths")  # noqa: S311 - a schedule, no secret
        self._deaths = deaths
        self._job = {
            "seed": seed,
            "calls": calls,
            "users": users,
            "pause_seconds": burst * PAUSE_SECONDS,
            "burst": burst,
            "done": str(self._path),
            "deaths": sorted(chance.sample(range(calls), deaths)),
        }
        self.expected_count = sum(len(recipients_of(seed, number, users)) for number in range(calls))

    @property
    def done_count(self) -> int:
        """Calls that have returned."""
        return sum(not line.startswith("died") for line in self._path.read_text().split())

    def run(self) -> None:
        """Publish everything; whatever ends the process that it has planned, it is started again."""
        kill_count = 0
        while self.done_count < self._calls:
            process = self._site.run("publisher", "-m", "tests.faults.publishing", json.dumps(self._job))
            code = process.wait(SECONDS)
            kill_count += code == -signal.SIGKILL
            planned = kill_count <= self._deaths
            assert code in (0, -signal.SIGTERM) or (code == -signal.SIGKILL and planned), self._site.logs()["publisher"]

    def wait(self, share: float) -> None:
        """Wait until this share of the calls is made."""
        wait_until_sync(lambda: self.done_count >= share * self._calls, seconds=SECONDS)

    def deploy(self) -> None:
        """SIGTERM to the publishing process, which goes on in a new one."""
        self._site.terminate("publisher")
