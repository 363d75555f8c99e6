"""
What the bot delivers by: a call that does nothing, which leaves what claims and records cost; a webhook; email.

Owns the list and how one is measured. Does not own the run (delivering), which is a process of its own.
"""

import os
import sys
import tempfile
from dataclasses import dataclass

import redis

from benchmarks import machine
from benchmarks.processes import answer_of, free_port
from benchmarks.stage import Stage

__all__ = ["DELIVERERS", "Deliverer", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliverer:
    """
    Attributes:
        name, title, is_ours: As in Contender.
        transport: The one that benchmarks.providers.settings has.
        pace: About how many deliveries a second it makes: so many are asked for for each second of a run.
        users: How many people are told, in turn.
        is_on_server: Needs a database server, of which DATABASE_URL says where it is.
    """

    name: str
    title: str
    transport: str
    pace: int
    is_ours: bool = True
    # As many as the keys of the worker's jobs.
    users: int = 1_000
    is_on_server: bool = False

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return "set DATABASE_URL" if self.is_on_server and not os.environ.get("DATABASE_URL") else None


def measure(deliverer: Deliverer, stage: Stage, *, seconds: float) -> dict[str, float]:
    """Let one bot work off about so many seconds of deliveries; each is to be made once."""
    count = max(100, round(deliverer.pace * seconds))
    with redis.Redis.from_url(stage.redis_url) as client, tempfile.TemporaryDirectory(dir=stage.directory) as directory:
        client.flushall()
        environment = {
            **stage.environment,
            "DJANGO_SETTINGS_MODULE": "benchmarks.providers.settings",
            "BENCHMARK_TRANSPORT": deliverer.transport,
            "BENCHMARK_USERS": str(deliverer.users),
            "BENCHMARK_PORT": str(free_port()),
            "BENCHMARK_KEYS": f"{directory}/keys",
        }
        if deliverer.is_on_server:
            environment["DATABASE_URL"] = os.environ["DATABASE_URL"]
        command = [sys.executable, "-m", "benchmarks.delivering", str(count), directory]
        figures = answer_of(command, core=machine.OTHER_CORE, environment=environment)
        client.flushall()
    return figures


_ALL = (
    Deliverer(name="signalbox-bot", title="a call that does nothing, SQLite", transport="nothing", pace=600),
    Deliverer(
        name="signalbox-bot-postgresql",
        title="a call that does nothing, PostgreSQL",
        transport="nothing",
        pace=600,
        is_on_server=True,
    ),
    Deliverer(
        name="signalbox-bot-one-user",
        title="a call that does nothing, one user's notifications in order, SQLite",
        transport="nothing",
        pace=30,
        users=1,
    ),
    Deliverer(name="signalbox-bot-webhook", title="webhook, SQLite", transport="webhook", pace=250),
    Deliverer(name="signalbox-bot-email", title="email, SQLite", transport="email", pace=200),
)
# By name, in the order of the tables.
DELIVERERS: dict[str, Deliverer] = {deliverer.name: deliverer for deliverer in _ALL}
