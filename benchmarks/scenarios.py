"""
What is measured: one function a scenario, one call a run, a fresh server process each time.

Owns the sizes, what a run does and which figures it gives. Does not own repeating and comparing (results).
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import callers, deliverers, machine, workers
from benchmarks.contenders import Contender
from benchmarks.load_client import LoadClient
from benchmarks.logs import handlers, writers
from benchmarks.map import measuring as maps
from benchmarks.map.servers import MAP_SERVERS, MapServer
from benchmarks.processes import Process, free_port
from benchmarks.rig import Figures, Publishing, Rig, connect, measure, rig
from benchmarks.servers import PUSHING_SERVERS, SERVERS, TOPIC, Server
from benchmarks.stage import Stage
from benchmarks.tasks import measuring as tasks
from benchmarks.tasks.contenders import TASK_BACKENDS, TaskBackend

__all__ = ["FULL", "QUICK", "SCENARIOS", "Figures", "Scenario", "Sizes"]

WARM_UP_SECONDS = 1.0
# Idle memory is looked at when the garbage of connecting is gone.
SETTLE_SECONDS = 2.0
SLOW_PAYLOAD_BYTES = 16_384
SLOW_RATE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many sockets, and how long a run takes: `FULL` is what is quoted, `QUICK` shows that everything works."""

    connections: int
    seconds: float
    idle: tuple[int, ...]
    storm: int
    # For so long a worker has jobs, and a bot deliveries, about.
    work_seconds: float
    # Calls of what is quick; what is not is called less often.
    calls: int
    # For so long a worker has background tasks of each kind, about.
    task_seconds: float
    map: maps.MapSizes
    # Of a storm: how many clients are on their way in at a time; each that is in is followed by another.
    in_flight: int = 256


