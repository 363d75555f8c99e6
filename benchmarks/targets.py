"""
What the project promises of its speed, in figures, and whether a run keeps it.

Owns the numbers. A target whose scenario or peer was not measured is left open, not met.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Measured

__all__ = ["TARGETS", "Outcome", "Target", "check"]


class _NotMeasured(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Target:
    """
    Attributes:
        text: The promise.
        value: The figure that it is about, from those of a run.
        limit: What it is compared with.
        is_floor: Whether the figure must be at least the limit; else at most.
    """

    text: str
    value: Callable[[Measured], float]
    limit: float
    is_floor: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target, its figure in a run, and whether it is met; None for both if it was not measured."""

    target: Target
    value: float | None
    is_met: bool | None


def check(measured: Measured) -> list[Outcome]:
    """Every target against the figures of one run."""
    outcomes = []
    for target in TARGETS:
        try:
            value = target.value(measured)
        except (_NotMeasured, ZeroDivisionError):
            outcomes.append(Outcome(target, None, None))
        else:
            outcomes.append(Outcome(target, value, value >= target.limit if target.is_floor else value <= target.limit))
    return outcomes


def _figure(measured: Measured, scenario: str, server: str, name: str) -> float:
    try:
        return float(measured[scenario][server][name])
    except KeyError:
        raise _NotMeasured from None


def _of(scenario: str, name: str, server: str = "signalbox", *, to: str | None = None) -> Callable[[Measured], float]:
    def value(measured: Measured) -> float:
        own = _figure(measured, scenario, server, name)
        return own if to is None else own / _figure(measured, scenario, to, name)

    return value


def _best_queue(measured: Measured) -> float:
    """The faster of our two ways, as a multiple of the fastest library that was measured."""
    rates = {name: figures["jobs_per_second"] for name, figures in measured.get("worker", {}).items()}
    ours = [rate for name, rate in rates.items() if name.startswith("signalbox")]
    others = [rate for name, rate in rates.items() if not name.startswith("signalbox")]
    if not ours or not others:
        raise _NotMeasured
    return float(max(ours) / max(others))


def _best_tasks(name: str) -> Callable[[Measured], float]:
    """A rate of background tasks, as a multiple of that of the fastest library that was measured."""

    def value(measured: Measured) -> float:
        own = _figure(measured, "tasks", "signalbox-tasks", name)
        # A plain list is no library.
        others = [
            figures[name]
            for backend, figures in measured["tasks"].items()
            if backend not in ("signalbox-tasks", "plain-list") and name in figures
        ]
        if not others:
            raise _NotMeasured
        return float(own / max(others))

    return value


def _map_gain(measured: Measured) -> float:
    return _figure(measured, "map", "futures-map", "server_cpu_us") / _figure(
        measured, "map", "signalbox-map", "server_cpu_us"
    )


def _lost(measured: Measured) -> float:
    """Messages that any of ours lost or doubled, anywhere."""
    ours = [
        figures
        for servers in measured.values()
        for server, figures in servers.items()
        if server.startswith("signalbox") and "lost" in figures
    ]
    if not ours:
        raise _NotMeasured
    return float(sum(figures["lost"] + figures["doubled"] for figures in ours))


TARGETS = (
    Target("lost or doubled, anywhere", _lost, 0, is_floor=False),
    *(
        Target(
            f"the dashboard of a month with 1,000,000 notifications, {title}, ms",
            _of("dashboard", "ms_month", f"signalbox-dashboard-{database}"),
            200,
            is_floor=False,
        )
        for database, title in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL"))
    ),
    Target(
        "fan-out at full speed, × uWebSockets.js",
        _of("fanout", "deliveries_per_second", to="uwebsockets"),
        1.0,
        is_floor=True,
    ),
    Target(
        "fan-out at full speed, × Channels on uvicorn",
        _of("fanout", "deliveries_per_second", to="channels-pubsub-uvicorn"),
        400,
        is_floor=True,
    ),
    Target(
        "fan-out at full speed on Daphne, × Channels on Daphne",
        _of("fanout", "deliveries_per_second", "signalbox-daphne", to="channels-pubsub-daphne"),
        300,
        is_floor=True,
    ),
    Target(
        "fan-out at full speed with statistics, × without them",
        _of("statistics", "deliveries_per_second", "signalbox-pushing", to="signalbox-silent"),
        0.98,
        is_floor=True,
    ),
    Target("unicast, CPU × uWebSockets.js", _of("unicast", "server_cpu_us", to="uwebsockets"), 1.1, is_floor=False),
    Target(
        "20 messages/s to 1,000, p99 × uWebSockets.js", _of("paced", "p99_ms", to="uwebsockets"), 1.3, is_floor=False
    ),
    Target(
        "20 messages/s to 1,000, CPU × uWebSockets.js",
        _of("paced", "server_cpu_us", to="uwebsockets"),
        1.5,
        is_floor=False,
    ),
    Target(
        "map, CPU a delivered change × uWebSockets.js",
        _of("map", "server_cpu_us", "signalbox-map", to="uwebsockets-map"),
        1.2,
        is_floor=False,
    ),
    Target("map, CPU a delivered change, times less than with a future a pattern", _map_gain, 20, is_floor=True),
    Target("map, bytes × an exact crop", _of("map", "bytes_to_crop", "signalbox-map"), 1.5, is_floor=False),
    Target("idle connection, KB", _of("idle", "kb_per_connection_10000"), 22, is_floor=False),
    Target("10,000 connections in one process, failed", _of("idle", "failed_10000"), 0, is_floor=False),
    Target("notify() to socket at 50/s, p99 ms", _of("end-to-end", "p99_ms"), 15, is_floor=False),
    Target("connect storm of 2,000 sessions, a second", _of("storm", "connects_per_second"), 500, is_floor=True),
    Target(
        "no-op worker, batches, a second", _of("worker", "jobs_per_second", "signalbox-batches"), 25_000, is_floor=True
    ),
    Target(
        "no-op worker, one by one, a second",
        _of("worker", "jobs_per_second", "signalbox-single"),
        25_000,
        is_floor=True,
    ),
    Target("no-op worker, × the best library", _best_queue, 20, is_floor=True),
    Target("log handler, µs a record at the call", _of("log", "handle_us", "signalbox-handler"), 10, is_floor=False),
    Target(
        "log sink, records a second in one worker",
        _of("sink", "records_per_second", "signalbox-sink"),
        20_000,
        is_floor=True,
    ),
    Target("no-op tasks, × the best library", _best_tasks("nothing_per_second"), 2, is_floor=True),
    Target("1 ms tasks, × the best library", _best_tasks("sleep_per_second"), 2, is_floor=True),
    Target("no-op tasks 2 ms away, × the best library", _best_tasks("far_nothing_per_second"), 2, is_floor=True),
    Target("1 ms tasks 2 ms away, × the best library", _best_tasks("far_sleep_per_second"), 2, is_floor=True),
    Target(
        "tasks enqueued, many at a time, × the best library",
        _best_tasks("many_enqueued_per_second"),
        2,
        is_floor=True,
    ),
    Target(
        "enqueue to start of a task, idle worker, p99 ms", _of("tasks", "p99_ms", "signalbox-tasks"), 10, is_floor=False
    ),
    Target("notify() to 10,000 on SQLite, ms", _of("notify", "ms_10000", "signalbox-sqlite"), 1_000, is_floor=False),
    Target(
        "notify() to 10,000 on PostgreSQL, ms", _of("notify", "ms_10000", "signalbox-postgresql"), 1_000, is_floor=False
    ),
)
