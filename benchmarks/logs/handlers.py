"""
The handlers that are compared: ours, and the ways that others have to bring log records to Redis.

Owns the list and how one is measured. Does not own the calls (logging_program), which run in a process of their own.
"""

import sys
from dataclasses import dataclass

import redis

from benchmarks import machine
from benchmarks.processes import answer_of
from benchmarks.stage import Stage

__all__ = ["HANDLERS", "LogHandler", "measure"]

BURST = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHandler:
    """
    Attributes:
        name, title, is_ours: As in Contender.
        way: What benchmarks.logs.logging_program does.
    """

    name: str
    title: str
    way: str
    is_ours: bool = False

    def missing(self) -> str | None:
        """All can be run everywhere."""
        return None


def measure(handler: LogHandler, stage: Stage, *, calls: int) -> dict[str, float]:
    """Let a program log: some records one after another, and many as fast as it can."""
    with redis.Redis.from_url(stage.redis_url) as client:
        client.flushall()
        words = [sys.executable, "-m", "benchmarks.logs.logging_program", handler.way]
        command = [*words, stage.redis_url, str(calls * 50), str(min(BURST, calls * 125))]
        figures = answer_of(command, core=machine.SERVER_CORE, environment=stage.environment)
        client.flushall()
    return figures


_ALL = (
    LogHandler(name="signalbox-handler", title="Signalbox", way="signalbox", is_ours=True),
    LogHandler(name="listener", title="QueueHandler, QueueListener, XADD each", way="listener"),
    LogHandler(name="publish-each", title="PUBLISH in the call", way="publish"),
    LogHandler(name="xadd-each", title="XADD in the call", way="xadd"),
    LogHandler(name="nothing", title="logging alone, records thrown away", way="nothing"),
)
HANDLERS = {handler.name: handler for handler in _ALL}
