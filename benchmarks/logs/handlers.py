"""
The handlers that are compared: ours, and other ways to send log records to Redis.

Owns the list, and starting one measurement. Does not own the measured calls (logging_program), which run in a process
of their own.
"""

import sys
from dataclasses import dataclass

import redis

from benchmarks import machine
from benchmarks.processes import answer_of
from benchmarks.stage import Stage

__all__ = ["HANDLERS", "LogHandler", "measure"]

# Log calls for each of `Sizes.calls`: those that are timed in blocks, and those of the burst, which has at most BURST.
CALLS_FACTOR, BURST_FACTOR = 50, 125
BURST = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHandler:
    """
    One way to send log records to Redis.

    Attributes:
        name, title, is_ours: As in Contender.
        way: The argument WAY of benchmarks.logs.logging_program.
    """

    name: str
    title: str
    way: str
    is_ours: bool = False

    def missing(self) -> str | None:
        """None: nothing has to be installed for any of them."""
        return None


def measure(handler: LogHandler, stage: Stage, *, calls: int) -> dict[str, float]:
    """Let a program log in blocks, each sent before the next one, and then in one burst."""
    with redis.Redis.from_url(stage.redis_url) as client:
        client.flushall()
        words = [sys.executable, "-m", "benchmarks.logs.logging_program", handler.way]
        command = [*words, stage.redis_url, str(calls * CALLS_FACTOR), str(min(BURST, calls * BURST_FACTOR))]
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
