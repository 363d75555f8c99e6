"""
The demo's site with its map and its vehicles, as `make run` has it, and what Redis has in a view of the map.

Owns the web server, the simulation, the places at which the map may be opened and counting the vehicles there. Does not
own the stage nor the browser (first_picture).
"""

import contextlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis

from benchmarks import machine
from benchmarks.processes import BenchmarkError, Process, free_port
from benchmarks.stage import Stage
from project.demo.vehicles.lines import MODES, load_cities
from realtime.broker.publication import parse
from realtime.live.items import State, state_of
from realtime.live.places import area_of, level_limit

__all__ = ["OPENING", "DemoSite", "Place", "in_view", "place_with"]

_SIMULATION_SECONDS = 60.0
_TILE_PIXELS = 256
_LATITUDE_LIMIT = 85.0
# The views that are tried: around each of the largest cities, at these zooms.
_CITIES, _ZOOMS = 60, range(3, 14)
# The view with which the page opens is taken if the ratio of its vehicles to those wanted is this close to 1.
_CLOSE = 0.9

# A vehicle: its topic and its key.
type Name = tuple[str, str]
# The newest publication of each vehicle.
type Truth = Mapping[Name, State]


class Place(NamedTuple):
    """The middle of a map, and its zoom."""

    zoom: int
    latitude: float
    longitude: float

    def __str__(self) -> str:
        return f"{self.zoom}/{self.latitude:.4f}/{self.longitude:.4f}"

    def filter(self, size: tuple[float, float]) -> dict[str, Any]:
        """What a map of this size, in pixels, asks the server for."""
        world = _TILE_PIXELS * 2**self.zoom
        width, height = size[0] / world * 360, size[1] / world * math.tau
        middle = math.asinh(math.tan(math.radians(self.latitude)))
        south, north = (math.degrees(math.atan(math.sinh(middle + half))) for half in (-height / 2, height / 2))
        bbox = [
            self.longitude - width / 2,
            max(-_LATITUDE_LIMIT, south),
            self.longitude + width / 2,
            min(_LATITUDE_LIMIT, north),
        ]
        return {"bbox": bbox, "zoom": self.zoom, "tags": {"mode": list(MODES)}}


# As START in map.js.
OPENING = Place(2, 30.0, 12.0)


class DemoSite:
    """
    The site on a stage, with moving vehicles. Leaving the `with` block ends both processes.

    Args:
        stage: With at least one user.
        feeds, vehicles: The number of each.
    """

    def __init__(self, stage: Stage, *, feeds: int, vehicles: int) -> None:
        self._stage, self._feeds, self._vehicles = stage, feeds, vehicles
        self._processes = contextlib.ExitStack()
        self._server: Process | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop_server)
            self._start_server()
            self._wait_for_vehicles(undo.enter_context(self._simulation()))
            self._processes = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def restart_server(self) -> None:
        """Start a new process, which has no topic in its memory. It accepts connections when this returns."""
        self._stop_server()
        self._start_server()

    def truth(self) -> Truth:
        """The newest publication of each vehicle in Redis."""
        found = {}
        with redis.Redis.from_url(self._stage.redis_url) as client:
            for key in _snapshots(client):
                topic = key.decode().partition("{")[2].partition("}")[0]
                for payload in client.hvals(key):
                    publication = parse(payload)
                    if publication is None:
                        raise BenchmarkError(f"{topic} has a publication that cannot be read: {payload[:100]!r}")
                    state = state_of(topic, publication.position.offset, publication.frame, publication.relevance)
                    found[topic, state.key] = state
        return found

    def _start_server(self) -> None:
        command = [*(sys.executable, "-m", "realtime.web", "--port", str(self._port), "--drain-seconds", "1")]
        self._server = Process(
            [*command, "project.asgi:application"],
            core=machine.SERVER_CORE,
            log=self._stage.directory / "demo.log",
            # With DEBUG it serves the static files, which is nginx's work in production.
            environment=self._stage.environment | {"DEBUG": "1"},
        )
        self._server.wait_for_port(self._port)

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.__exit__(None, None, None)

    def _simulation(self) -> Process:
        size = (f"--feeds={self._feeds}", f"--vehicles={self._vehicles}")
        return Process(
            [sys.executable, "manage.py", "simulate_vehicles", *size],
            core=machine.OTHER_CORE,
            log=self._stage.directory / "simulation.log",
            environment=self._stage.environment,
        )

    def _wait_for_vehicles(self, simulation: Process) -> None:
        deadline = time.monotonic() + _SIMULATION_SECONDS
        with redis.Redis.from_url(self._stage.redis_url) as client:
            while (count := sum(client.hlen(key) for key in _snapshots(client))) < self._vehicles:
                if not simulation.is_running() or time.monotonic() > deadline:
                    raise BenchmarkError(f"{count} of {self._vehicles} vehicles are there:\n{simulation.log_text()}")
                time.sleep(0.1)


def in_view(truth: Truth, asked: Mapping[str, Any]) -> set[Name]:
    """The vehicles that the server sends for a filter of the page."""
    rectangles, limit = area_of(asked["bbox"]).rectangles, level_limit(asked["bbox"], asked["zoom"])
    modes = set(asked["tags"]["mode"])
    return {
        name
        for name, each in truth.items()
        if (limit is None or each.level <= limit) and each.tags["mode"] in modes
        if any(x0 <= each.x0 <= x1 and y0 <= each.y0 <= y1 for x0, y0, x1, y1 in rectangles)
    }


def place_with(count: int, truth: Truth, size: tuple[float, float]) -> Place:
    """
    A place where a map of this size, in pixels, has about this many vehicles.

    If the place at which the page opens has about as many, it is that one, otherwise the best of the largest cities.
    """
    found = len(in_view(truth, OPENING.filter(size)))
    if count * _CLOSE <= found <= count / _CLOSE:
        return OPENING
    cities: Sequence[dict[str, Any]] = load_cities()[:_CITIES]
    places = [OPENING, *(Place(zoom, city["lat"], city["lon"]) for zoom in _ZOOMS for city in cities)]
    return min(places, key=lambda place: abs(len(in_view(truth, place.filter(size))) - count))


def _snapshots(client: "redis.Redis") -> list[bytes]:
    return sorted(client.scan_iter(match="*{vehicles.*}:snapshot", count=1_000))
