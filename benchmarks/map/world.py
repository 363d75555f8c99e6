"""
The vehicles of the map benchmark, and who looks at which of them: the same for each server, from a seed.

Owns cities, feeds, the ways of the vehicles, the views of the viewers and when they move. Does not own what a server is
sent (servers) nor the files of the load client (files).

All places are whole numbers of the Web Mercator square, as in `realtime.live.places`.
"""

import math
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["PERIOD", "WORLD", "Box", "Move", "World", "degrees"]

WORLD: Final = 1 << 30
# A vehicle drives its way there and back in so many seconds, and then again.
PERIOD: Final = 120
# Cities are between these degrees.
_WEST, _SOUTH, _EAST, _NORTH = -9.0, 37.0, 29.0, 59.0
_CITIES: Final = 60
# A metre at about 50 degrees north.
_METRE: Final = WORLD / 40_075_017 / math.cos(math.radians(50))
_CITY_METRES, _SPEED_METRES = 9_000.0, 11.0
# Screens in pixels and how many of ten viewers have it, and the zooms that they choose from.
_SCREENS: Final = (((1280, 800), 6), ((390, 844), 4))
_ZOOMS: Final = (8, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14)
_TILE_PIXELS: Final = 256
_TRIES: Final = 40

# x0, y0, x1, y1; all are inside.
type Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Move:
    """
    Attributes:
        at_ms: When the viewer sees this from now on; 0 for the first.
        viewer: From 0.
        zoom: Of the map.
        box: What is on the screen.
    """

    at_ms: int
    viewer: int
    zoom: int
    box: Box