FULL = Sizes(
    connections=1_000,
    seconds=5.0,
    idle=(5_000, 10_000),
    storm=2_000,
    work_seconds=5.0,
    calls=400,
    task_seconds=3.0,
    map=maps.FULL_MAP,
)
QUICK = Sizes(
    connections=20,
    seconds=1.0,
    idle=(100,),
    storm=100,
    work_seconds=0.1,
    calls=4,
    task_seconds=0.02,
    map=maps.QUICK_MAP,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    Attributes:
        name: For --scenario, and in the results.
        title: For people.
        run: Measures one contender once.
        contenders: Who is measured, by name.
        ours_only: Needs notifications from end to end.
        runs: How often, at most: memory is the same each time.
    """

    name: str
    title: str
    run: Callable[[Any, Stage, Sizes], Figures]
    contenders: Mapping[str, Contender] = field(default_factory=lambda: SERVERS)
    ours_only: bool = False
    runs: int = 100

    @property
    def needs_load_client(self) -> bool:
        """Whether somebody connects."""
        return self.contenders in (SERVERS, PUSHING_SERVERS, MAP_SERVERS)


def _fanout(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    with rig(server, stage, topic=TOPIC, connections=sizes.connections) as on:
        measure(on, "window", [TOPIC], seconds=WARM_UP_SECONDS)
        return measure(on, "window", [TOPIC], seconds=sizes.seconds)


def _paced(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    with rig(server, stage, topic=TOPIC, connections=sizes.connections) as on:
        warm = measure(on, "paced", [TOPIC], rate=20.0, seconds=WARM_UP_SECONDS)
        if warm["fell_behind"]:
            return warm
        return measure(on, "paced", [TOPIC], rate=20.0, seconds=sizes.seconds * 2)


def _unicast(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    topics = [f"user.{user}" for user in stage.user_ids()[: sizes.connections]]
    with rig(server, stage, topic=None, connections=sizes.connections) as on:
        _rounds(on, topics, WARM_UP_SECONDS)
        return _rounds(on, topics, sizes.seconds)


def _rounds(on: Rig, topics: list[str], seconds: float) -> Figures:
    return measure(on, "rounds", topics, seconds=seconds)


def _idle(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    port = free_port()
    figures: Figures = {}
    arguments, cookies = server.arguments(None), stage.cookies
    with (
        server.start(stage, port) as process,
        LoadClient(arguments, port=port, connections=100, cookies=cookies) as first,
    ):
        # What the first connections bring in (modules, pools, caches) is not a connection's.
        first.connect()
        time.sleep(SETTLE_SECONDS)
        base = process.memory_bytes()
        for count in sizes.idle:
            with LoadClient(arguments, port=port, connections=count, cookies=cookies) as load:
                answer = load.connect(seconds=300.0)
                time.sleep(SETTLE_SECONDS)
                figures[f"kb_per_connection_{count}"] = (process.memory_bytes() - base) / 1024 / count
                figures[f"failed_{count}"] = answer["failed_count"]
                figures[f"connects_per_second_{count}"] = answer["ready_count"] / answer["seconds"]
    figures["base_mb"] = base / 1024 / 1024
    return figures


def _storm(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    port = free_port()
    arguments, cookies = server.arguments(None), stage.cookies
    with (
        server.start(stage, port) as process,
        LoadClient(arguments, port=port, connections=20, cookies=cookies) as first,
    ):
        first.connect()
        with LoadClient(
            arguments, port=port, connections=sizes.storm, cookies=cookies, in_flight=sizes.in_flight
        ) as load:
            before = process.cpu_seconds()
            answer = load.connect()
            return {
                "connects_per_second": answer["ready_count"] / answer["seconds"],
                "server_cpu_us": (process.cpu_seconds() - before) * 1e6 / max(answer["ready_count"], 1),
                "p50_ms": answer["p50_us"] / 1e3,
                "p99_ms": answer["p99_us"] / 1e3,
                "max_ms": answer["max_us"] / 1e3,
                "failed": answer["failed_count"],
            }


def _slow(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    job = {"rate": SLOW_RATE, "seconds": sizes.seconds, "payload_bytes": SLOW_PAYLOAD_BYTES}
    with rig(server, stage, topic=TOPIC, connections=50) as on:
        alone = measure(on, "paced", [TOPIC], **job)
    with rig(server, stage, topic=TOPIC, connections=55, stalled=5) as on:
        before = on.server.memory_bytes()
        figures = measure(on, "paced", [TOPIC], **job)
        grown = on.server.memory_bytes() - before
        on.load.drain()
        closed = on.load.report(expected=0)["stalled_closed_count"]
    return figures | {"alone_p99_ms": alone["p99_ms"], "grown_mb": grown / 1024 / 1024, "stalled_closed": closed}


def _end_to_end(server: Server, stage: Stage, sizes: Sizes) -> Figures:
    port, users = free_port(), stage.user_ids()[: min(sizes.connections, 100)]
    relay_log = stage.directory / f"relay-{port}.log"
    relay = [sys.executable, "manage.py", "run_bot_subscriber"]
    with (
        server.start(stage, port) as process,
        Process(relay, core=machine.SERVER_CORE, log=relay_log, environment=stage.environment),
        LoadClient(server.arguments(None), port=port, connections=len(users), cookies=stage.cookies) as load,
        Publishing(server, stage, port, module="benchmarks.notifying") as publishing,
    ):
        connect(load)
        on = Rig(process, load, publishing, stage)
        measure(on, "notify", users, rate=50.0, seconds=WARM_UP_SECONDS * 2)
        return measure(on, "notify", users, rate=50.0, seconds=sizes.seconds * 2)


def _work(worker: workers.Worker, stage: Stage, sizes: Sizes) -> Figures:
    return workers.measure(worker, stage, seconds=sizes.work_seconds)


def _deliver(deliverer: deliverers.Deliverer, stage: Stage, sizes: Sizes) -> Figures:
    return deliverers.measure(deliverer, stage, seconds=sizes.work_seconds)


def _call(caller: callers.Caller, stage: Stage, sizes: Sizes) -> Figures:
    return callers.measure(caller, stage, calls=sizes.calls)


def _map(server: MapServer, stage: Stage, sizes: Sizes) -> Figures:
    return maps.measure(server, stage, sizes.map)


def _log(handler: handlers.LogHandler, stage: Stage, sizes: Sizes) -> Figures:
    return handlers.measure(handler, stage, calls=sizes.calls)


def _write(writer: writers.Writer, stage: Stage, sizes: Sizes) -> Figures:
    return writers.measure(writer, stage, seconds=sizes.work_seconds)


def _tasks(backend: TaskBackend, stage: Stage, sizes: Sizes) -> Figures:
    return tasks.measure(backend, stage, seconds=sizes.task_seconds, calls=sizes.calls)


_ALL = (
    Scenario(name="fanout", title="Fan-out at full speed: 1 topic, 1,000 sockets", run=_fanout),
    Scenario(
        name="statistics",
        title="Fan-out at full speed, with and without statistics",
        run=_fanout,
        contenders=PUSHING_SERVERS,
    ),
    Scenario(name="paced", title="Fan-out, 20 messages a second to 1,000 sockets", run=_paced),
    Scenario(name="unicast", title="Unicast: 1,000 users, one message each in turn", run=_unicast),
    Scenario(name="idle", title="Idle connections", run=_idle, runs=1),
    Scenario(name="storm", title="Connect storm: 2,000 sessions at once", run=_storm),
    Scenario(name="end-to-end", title="notify() to socket, 50 a second", run=_end_to_end, ours_only=True),
    Scenario(name="slow", title="5 sockets that do not read beside 50 that do", run=_slow),
    Scenario(
        name="map",
        title="A map: 20,000 vehicles a second, 1,000 viewers who move it",
        run=_map,
        contenders=MAP_SERVERS,
    ),
    Scenario(name="worker", title="One worker process, jobs that do nothing", run=_work, contenders=workers.WORKERS),
    Scenario(
        name="deliver",
        title="One bot process, deliveries to a receiver that takes all",
        run=_deliver,
        contenders=deliverers.DELIVERERS,
    ),
    Scenario(name="notify", title="notify() to 1, 100 and 10,000 people", run=_call, contenders=callers.NOTIFIERS),
    Scenario(
        name="dashboard",
        title="Reading the dashboard of 1,000,000 notifications",
        run=_call,
        contenders=callers.READERS,
    ),
    Scenario(name="publish", title="100 messages on a topic", run=_call, contenders=callers.PUBLISHERS),
    Scenario(name="log", title="A program that logs to Redis", run=_log, contenders=handlers.HANDLERS),
    Scenario(
        name="sink",
        title="One worker process that writes log records into files",
        run=_write,
        contenders=writers.WRITERS,
    ),
    Scenario(
        name="tasks",
        title="Background tasks, one worker process",
        run=_tasks,
        contenders=TASK_BACKENDS,
    ),
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
