"""
Coasts and borders, small enough for a page; only for `fetch`.

Owns the simplification of a TopoJSON file, and whether a point is on land. Does not own drawing (static/demo/map).

Source: the TopoJSON specification. An arc is a list of points, each as the difference to the one before; ~n is arc n
backwards.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Land", "simplify"]

type Point = tuple[int, int]

# Whole numbers in the file are hundredths of a degree.
UNITS_PER_DEGREE = 100
# A point nearer than this to the simplified line is left out, in degrees.
TOLERANCE = 0.025
# Islands with a smaller box than this are left out, in degrees.
SMALLEST_ISLAND = 0.12
# Edges are looked up in bands of this height.
_BANDS_PER_DEGREE = 5


def simplify(atlas: dict[str, Any]) -> dict[str, Any]:
    """
    Make the map of the page of a TopoJSON file with the objects `land` and `countries`.

    Returns:
        `units`: how many whole numbers are a degree. `arcs`: lines, each [x, y, dx, dy, dx, dy, …]. `land`: polygons,
        each a list of rings of arcs. `borders`: the arcs between two countries.
    """
    (x_scale, y_scale), (x0, y0) = atlas["transform"]["scale"], atlas["transform"]["translate"]
    arcs = []
    for arc in atlas["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((round((x0 + x * x_scale) * UNITS_PER_DEGREE), round((y0 + y * y_scale) * UNITS_PER_DEGREE)))
        arcs.append(_simplified(points))
    land = [
        polygon
        for polygon in _polygons(atlas["objects"]["land"])
        if any(len(arcs[_index(arc)]) > 2 for arc in polygon[0]) and _is_large(polygon, arcs)
    ]
    coast = {_index(arc) for polygon in _polygons(atlas["objects"]["land"]) for ring in polygon for arc in ring}
    borders = [index for index in range(len(arcs)) if index not in coast]
    used = sorted({_index(arc) for polygon in land for ring in polygon for arc in ring} | set(borders))
    number = {index: position for position, index in enumerate(used)}
    return {
        "units": UNITS_PER_DEGREE,
        "arcs": [_differences(arcs[index]) for index in used],
        "land": [
            [[number[arc] if arc >= 0 else ~number[~arc] for arc in ring] for ring in polygon] for polygon in land
        ],
        "borders": [number[index] for index in borders],
    }


class Land:
    """Whether a point is on land, by the coasts that the page draws."""

    def __init__(self, world: dict[str, Any]) -> None:
        self._bands: dict[int, list[tuple[float, float, float, float]]] = {}
        arcs = [[(x / world["units"], y / world["units"]) for x, y in _points(arc)] for arc in world["arcs"]]
        for ring in (ring for polygon in world["land"] for ring in polygon):
            for (xa, ya), (xb, yb) in _edges(ring, arcs):
                if abs(xa - xb) > 180:
                    # It crosses longitude 180; no city is near.
                    continue
                for band in range(_band(min(ya, yb)), _band(max(ya, yb)) + 1):
                    self._bands.setdefault(band, []).append((xa, ya, xb, yb))

    def is_at(self, longitude: float, latitude: float) -> bool:
        """Even–odd rule: a ray to the east crosses an odd number of coasts."""
        is_on_land = False
        for xa, ya, xb, yb in self._bands.get(_band(latitude), ()):
            if (ya > latitude) != (yb > latitude) and longitude < xa + (latitude - ya) * (xb - xa) / (yb - ya):
                is_on_land = not is_on_land
        return is_on_land


def _band(latitude: float) -> int:
    return int((latitude + 90) * _BANDS_PER_DEGREE)


def _edges(ring: Sequence[int], arcs: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, Any]]:
    for arc in ring:
        points = arcs[_index(arc)]
        yield from itertools.pairwise(points)


def _points(flat: Sequence[int]) -> Iterator[Point]:
    x = y = 0
    for dx, dy in zip(flat[::2], flat[1::2], strict=True):
        x, y = x + dx, y + dy
        yield x, y


def _differences(points: Sequence[Point]) -> list[int]:
    flat, x, y = [], 0, 0
    for new_x, new_y in points:
        flat += [new_x - x, new_y - y]
        x, y = new_x, new_y
    return flat


def _index(arc: int) -> int:
    return arc if arc >= 0 else ~arc


def _polygons(shape: dict[str, Any]) -> Iterator[list[list[int]]]:
    if shape["type"] == "GeometryCollection":
        for each in shape["geometries"]:
            yield from _polygons(each)
    elif shape["type"] == "MultiPolygon":
        yield from shape["arcs"]
    elif shape["type"] == "Polygon":
        yield shape["arcs"]


def _is_large(polygon: Sequence[Sequence[int]], arcs: Sequence[Sequence[Point]]) -> bool:
    points = [point for arc in polygon[0] for point in arcs[_index(arc)]]
    width, height = (max(each) - min(each) for each in zip(*points, strict=True))
    return max(width, height) >= SMALLEST_ISLAND * UNITS_PER_DEGREE


def _simplified(points: list[Point]) -> list[Point]:
    """Douglas–Peucker; a closed line keeps the point that is farthest from its beginning."""
    kept = {0, len(points) - 1}
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        farthest, distance = first, TOLERANCE * UNITS_PER_DEGREE
        for index in range(first + 1, last):
            if (found := _distance(points[index], points[first], points[last])) > distance:
                farthest, distance = index, found
        if farthest != first:
            kept.add(farthest)
            spans += [(first, farthest), (farthest, last)]
    return [points[index] for index in sorted(kept)]


def _distance(point: Point, a: Point, b: Point) -> float:
    """From the segment a–b."""
    (x, y), (xa, ya), (xb, yb) = point, a, b
    dx, dy = xb - xa, yb - ya
    length = dx * dx + dy * dy
    share = max(0.0, min(1.0, ((x - xa) * dx + (y - ya) * dy) / length)) if length else 0.0
    return float(((x - xa - share * dx) ** 2 + (y - ya - share * dy) ** 2) ** 0.5)
