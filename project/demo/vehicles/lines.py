"""
The lines of the demo's cities, and where a vehicle is at a time.

Owns the shapes of lines, their timetables and the vehicles on them. Does not own the cities (cities.json, made by
`fetch`) nor publishing (simulation).

Everything follows from the city and the number of the line: two processes make the same network, and a vehicle is a
function of time. So a simulation that is started again continues where the clock is.
"""

import itertools
import json
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from project.demo.vehicles.geometry import bearing_of, distance_km, moved, on_the_way

__all__ = ["MODES", "Feed", "Line", "Mode", "Network", "Vehicle", "build_network"]

type Point = tuple[float, float]

CITIES = Path(__file__).resolve().parent / "cities.json"
DIRECTIONS = ("North", "North East", "East", "South East", "South", "South West", "West", "North West")
LAYOVER_SECONDS = 120.0
KM_PER_DEGREE = 111.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """
    One kind of vehicle.

    Attributes:
        share: How many of all vehicles are of this mode.
        level: The zoom from which on a map shows them.
        speeds_kmh: The slowest and the fastest between two stops.
        stop_km: Between two stops.
        dwell_seconds: At each stop.
        radius_km: How far a line goes from the centre of its city; 0 for lines between cities.
        per_line: About how many vehicles are on a line.
    """

    share: float
    level: int
    speeds_kmh: tuple[float, float]
    stop_km: float
    dwell_seconds: float
    radius_km: float = 0.0
    per_line: int = 4


MODES = {
    "rail": Mode(share=0.1, level=0, speeds_kmh=(70, 250), stop_km=45, dwell_seconds=90),
    "ferry": Mode(share=0.02, level=6, speeds_kmh=(18, 45), stop_km=math.inf, dwell_seconds=300),
    "metro": Mode(share=0.14, level=8, speeds_kmh=(35, 70), stop_km=1.3, dwell_seconds=25, radius_km=15, per_line=6),
    "tram": Mode(share=0.2, level=10, speeds_kmh=(18, 36), stop_km=0.7, dwell_seconds=20, radius_km=8),
    "bus": Mode(share=0.54, level=11, speeds_kmh=(15, 42), stop_km=0.6, dwell_seconds=15, radius_km=11),
}


class Hop(NamedTuple):
    """One straight piece of a line."""

    km: float
    bearing: int
    seconds: float
    speed_kmh: int

    def back(self) -> "Hop":
        """The same piece in the other direction."""
        return self._replace(bearing=(self.bearing + 180) % 360)


