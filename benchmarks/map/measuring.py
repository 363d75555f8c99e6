"""
One run of the map: vehicles are published, viewers come and move, and in the end all that they have is checked.

Owns the order of a run and its figures. Does not own the sizes (scenarios).
"""

import functools
import time
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.load_client import LoadClient
from benchmarks.map import files
from benchmarks.map.servers import FEEDS_LIMIT, MapServer
from benchmarks.map.world import Move, World
from benchmarks.processes import BenchmarkError, Process, free_port
from benchmarks.rig import Figures, Publishing
from benchmarks.stage import Stage

__all__ = ["FULL_MAP", "QUICK_MAP", "MapSizes", "measure"]

# More seconds than any run publishes.
_SECONDS_LIMIT = 3_600
_WARM_UP_SECONDS = 2
# So many viewers come at a time: they come while others are served, and not as a storm.
_IN_FLIGHT = 4
# Of moves, in seconds of the monotonic clock.
_REST_SECONDS, _PATIENCE_SECONDS = 0.5, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSizes:
    """How much is on the map, who looks at it, and how often each viewer moves."""

    feeds: int
    vehicles: int
    viewers: int
    seconds: int
    every_seconds: float = 3.0
    seed: int = 1
    seen: tuple[int, int] = (50, 2_000)


FULL_MAP = MapSizes(feeds=500, vehicles=20_000, viewers=1_000, seconds=15)
QUICK_MAP = MapSizes(feeds=20, vehicles=400, viewers=20, seconds=3, every_seconds=1.0, seen=(2, 100))


@functools.lru_cache(maxsize=2)
def _world(sizes: MapSizes) -> tuple[World, list[Move]]:
    world = World(seed=sizes.seed, feeds=sizes.feeds, vehicles=sizes.vehicles, seen=sizes.seen)
    return world, world.moves(viewers=sizes.viewers, seconds=sizes.seconds, every_seconds=sizes.every_seconds)


def measure(of: MapServer, stage: Stage, sizes: MapSizes) -> Figures:
    """One run with one server."""
    if sizes.feeds > FEEDS_LIMIT:
        raise BenchmarkError(f"at most {FEEDS_LIMIT} feeds")
    viewers = min(sizes.viewers, of.viewers_limit or sizes.viewers)
    with redis.Redis.from_url(stage.redis_url) as client:
        # No run finds the vehicles of another.
        client.flushall()
    port, (world, moves) = free_port(), _world(sizes)
    directory = stage.directory / f"map-{port}"
    files.write(
        directory,
        world,
        moves,
        seconds=_SECONDS_LIMIT,
        frame=of.dialect.frame,
        allowed=of.dialect.allowed,
    )
    words = [*of.server.arguments(None), "--views", str(directory)]
    with (
        of.server.start(stage, port) as process,
        LoadClient(
            words + ["--drops-outside"] * of.dialect.drops_outside,
            port=port,
            connections=viewers,
            cookies=stage.cookies,
            in_flight=_IN_FLIGHT,
        ) as load,
        Publishing(of.server, stage, port, module="benchmarks.map.publishing") as publishing,
    ):
        publishing.tell("open", directory=str(directory))
        publishing.tell("rounds", seconds=1)
        publishing.tell("prepare", seconds=_WARM_UP_SECONDS + sizes.seconds)
        answer = _connect(load)
        publishing.tell("run", seconds=_WARM_UP_SECONDS)
        figures = _run(process, load, publishing, stage, sizes)
        figures |= {"snapshot_p50_ms": answer["p50_us"] / 1e3, "snapshot_p99_ms": answer["p99_us"] / 1e3}
        return figures | {"viewers": viewers}


def _connect(load: LoadClient) -> dict[str, Any]:
    answer = load.connect()
    if answer["failed_count"]:
        raise BenchmarkError(f"{answer['failed_count']} connections failed: {answer['failure']}")
    return answer


def _run(process: Process, load: LoadClient, publishing: Publishing, stage: Stage, sizes: MapSizes) -> Figures:
    server_before, redis_before = process.cpu_seconds(), stage.redis_cpu_seconds()
    publishing_before = publishing.cpu_seconds()
    load.ask("go")
    begin = time.monotonic()
    job = publishing.tell("run", seconds=sizes.seconds)
    _wait_for_rest(load)
    seconds = time.monotonic() - begin
    server_cpu = process.cpu_seconds() - server_before
    redis_cpu, publishing_cpu = stage.redis_cpu_seconds() - redis_before, publishing.cpu_seconds() - publishing_before
    traffic = load.report(expected=0)
    seen = load.ask(f"map {job['first']} {job['last']}")
    found = load.ask(f"verify {job['last']}")
    needed = max(seen["needed_count"], 1)
    crop = (seen["expected_count"] + seen["entered_exact_count"]) * seen["needed_bytes"] / needed
    return {
        "published": job["published"],
        "needed": seen["needed_count"],
        "expected": seen["expected_count"],
        "raw": seen["line_count"],
        "server_cpu_us": server_cpu * 1e6 / needed,
        "cpu_us_per_publication": server_cpu * 1e6 / job["published"],
        "cpu_us_per_raw": server_cpu * 1e6 / max(seen["line_count"], 1),
        "server_core_used": server_cpu / seconds,
        "kb_per_viewer_second": traffic["received_bytes"] / 1024 / max(found["viewer_count"], 1) / sizes.seconds,
        "bytes_to_crop": traffic["received_bytes"] / max(crop, 1),
        "p50_ms": seen["age_p50_us"] / 1e3,
        "p99_ms": seen["age_p99_us"] / 1e3,
        "answer_p50_ms": seen["answer_p50_us"] / 1e3,
        "answer_p99_ms": seen["answer_p99_us"] / 1e3,
        "skipped_share": seen["skipped_count"] / max(seen["skipped_count"] + seen["line_count"], 1),
        # In the end, of what is on the screens: what is missing, what is old, and what should not be there.
        "lost": found["missing_count"] + found["stale_count"] + found["ghost_count"] + found["unanswered_count"],
        "doubled": seen["backwards_count"],
        "repeated": seen["repeated_count"],
        "held": found["held_count"],
        "seen": found["seen_count"],
        "closed": traffic["closed_count"],
        "late_seconds": job["late_seconds"],
        "client_core_used": traffic["client_cpu_seconds"] / traffic["run_seconds"],
        "redis_core_used": redis_cpu / seconds,
        "publisher_core_used": publishing_cpu / seconds,
    }


def _wait_for_rest(load: LoadClient) -> None:
    """Nothing comes any more."""
    until = time.monotonic() + _PATIENCE_SECONDS
    last, since = -1, time.monotonic()
    while time.monotonic() - since < _REST_SECONDS and time.monotonic() < until:
        if (delivered := load.progress.delivered) != last:
            last, since = delivered, time.monotonic()
        time.sleep(0.02)