class World:
    """
    Args:
        seed: The same seed makes the same world.
        feeds: How many.
        vehicles: How many, in all feeds together.
        seen: The least and the most vehicles that a viewer has on the screen.

    Attributes:
        feeds: The vehicles of each feed, a range of their numbers.
        places: x and y of each vehicle, one vehicle after another, one second after another: PERIOD seconds.
    """

    def __init__(self, *, seed: int, feeds: int, vehicles: int, seen: tuple[int, int] = (50, 2_000)) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._seen = seen
        self.vehicles = vehicles
        self.cities = [self._city(rank) for rank in range(_CITIES)]
        self.feeds = self._feeds(feeds)
        self.places = self._ways()
        self._counts: dict[int, dict[tuple[int, int], int]] = {}

    def place(self, vehicle: int, second: int) -> tuple[int, int]:
        """Where a vehicle is in a second of the run."""
        index = ((second % PERIOD) * self.vehicles + vehicle) * 2
        return self.places[index], self.places[index + 1]

    def moves(self, *, viewers: int, seconds: float, every_seconds: float) -> list[Move]:
        """
        What each viewer sees first, and each change of it, in the order of time.

        A viewer's moves depend on its number only: the first hundred of a thousand are the hundred of a smaller run.
        """
        seed = self._random.getrandbits(64)
        found = []
        for viewer in range(viewers):
            choice = random.Random(seed + viewer)  # noqa: S311 - no secret
            found += self._moves_of(viewer, choice, seconds, every_seconds)
        return sorted(found, key=lambda move: (move.at_ms, move.viewer))

    def _city(self, rank: int) -> tuple[int, int, float]:
        x, y = _square(self._random.uniform(_WEST, _EAST), self._random.uniform(_SOUTH, _NORTH))
        return x, y, 1 / (rank + 2) ** 0.8

    def _feeds(self, count: int) -> list[range]:
        """Few are large, most are small; each has at least one vehicle."""
        weights = [1 / (rank + 4) ** 0.7 for rank in range(count)]
        self._random.shuffle(weights)
        total, feeds, start = sum(weights), [], 0
        for number, weight in enumerate(weights):
            left = count - number - 1
            size = round(weight / total * self.vehicles) if left else self.vehicles - start
            end = min(start + max(size, 1), self.vehicles - left)
            feeds.append(range(start, end))
            start = end
        return feeds

    def _ways(self) -> "array[int]":
        weights = [weight for _, _, weight in self.cities]
        xs, ys, way = [0] * self.vehicles, [0] * self.vehicles, PERIOD // 2
        steps: list[list[tuple[int, int]]] = []
        for vehicles in self.feeds:
            (x, y, _) = self._random.choices(self.cities, weights)[0]
            for vehicle in vehicles:
                xs[vehicle] = round(self._random.gauss(x, _CITY_METRES * _METRE))
                ys[vehicle] = round(self._random.gauss(y, _CITY_METRES * _METRE))
                steps.append(self._steps(way))
        there = [self._at(xs, ys, steps, step) for step in range(way + 1)]
        places: array[int] = array("I")
        for second in range(PERIOD):
            places += there[second if second <= way else PERIOD - second]
        return places

    def _steps(self, count: int) -> list[tuple[int, int]]:
        heading, x, y, found = self._random.uniform(0, math.tau), 0.0, 0.0, [(0, 0)]
        speed = self._random.uniform(0.3, 1.7) * _SPEED_METRES * _METRE
        for _ in range(count):
            x, y = x + math.cos(heading) * speed, y + math.sin(heading) * speed
            found.append((round(x), round(y)))
            heading += self._random.uniform(-0.2, 0.2)
        return found

    def _at(self, xs: list[int], ys: list[int], steps: list[list[tuple[int, int]]], step: int) -> "array[int]":
        places = array("I", bytes(8 * self.vehicles))
        places[0::2] = array("I", [x + each[step][0] for x, each in zip(xs, steps, strict=True)])
        places[1::2] = array("I", [y + each[step][1] for y, each in zip(ys, steps, strict=True)])
        return places

    def _moves_of(self, viewer: int, choice: random.Random, seconds: float, every_seconds: float) -> Iterator[Move]:
        screen = choice.choices([size for size, _ in _SCREENS], [weight for _, weight in _SCREENS])[0]
        zoom, x, y = self._home(choice, screen)
        yield Move(0, viewer, zoom, _box(screen, zoom, x, y))
        home, at = (zoom, x, y), choice.expovariate(1 / every_seconds)
        while at < seconds:
            zoom, x, y = self._next(choice, screen, (zoom, x, y)) or home
            yield Move(max(round(at * 1000), 1), viewer, zoom, _box(screen, zoom, x, y))
            at += choice.expovariate(1 / every_seconds)

    def _home(self, choice: random.Random, screen: tuple[int, int]) -> tuple[int, int, int]:
        weights = [weight for _, _, weight in self.cities]
        best, best_count = (10, self.cities[0][0], self.cities[0][1]), -1
        for _ in range(_TRIES):
            (x, y, _) = choice.choices(self.cities, weights)[0]
            zoom, spread = choice.choice(_ZOOMS), _CITY_METRES * _METRE * 0.6
            place = zoom, round(choice.gauss(x, spread)), round(choice.gauss(y, spread))
            count = self._count(_box(screen, *place))
            if self._seen[0] <= count <= self._seen[1]:
                return place
            if best_count < count <= self._seen[1]:
                best, best_count = place, count
        return best

    def _next(
        self, choice: random.Random, screen: tuple[int, int], place: tuple[int, int, int]
    ) -> tuple[int, int, int] | None:
        """A drag of the map, or once in five a step of the zoom; None if nothing suitable was found."""
        for _ in range(_TRIES // 4):
            zoom, x, y = place
            if choice.random() < 0.2:
                zoom = min(max(zoom + choice.choice((-1, 1)), _ZOOMS[0]), _ZOOMS[-1])
            else:
                angle, part = choice.uniform(0, math.tau), choice.uniform(0.1, 0.6)
                pixels = (WORLD >> zoom) / _TILE_PIXELS
                x += round(math.cos(angle) * part * screen[0] * pixels)
                y += round(math.sin(angle) * part * screen[1] * pixels)
            if self._seen[0] <= self._count(_box(screen, zoom, x, y)) <= self._seen[1]:
                return zoom, x, y
        return None

    def _count(self, box: Box) -> int:
        """About how many vehicles are there in the first second."""
        x0, y0, x1, y1 = box
        bits = max((x1 - x0).bit_length() - 4, 10)
        if bits not in self._counts:
            counts = self._counts[bits] = {}
            for index in range(0, self.vehicles * 2, 2):
                cell = self.places[index] >> bits, self.places[index + 1] >> bits
                counts[cell] = counts.get(cell, 0) + 1
        counts = self._counts[bits]
        rows = range((y0 + (1 << bits - 1)) >> bits, (y1 + (1 << bits - 1)) >> bits)
        columns = range((x0 + (1 << bits - 1)) >> bits, (x1 + (1 << bits - 1)) >> bits)
        return sum(counts.get((column, row), 0) for row in rows for column in columns)


def degrees(x: int, y: int) -> tuple[float, float]:
    """Longitude and latitude of the middle of a unit."""
    return (x + 0.5) / WORLD * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / WORLD))))


def _square(longitude: float, latitude: float) -> tuple[int, int]:
    y = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2
    return round((longitude + 180) / 360 * WORLD), round(y * WORLD)


def _box(screen: tuple[int, int], zoom: int, x: int, y: int) -> Box:
    width, height = (side * (WORLD >> zoom) // _TILE_PIXELS for side in screen)
    return x - width // 2, y - height // 2, x + width - width // 2 - 1, y + height - height // 2 - 1