class Line:
    """
    A way there and back, as a timetable that repeats.

    Attributes:
        name: As on the front of its vehicles.
        mode: A name of MODES.
        ends: Where it goes to, and where back.
        points: (longitude, latitude) from one end to the other.
        period_seconds: From one departure at the first end to the next.
    """

    __slots__ = (
        "_bearings",
        "_lats",
        "_lons",
        "_speeds",
        "_times",
        "_turn",
        "ends",
        "mode",
        "name",
        "period_seconds",
        "points",
    )

    def __init__(
        self, name: str, mode: str, ends: tuple[str, str], points: Sequence[Point], dice: random.Random
    ) -> None:
        self.name, self.mode, self.ends, self.points = name, mode, ends, points
        self._times: list[float] = []
        self._lons: list[float] = []
        self._lats: list[float] = []
        self._bearings: list[int] = []
        self._speeds: list[int] = []
        hops = _hops(points, MODES[mode], dice)
        now = self._add_run(0.0, points, hops)
        self._turn = len(self._times)
        self.period_seconds = self._add_run(now, points[::-1], [hop.back() for hop in reversed(hops)])
        # For the interpolation after the last departure: where the line begins again.
        self._times.append(self.period_seconds)
        self._lons.append(points[0][0])
        self._lats.append(points[0][1])

    def _add_run(self, now: float, points: Sequence[Point], hops: Sequence[Hop]) -> float:
        """Each row of the timetable says what begins then: standing (speed 0), or a straight piece of the way."""
        mode = MODES[self.mode]
        km_since_stop = 0.0
        for index, (at, hop) in enumerate(zip(points, hops, strict=False)):
            if index == 0 or km_since_stop >= mode.stop_km:
                now = self._add_row(now, mode.dwell_seconds if index else LAYOVER_SECONDS, at, hop.bearing, 0)
                km_since_stop = 0.0
            now = self._add_row(now, hop.seconds, at, hop.bearing, hop.speed_kmh)
            km_since_stop += hop.km
        return now

    def _add_row(self, now: float, seconds: float, at: Point, bearing: int, speed: int) -> float:
        self._times.append(now)
        self._lons.append(at[0])
        self._lats.append(at[1])
        self._bearings.append(bearing)
        self._speeds.append(speed)
        return now + seconds

    def at(self, seconds: float) -> tuple[float, float, int, int, str]:
        """
        The place and movement of a vehicle at this time of the timetable.

        Returns:
            Longitude, latitude, bearing in degrees, speed in km/h, and where it goes.
        """
        now = seconds % self.period_seconds
        times = self._times
        index = bisect_right(times, now) - 1
        lon, lat = self._lons[index], self._lats[index]
        to = self.ends[0] if index < self._turn else self.ends[1]
        if speed := self._speeds[index]:
            share = (now - times[index]) / (times[index + 1] - times[index])
            lon += (self._lons[index + 1] - lon) * share
            lat += (self._lats[index + 1] - lat) * share
        return lon, lat, self._bearings[index], speed, to


