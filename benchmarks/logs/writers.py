"""
The workers that are compared: each reads log records from a stream, and writes them into compressed files.

Owns the list and how one is measured. Does not own the programs (writing_program). All records are on the stream before
a worker starts.
"""

import gzip
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import redis

from benchmarks import machine
from benchmarks.logs.payloads import MESSAGE, arguments, extra
from benchmarks.processes import BenchmarkError, Process
from benchmarks.stage import Stage

__all__ = ["WRITERS", "Writer", "measure"]

STREAM, GROUP = "logs", "Archive"
# The records that are put on the stream in one pipeline.
FILLED_AT_ONCE = 1_000
# If a worker reads or acks nothing for this time, the run fails.
STUCK_SECONDS = 30.0
POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """
    One worker process that writes log records into files.

    Attributes:
        name, title, is_ours: As in Contender.
        way: The argument WAY of benchmarks.logs.writing_program.
        pace: About how many records it writes in a second. For each second of a run, this many are put on the stream.
    """

    name: str
    title: str
    way: str
    pace: int
    is_ours: bool = False

    def missing(self) -> str | None:
        """None: nothing has to be installed for any of them."""
        return None


def measure(writer: Writer, stage: Stage, *, seconds: float) -> dict[str, float]:
    """
    Let a worker write records for about this many seconds.

    A record that is in no file is lost; a record that is in files twice is doubled.
    """
    count = max(1_000, round(writer.pace * seconds))
    with redis.Redis.from_url(stage.redis_url) as client, tempfile.TemporaryDirectory(dir=stage.directory) as directory:
        client.flushall()
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        _fill(client, count)
        files, log = Path(directory) / "files", Path(directory) / "log"
        command = [sys.executable, "-m", "benchmarks.logs.writing_program", writer.way, stage.redis_url, str(files)]
        with Process(command, core=machine.SERVER_CORE, log=log, environment=stage.environment) as process:
            begin, cpu, redis_cpu = _wait_for_first(client, process, stage)
            end = _wait_for_all(client, process)
            cpu, redis_cpu = process.cpu_seconds() - cpu, stage.redis_cpu_seconds() - redis_cpu
        numbers = [number for path in files.rglob("*.gz") for number in _numbers(path)]
        client.flushall()
    return {
        "records_per_second": count / (end - begin),
        "worker_cpu_us": cpu / count * 1e6,
        "redis_cpu_us": redis_cpu / count * 1e6,
        "worker_core_used": cpu / (end - begin),
        "lost": count - len(set(numbers)),
        "doubled": len(numbers) - len(set(numbers)),
    }


def _fill(client: redis.Redis, count: int) -> None:
    for start in range(0, count, FILLED_AT_ONCE):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + FILLED_AT_ONCE, count)):
                record = {
                    "level": "INFO",
                    "timestamp": "2026-01-02T03:04:05.678901Z",
                    "logger": "project.demo.games.play",
                    "message": MESSAGE % arguments(number),
                    **extra(number),
                }
                pipeline.xadd(STREAM, {"record": msgspec.json.encode(record)})
            pipeline.execute()


def _group(client: redis.Redis) -> dict[str, Any]:
    (group,) = [each for each in client.xinfo_groups(STREAM) if each["name"] == GROUP.encode()]  # type: ignore[union-attr]
    return group


def _wait_for_first(client: redis.Redis, process: Process, stage: Stage) -> tuple[float, float, float]:
    """
    Wait until the worker reads, so that its start is not measured.

    Returns:
        The present time, and the CPU seconds that the worker and Redis have used so far.
    """
    deadline = time.monotonic() + STUCK_SECONDS
    while not _group(client)["entries-read"]:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the worker reads nothing:\n{process.log_text()[-2000:]}")
        time.sleep(POLL_SECONDS)
    return time.monotonic(), process.cpu_seconds(), stage.redis_cpu_seconds()


def _wait_for_all(client: redis.Redis, process: Process) -> float:
    """Wait until all records are acked. Returns the time, by the monotonic clock."""
    state, changed_at = None, time.monotonic()
    while True:
        group = _group(client)
        now = time.monotonic()
        if not group["pending"] and not group["lag"]:
            return now
        if (found := (group["pending"], group["entries-read"])) != state:
            state, changed_at = found, now
        elif now - changed_at > STUCK_SECONDS:
            raise BenchmarkError(f"the worker acks nothing:\n{process.log_text()[-2000:]}")
        time.sleep(POLL_SECONDS)


def _numbers(path: Path) -> list[int]:
    """The numbers of the records in a file."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    return [int(decode(line)["task"]["game_token"]) for line in gzip.decompress(path.read_bytes()).splitlines()]


_ALL = (
    Writer(name="signalbox-sink", title="Signalbox, NdjsonSink", way="sink", pace=30_000, is_ours=True),
    Writer(name="signalbox-sink-select", title="… with select and transform", way="select", pace=20_000, is_ours=True),
    Writer(name="plain", title="redis-py: XREADGROUP, gzip, fsync, XACK", way="plain", pace=30_000),
)
WRITERS = {writer.name: writer for writer in _ALL}
