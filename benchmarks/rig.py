"""
One run's parts, connected: a server, a load client, a publishing process; and what is read off them.

Owns the order of starting and the figures of a run of messages. Does not own sizes nor what is sent (scenarios).
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks import machine
from benchmarks.load_client import LoadClient
from benchmarks.processes import ROOT, BenchmarkError, Process, free_port
from benchmarks.servers import Server
from benchmarks.stage import Stage

__all__ = ["Figures", "Publishing", "Rig", "connect", "measure", "rig"]

type Figures = dict[str, float]


class Publishing:
    """The publishing process; leaving the `with` block ends it."""

    def __init__(self, server: Server, stage: Stage, port: int, module: str = "benchmarks.publishing") -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", module, server.publisher, stage.redis_url, str(port)],
            cwd=ROOT,
            env={**stage.process_environment(), **server.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.pinned(machine.OTHER_CORE),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, way: str, load: LoadClient, topics: Sequence[str], **job: Any) -> dict[str, Any]:
        """Do a job; what it says of it."""
        return self.tell(way, progress=str(load.progress_path), topics=list(topics), **job)

    def tell(self, way: str, **job: Any) -> dict[str, Any]:
        """Do a job that needs neither topics nor the load client's progress."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - pipes
        words = {"way": way, **job}
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the publishing process has ended; its words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        return machine.cpu_seconds([self._process.pid])


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything of one run, connected."""

    server: Process
    load: LoadClient
    publishing: Publishing
    stage: Stage


@contextmanager
def rig(server: Server, stage: Stage, *, topic: str | None, connections: int, stalled: int = 0) -> Iterator[Rig]:
    port = free_port()
    with (
        server.start(stage, port) as process,
        LoadClient(
            server.arguments(topic), port=port, connections=connections, cookies=stage.cookies, stalled=stalled
        ) as load,
        Publishing(server, stage, port) as publishing,
    ):
        connect(load)
        yield Rig(process, load, publishing, stage)


def measure(on: Rig, way: str, topics: Sequence[str], **job: Any) -> Figures:
    """Run a job and wait until everything has come, or nothing comes any more."""
    on.load.reset()
    subscribers = on.load.connections - on.load.stalled
    server_before, redis_before = on.server.cpu_seconds(), on.stage.redis_cpu_seconds()
    publishing_before = on.publishing.cpu_seconds()
    answer = on.publishing.run(way, on.load, topics, subscribers=subscribers, **job)
    on.load.wait_for(answer["count"] * subscribers)
    server_cpu = on.server.cpu_seconds() - server_before
    report = on.load.report(expected=answer["count"])
    received = max(report["received_count"], 1)
    seconds = max((report["last_us"] - report["first_us"]) / 1e6, 1e-6)
    return {
        "published": answer["published"],
        "delivered": report["received_count"],
        "deliveries_per_second": report["received_count"] / seconds,
        "server_cpu_us": server_cpu * 1e6 / received,
        "server_core_used": server_cpu / seconds,
        "p50_ms": report["p50_us"] / 1e3,
        "p99_ms": report["p99_us"] / 1e3,
        "max_ms": report["max_us"] / 1e3,
        "lost": report["lost_count"],
        "doubled": report["duplicate_count"] + report["disordered_count"],
        "closed": report["closed_count"],
        "fell_behind": float(answer["fell_behind"]),
        "deliveries_per_frame": received / max(report["frame_count"], 1),
        "client_core_used": report["client_cpu_seconds"] / report["run_seconds"],
        "redis_core_used": (on.stage.redis_cpu_seconds() - redis_before) / report["run_seconds"],
        "publisher_core_used": (on.publishing.cpu_seconds() - publishing_before) / report["run_seconds"],
    }


def connect(load: LoadClient) -> None:
    """Open all connections; a single failure ends the run."""
    answer = load.connect()
    if answer["failed_count"]:
        raise BenchmarkError(f"{answer['failed_count']} connections failed: {answer['failure']}")