class Vehicle:
    """
    A vehicle on a line.

    Attributes:
        key: Unique in its feed.
        line: Where it goes.
    """

    __slots__ = ("_late_seconds", "_phase_seconds", "_wave", "key", "line")

    def __init__(self, key: str, line: Line, phase_seconds: float, dice: random.Random) -> None:
        self.key, self.line = key, line
        self._phase_seconds = phase_seconds
        # Most are punctual, some are very late.
        self._late_seconds = dice.expovariate(1 / 60)
        self._wave = dice.uniform(0, 2 * math.pi)

    def state(self, seconds: float) -> dict[str, Any]:
        """
        The state of the vehicle that a map shows at this time.

        Guarantees:
            It never goes faster than its line allows: the delay changes by less than one second in ten.
        """
        delay = max(0.0, self._late_seconds + 45 * math.sin(seconds / 600 + self._wave))
        lon, lat, bearing, speed, to = self.line.at(seconds + self._phase_seconds - delay)
        return {
            "mode": self.line.mode,
            "line": self.line.name,
            "to": to,
            "lon": round(lon, 5),
            "lat": round(lat, 5),
            "bearing": bearing,
            "speed": speed,
            "delay": int(delay) // 15 * 15,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The vehicles of one city. `slug` is its name in the topic."""

    slug: str
    name: str
    vehicles: Sequence[Vehicle]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """All feeds, and the number of their vehicles."""

    feeds: Sequence[Feed]

    @property
    def vehicle_count(self) -> int:
        return sum(len(feed.vehicles) for feed in self.feeds)


@cache
def load_cities() -> list[dict[str, Any]]:
    """The cities in cities.json, in the order of `cities.choose_cities`."""
    cities: list[dict[str, Any]] = json.loads(CITIES.read_text(encoding="utf-8"))
    return cities


def build_network(feed_count: int, vehicle_count: int) -> Network:
    """
    Make the lines of the first `feed_count` cities, and put `vehicle_count` vehicles on them.

    Raises:
        ValueError: There are fewer cities than `feed_count`, or it is less than 1.
    """
    cities = load_cities()
    if not 1 <= feed_count <= len(cities):
        raise ValueError(f"there are {len(cities)} cities: the number of feeds is from 1 to {len(cities)}")
    chosen = cities[:feed_count]
    vehicles: list[list[Vehicle]] = [[] for _ in chosen]
    counts = _shares(vehicle_count, [mode.share for mode in MODES.values()])
    for (mode, rule), count in zip(MODES.items(), counts, strict=True):
        if rule.radius_km == 0:
            lines = [_routes(mode, city, cities) for city in chosen]
            # Long ways have more vehicles.
            weights = [float(sum(len(line.points) for line in each)) for each in lines]
        else:
            lines = [[] for _ in chosen]
            weights = [math.sqrt(city["population"]) for city in chosen]
        if not any(weights):
            # None of these cities has a coast or a neighbour.
            continue
        for index, number in enumerate(_shares(count, weights)):
            if number and not lines[index]:
                lines[index] = _local_lines(mode, chosen[index], math.ceil(number / rule.per_line))
            vehicles[index] += _vehicles(mode, chosen[index], lines[index], number)
    missing = vehicle_count - sum(map(len, vehicles))
    if missing:
        lines_of_first = _local_lines("bus", chosen[0], math.ceil(missing / MODES["bus"].per_line))
        vehicles[0] += _vehicles("more", chosen[0], lines_of_first, missing)
    return Network(
        feeds=[
            Feed(slug=city["slug"], name=city["name"], vehicles=each)
            for city, each in zip(chosen, vehicles, strict=True)
        ]
    )


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number by weights; the sum is exact."""
    whole = sum(weights)
    ends = [round(total * part / whole) for part in itertools.accumulate(weights)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def _vehicles(prefix: str, city: dict[str, Any], lines: Sequence[Line], count: int) -> list[Vehicle]:
    dice = random.Random(f"{city['slug']} {prefix}")  # noqa: S311 - the same network each time
    weights = [float(len(line.points)) for line in lines]
    found = []
    for line, number in zip(lines, _shares(count, weights), strict=True):
        for index in range(number):
            phase = line.period_seconds * (index + dice.uniform(0, 0.7)) / number
            found.append(Vehicle(f"{prefix}-{len(found) + 1}", line, phase, dice))
    return found


def _hops(points: Sequence[Point], mode: Mode, dice: random.Random) -> list[Hop]:
    """Long lines are faster."""
    pieces = [_piece(a, b) for a, b in itertools.pairwise(points)]
    slow, fast = mode.speeds_kmh
    length = sum(km for km, _ in pieces)
    usual = slow + (fast - slow) * min(1.0, length / (mode.radius_km * 3 or 400)) * dice.uniform(0.6, 0.95)
    found = []
    for km, bearing in pieces:
        speed = round(max(slow, min(fast, usual * dice.uniform(0.85, 1.1))))
        found.append(Hop(km, bearing, km / speed * 3600, speed))
    return found


def _piece(a: Point, b: Point) -> tuple[float, int]:
    """Length and bearing, as if the earth were flat: the pieces are short."""
    east = (b[0] - a[0]) * KM_PER_DEGREE * math.cos(math.radians((a[1] + b[1]) / 2))
    north = (b[1] - a[1]) * KM_PER_DEGREE
    return math.hypot(east, north), round(math.degrees(math.atan2(east, north))) % 360


def _routes(mode: str, city: dict[str, Any], cities: Sequence[dict[str, Any]]) -> list[Line]:
    """The lines to other cities."""
    dice = random.Random(f"{city['slug']} {mode}")  # noqa: S311 - the same network each time
    here = (city["lon"], city["lat"])
    if mode == "rail":
        others = [cities[index] for index in city["rails"]]
        ways = [(other["name"], here, (other["lon"], other["lat"])) for other in others]
    else:
        ways = [(name, (west, south), (east, north)) for name, west, south, east, north in city["ferries"]]
    found = []
    for number, (name, a, b) in enumerate(ways):
        letters = {"rail": "IC", "ferry": "F"}[mode]
        line_name = f"{letters} {dice.randrange(1, 90) if mode == 'rail' else number + 1}"
        found.append(Line(line_name, mode, (name, city["name"]), _curve(a, b, dice), dice))
    return found


def _curve(a: Point, b: Point, dice: random.Random) -> list[Point]:
    """Nearly straight: a railway that leaves the direct way by at most one per cent of it."""
    length = distance_km(a, b)
    count = max(8, min(120, round(length / 4)))
    aside, waves = length * dice.uniform(-0.01, 0.01), dice.choice((1, 2, 3))
    across = bearing_of(a, b) + 90
    points = []
    for index in range(count + 1):
        share = index / count
        points.append(moved(on_the_way(a, b, share), across, aside * math.sin(waves * math.pi * share)))
    return [a, *points[1:-1], b]


def _local_lines(mode: str, city: dict[str, Any], count: int) -> list[Line]:
    dice = random.Random(f"{city['slug']} {mode} lines")  # noqa: S311 - the same network each time
    found = []
    for number in range(1, count + 1):
        first = dice.uniform(0, 360)
        is_orbital = mode == "bus" and number % 3 == 0
        way = _orbit(city, first, dice) if is_orbital else _radial(MODES[mode], city, first, dice)
        ends = tuple(f"{city['name']} {_direction(polar[0])}" for polar in (way[-1], way[0]))
        name = {"metro": f"M{number}", "tram": f"{number}", "bus": f"{100 + number}"}[mode]
        points = [_place(city, angle, km) for angle, km in way]
        found.append(Line(name, mode, (ends[0], ends[1]), points, dice))
    return found


def _radial(mode: Mode, city: dict[str, Any], first: float, dice: random.Random) -> list[Point]:
    """Through the centre, from one side to about the other; (angle, km) of each point."""
    a = _open_angle(city, first)
    b = _open_angle(city, first + 180 + dice.uniform(-50, 50))
    size = dice.uniform(0.45, 1.0)
    step = min(0.4, mode.stop_km / 2)
    spread, wave = dice.uniform(4, 22), dice.uniform(0, 6)
    arms = []
    for angle in (a, b):
        arm = []
        km = step
        while km < max(1.2, mode.radius_km * size):
            turned = angle + spread * math.sin(km / 2.5 + wave)
            if km > _reach(city, turned):
                break
            arm.append((turned, km))
            km += step
        arms.append(arm or [(angle, step)])
    return [*reversed(arms[0]), (a, 0.05), *arms[1]]


def _orbit(city: dict[str, Any], first: float, dice: random.Random) -> list[Point]:
    """Around the centre, as far as there is land."""
    start = _open_angle(city, first)
    km = max(0.8, min(_reach(city, start) * dice.uniform(0.3, 0.8), 7.0))
    step = math.degrees(0.3 / km)
    way = [(start, km)]
    for index in range(1, round(dice.uniform(80, 260) / step)):
        angle = start + index * step
        now = km * (1 + 0.12 * math.sin(math.radians(angle) * 3))
        if now > _reach(city, angle):
            break
        way.append((angle, now))
    return way if len(way) > 5 else [(start, share * km / 8) for share in range(9)]


def _open_angle(city: dict[str, Any], angle: float) -> float:
    """The direction nearest to this one in which there is land."""
    turns = (turn for step in range(0, 181, 15) for turn in (step, -step))
    return next((angle + turn for turn in turns if _reach(city, angle + turn) >= 2), angle)


def _reach(city: dict[str, Any], angle: float) -> float:
    """The reach of the land in a direction: the smaller one of the two known directions beside it."""
    reach = city["reach"]
    place = angle % 360 / 360 * len(reach)
    return float(min(reach[int(place) % len(reach)], reach[(int(place) + 1) % len(reach)])) or 1.0


def _place(city: dict[str, Any], angle: float, km: float) -> Point:
    """Calculated as if the earth were flat, because a city is small."""
    turned = math.radians(angle)
    lat = city["lat"] + km * math.cos(turned) / KM_PER_DEGREE
    return city["lon"] + km * math.sin(turned) / (KM_PER_DEGREE * math.cos(math.radians(city["lat"]))), lat


def _direction(angle: float) -> str:
    return DIRECTIONS[round(angle % 360 / 45) % 8]
