"""
`python -m benchmarks.map.soak --minutes 10`: viewers of moving vehicles, while connections, server and Redis fail.

Owns the faults, and the comparison of every viewer with the truth, again and again: publishing rests, and then each
viewer must have exactly what is in its box, the newest of it, nothing that was removed, and nothing outside the area
that the server may send. Does not own the viewers (following).
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.map import files
from benchmarks.map.dialects import DIALECTS, bbox_of
from benchmarks.map.following import Follower
from benchmarks.map.payloads import VEHICLE_BASE
from benchmarks.map.publishing import is_gone
from benchmarks.map.servers import MAP_SERVERS
from benchmarks.map.world import Move, World
from benchmarks.processes import BenchmarkError, Process, free_port
from benchmarks.rig import Publishing
from benchmarks.stage import Stage

__all__ = ["Soak", "main"]

_SERVER = MAP_SERVERS["signalbox-map"].server
_SECONDS_LIMIT = 10_000
_SETTLE_SECONDS = 60.0
# A round of faults: how long vehicles move before they rest.
_ROUND_SECONDS = 4
_TOLERANCE = 2


@dataclass(slots=True)
class _Looking:
    """A viewer, and the move that it has made last."""

    move: Move
    follower: Follower | None = None

    def filter(self) -> dict[str, Any]:
        """What it asks for."""
        return {"bbox": bbox_of(self.move), "zoom": self.move.zoom}


class Soak:
    """
    Args:
        stage: With at least as many users as there are viewers.
        viewers, feeds, vehicles: How many.
        seed: Of the world and of the faults.
    """

    def __init__(self, stage: Stage, *, viewers: int, feeds: int, vehicles: int, seed: int) -> None:
        self._stage, self._dice = stage, random.Random(seed)  # noqa: S311 - no secret
        self._world = World(seed=seed, feeds=feeds, vehicles=vehicles, seen=(5, 400))
        self._feed_of = {vehicle: feed for feed, each in enumerate(self._world.feeds) for vehicle in each}
        # More moves than a viewer makes: they begin again.
        self._moves: dict[int, itertools.cycle[Move]] = {}
        moves = self._world.moves(viewers=viewers, seconds=300, every_seconds=3.0)
        for viewer in range(viewers):
            self._moves[viewer] = itertools.cycle([move for move in moves if move.viewer == viewer])
        self._looking = [_Looking(next(self._moves[viewer])) for viewer in range(viewers)]
        self._port = free_port()
        self._server: Process | None = None
        self._publishing: Publishing | None = None
        # The second that is published next.
        self._second = 0
        self.counts = dict.fromkeys(("rests", "cuts", "server kills", "client kills", "restarts of Redis"), 0)
        self.failed_seconds = 0

    async def run(self, seconds: float) -> list[str]:
        """Move and fail until the time is over; what was wrong."""
        directory = self._stage.directory / "map"
        files.write(directory, self._world, [], seconds=_SECONDS_LIMIT, frame=str, allowed=lambda move: move.box)
        self._server = _SERVER.start(self._stage, self._port)
        self._publishing = Publishing(_SERVER, self._stage, self._port, module="benchmarks.map.publishing")
        tasks: list[asyncio.Task[None]] = []
        try:
            await asyncio.to_thread(self._publishing.tell, "open", directory=str(directory))
            sessions = [line.split("\t")[1] for line in self._stage.cookies.read_text().splitlines()]
            for looking, session in zip(self._looking, sessions, strict=False):
                url = f"ws://127.0.0.1:{self._port}/ws/"
                looking.follower = Follower(url, session, looking.filter)
                tasks.append(asyncio.create_task(looking.follower.run()))
            return await self._rounds(time.monotonic() + seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._publishing.__exit__(None, None, None)
            self._server.__exit__(None, None, None)

    async def _rounds(self, until: float) -> list[str]:
        faults = itertools.cycle((self._cut_all, self._kill_clients, self._kill_server, self._restart_redis))
        wrong: list[str] = []
        while time.monotonic() < until and not wrong:
            round_seconds = min(_ROUND_SECONDS, max(until - time.monotonic(), 2.0))
            moving = asyncio.create_task(self._move(round_seconds))
            await asyncio.sleep(round_seconds * self._dice.uniform(0.2, 0.7))
            await next(faults)()
            await moving
            wrong = await self._rest()
            self.counts["rests"] += 1
        return wrong

    async def _move(self, seconds: float) -> None:
        """Vehicles and viewers move, and now and then a connection is cut."""
        until = time.monotonic() + seconds

        async def look() -> None:
            while time.monotonic() < until:
                await asyncio.sleep(1.5 / len(self._looking))
                number = self._dice.randrange(len(self._looking))
                looking = self._looking[number]
                assert looking.follower is not None  # noqa: S101 - it runs
                looking.move = next(self._moves[number])
                await looking.follower.look()
                if self._dice.random() < 0.03:
                    self.counts["cuts"] += 1
                    looking.follower.cut()

        async def publish() -> None:
            while time.monotonic() < until:
                answer = await self._tell("try", seconds=1)
                self.failed_seconds += bool(answer["failed"])

        await asyncio.gather(look(), publish())

    async def _tell(self, way: str, **job: Any) -> dict[str, Any]:
        assert self._publishing is not None  # noqa: S101 - it runs
        answer = await asyncio.to_thread(self._publishing.tell, way, **job)
        self._second = answer["last"] + 1
        return answer

    async def _rest(self) -> list[str]:
        """Publish one whole second, and wait until every viewer has the truth; what is wrong if one does not get it."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (await self._tell("try", seconds=1))["failed"]:
            if time.monotonic() > deadline:
                return ["Redis does not take publications any more"]
        while True:
            wrong = [words for looking in self._looking if looking.follower for words in looking.follower.wrong]
            different = [words for number in range(len(self._looking)) for words in self._differences(number)]
            if wrong or not different:
                return wrong
            if time.monotonic() > deadline:
                return different
            await asyncio.sleep(0.1)

    def _differences(self, number: int) -> list[str]:
        looking, second = self._looking[number], self._second - 1
        follower = looking.follower
        if follower is None or not follower.is_settled:
            return [f"viewer {number} waits for an answer"]
        x0, y0, x1, y1 = looking.move.box
        left, top, right, bottom = DIALECTS["signalbox"].allowed(looking.move)
        found, known = [], dict(follower.items)
        for vehicle in range(self._world.vehicles):
            x, y = self._world.place(vehicle, second)
            key = f"map.f{self._feed_of[vehicle]}", str(VEHICLE_BASE + vehicle)
            newest = known.pop(key, None)
            if is_gone(vehicle, second):
                if newest is not None:
                    found.append(f"viewer {number} has {key}, which was removed")
            elif newest is None:
                if x0 <= x <= x1 and y0 <= y <= y1:
                    found.append(f"viewer {number} misses {key}")
            elif newest != second:
                found.append(f"viewer {number} has second {newest} of {key} instead of {second}")
            elif not (left - _TOLERANCE <= x <= right + _TOLERANCE and top - _TOLERANCE <= y <= bottom + _TOLERANCE):
                found.append(f"viewer {number} has {key}, which is outside")
        return found + [f"viewer {number} has {key}, which never was" for key in known]

    async def _cut_all(self) -> None:
        for looking in self._looking:
            if looking.follower is not None:
                self.counts["cuts"] += 1
                looking.follower.cut()

    async def _kill_clients(self) -> None:
        """All connections of the server and of the publisher to Redis."""
        with redis.Redis.from_url(self._stage.redis_url) as client:
            for kind in ("pubsub", "normal"):
                client.client_kill_filter(_type=kind, skipme=True)
        self.counts["client kills"] += 1

    async def _kill_server(self) -> None:
        assert self._server is not None  # noqa: S101 - it runs
        for pid in reversed(self._server.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.__exit__(None, None, None)
        self._server = await asyncio.to_thread(_SERVER.start, self._stage, self._port)
        self.counts["server kills"] += 1

    async def _restart_redis(self) -> None:
        """It loses all that it had."""
        await asyncio.to_thread(self._stage.restart_redis)
        self.counts["restarts of Redis"] += 1

    def report(self) -> str:
        """What happened, in one line."""
        followers = [looking.follower for looking in self._looking if looking.follower]
        parts = [f"{count} {name}" for name, count in self.counts.items()]
        parts += [f"{self._second} seconds published, of which {self.failed_seconds} failed in part"]
        parts += [f"{sum(each.connected_count for each in followers)} connections"]
        parts += [f"{sum(each.resumed_count for each in followers)} resumed"]
        return ", ".join(parts)


def main() -> int:
    """Run what the command line asks for; 1 if a viewer differed from the truth."""
    parser = argparse.ArgumentParser(description="Viewers of a map against the truth, while everything fails.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--viewers", type=int, default=60)
    parser.add_argument("--feeds", type=int, default=60)
    parser.add_argument("--vehicles", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with Stage(users=options.viewers) as stage:
        soak = Soak(stage, viewers=options.viewers, feeds=options.feeds, vehicles=options.vehicles, seed=options.seed)
        try:
            wrong = asyncio.run(soak.run(options.minutes * 60))
        except BenchmarkError as error:
            wrong = [str(error)]
    sys.stdout.write(f"{soak.report()}\n")
    sys.stdout.write("".join(f"{words}\n" for words in wrong[:20]) or "every viewer had the truth at each rest\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
