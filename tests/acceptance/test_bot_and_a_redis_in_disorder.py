"""`run_bot_subscriber` with a Redis whose replies make no sense."""

import pytest

from tests.acceptance.test_run_bot_subscriber import SECONDS, World, database, world
from tests.support.nonsense import NonsenseServer
from tests.support.waiting import wait_until_sync

__all__ = ["database", "world"]

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]


@pytest.mark.parametrize(("nonsense", "is_ping_answered"), [(b"$-1\r\n", False), (b":7\r\n", True)], ids=["nil", "7"])
def test_nonsense_is_waited_for_as_an_outage_is(world: World, nonsense: bytes, is_ping_answered: bool) -> None:
    """At the start and on existing connections. It is logged, no process ends, and nothing is lost."""
    with NonsenseServer(world.server.url, answer=nonsense, is_ping_answered=is_ping_answered) as server:
        world.use(server.url)
        with world.subscriber(is_awaited=False) as process:
            process.wait_for("outage: Redis is unavailable")
            process.wait_for("is not one of Redis")
            server.answer = None
            process.wait_for("running, consumer")
            process.wait_for("outage: Redis is available again")
            world.manage("notify", "user1", "before")
            process.wait_for_line("user 1: before")
            server.answer = nonsense
            wait_until_sync(lambda: process.log.count("outage: Redis is unavailable") == 2, seconds=SECONDS)
            server.answer = None
            wait_until_sync(lambda: process.log.count("outage: Redis is available again") == 2, seconds=SECONDS)
            world.manage("notify", "user1", "after")
            process.wait_for_line("user 1: after")
            assert process.stop() == 0
            assert "Traceback" not in process.log
