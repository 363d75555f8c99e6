"""
Callers: `notify()` and the dashboard on each database, and the ways to publish on a topic.

Owns the list and how one is measured. Does not own the calls (calling), which run in a process of their own.
"""

import os
import sys
from dataclasses import dataclass

import redis

from benchmarks import machine
from benchmarks.processes import answer_of
from benchmarks.stage import Stage

__all__ = ["NOTIFIERS", "PUBLISHERS", "READERS", "Caller", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """
    Attributes:
        name, title, is_ours: As in Contender.
        way: What benchmarks.calling does.
        is_on_server: Needs a database server, of which DATABASE_URL says where it is.
        settings: The Django settings module, if not the project's own.
    """

    name: str
    title: str
    way: str
    is_ours: bool = True
    is_on_server: bool = False
    settings: str = "project.settings"

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return "set DATABASE_URL" if self.is_on_server and not os.environ.get("DATABASE_URL") else None


def measure(caller: Caller, stage: Stage, *, calls: int) -> dict[str, float]:
    """Let it call: so many times what is quick, and less often what is not."""
    environment = {
        **stage.environment,
        "DJANGO_SETTINGS_MODULE": caller.settings,
        "BENCHMARK_LAYER": "pubsub",
    }
    if caller.is_on_server:
        environment["DATABASE_URL"] = os.environ["DATABASE_URL"]
    with redis.Redis.from_url(stage.redis_url) as client:
        client.flushall()
    command = [sys.executable, "-m", "benchmarks.calling", caller.way, str(calls)]
    return answer_of(command, core=machine.SERVER_CORE, environment=environment)


_STOCK = "benchmarks.stock.settings"
_NOTIFIERS = (
    Caller(name="signalbox-sqlite", title="notify(), SQLite", way="notify"),
    Caller(name="signalbox-postgresql", title="notify(), PostgreSQL", way="notify-test-database", is_on_server=True),
)
_READERS = (
    Caller(name="signalbox-dashboard-sqlite", title="SQLite", way="dashboard-test-database"),
    Caller(name="signalbox-dashboard-postgresql", title="PostgreSQL", way="dashboard-test-database", is_on_server=True),
)
_PUBLISHERS = (
    Caller(name="signalbox-publish", title="publish(), sync", way="publish"),
    Caller(name="signalbox-apublish", title="apublish(), async", way="apublish"),
    Caller(name="signalbox-group-send", title="async_to_sync(group_send), our layer", way="group-send"),
    Caller(
        name="channels-group-send",
        title="async_to_sync(group_send), channels_redis pubsub",
        way="group-send",
        is_ours=False,
        settings=_STOCK,
    ),
)
# By name, in the order of the tables.
NOTIFIERS: dict[str, Caller] = {caller.name: caller for caller in _NOTIFIERS}
READERS: dict[str, Caller] = {caller.name: caller for caller in _READERS}
PUBLISHERS: dict[str, Caller] = {caller.name: caller for caller in _PUBLISHERS}
