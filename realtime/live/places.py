"""
The world as a square of whole numbers, and the part of it that a view covers.

Owns the conversion of longitudes and latitudes, and the grid of views. Does not own who is sent what (scene).

Web Mercator: x grows to the east from longitude -180, y to the south from latitude 85.05; both are from 0 to WORLD - 1.
The world is a ring: x = 0 follows WORLD - 1. Source: EPSG:3857, and the tile scheme of web maps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from realtime.broker.relevance import WORLD

__all__ = [
    "CELLS_PER_TILE",
    "WORLD",
    "Area",
    "Box",
    "Tiles",
    "area_of",
    "box",
    "boxes_of",
    "level_limit",
    "point",
    "rectangles",
]

# x0, y0, x1, y1, the edges included. In a place, x0 > x1 means that it crosses longitude 180.
type Box = tuple[int, int, int, int]

# Web Mercator ends at this latitude: places nearer to a pole are moved to it.
LATITUDE_LIMIT: Final = 85.0511287798066
# A longitude beyond this is probably a mistake of the publisher.
_LONGITUDE_LIMIT: Final = 360.0
# A map that was dragged around the world several times sends larger longitudes, for the same places.
_DRAGGED_LIMIT: Final = 1e6
# A view spans at most this many tiles of its level, so that a tick looks at few of them.
_TILES_ACROSS: Final = 8
_FINEST_LEVEL: Final = 20
# Only every second zoom is a level, so that views of different zooms share indexes.
_LEVEL_STEP: Final = 2
# Along each side of a tile.
CELLS_PER_TILE: Final = 16
# The longest side of a screen, 4,096 pixels, in tiles of 256 pixels.
_SCREEN_TILES: Final = 16

_EVERYWHERE: Final[Box] = (0, 0, WORLD - 1, WORLD - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """
    The places of a family: points and boxes in longitude and latitude, found by the tiles of a web map.

    A view is sent what lies in the cells that it touches, and in the ring of cells around them, so that a small
    movement of the map needs no answer. A cell is a sixteenth of a tile; a view is two to eight tiles wide.
    """

    def point(self, longitude: float, latitude: float) -> tuple[int, int]:
        """As `places.point`."""
        return point(longitude, latitude)

    def box(self, west: float, south: float, east: float, north: float) -> Box:
        """As `places.box`."""
        return box(west, south, east, north)


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """
    The part of the world that a view is sent, as whole cells.

    Attributes:
        level: The zoom of the tiles with which it is looked up.
        rectangles: One, or two if it crosses longitude 180; never x0 > x1.
    """

    level: int
    rectangles: tuple[Box, ...]


EVERYWHERE: Final = Area(level=0, rectangles=(_EVERYWHERE,))


def point(longitude: float, latitude: float) -> tuple[int, int]:
    """
    The place of a point, in degrees.

    Raises:
        ValueError: It is not on the earth.
    """
    _check_longitude(longitude)
    _check_latitude(latitude)
    return _x(longitude) % WORLD, _y(latitude)


def box(west: float, south: float, east: float, north: float) -> Box:
    """
    The place of everything between these degrees. If `west` is greater than `east`, it crosses longitude 180.

    Raises:
        ValueError: It is not on the earth, or `south` is greater than `north`.
    """
    for longitude in (west, east):
        _check_longitude(longitude)
    x0, y0, x1, y1 = _unwrapped(west, south, east, north)
    return (0, y0, WORLD - 1, y1) if x1 - x0 >= WORLD - 1 else (x0 % WORLD, y0, x1 % WORLD, y1)


def rectangles(place: Sequence[int]) -> tuple[Box, ...]:
    """A place, as from `point` or `box`, as one rectangle, or as two if it crosses longitude 180."""
    if len(place) == 2:
        x, y = place
        return ((x, y, x, y),)
    x0, y0, x1, y1 = place
    return ((x0, y0, x1, y1),) if x0 <= x1 else ((x0, y0, WORLD - 1, y1), (0, y0, x1, y1))


def boxes_of(bbox: Sequence[float]) -> tuple[Box, ...]:
    """
    Exactly what lies between the degrees [west, south, east, north] of a filter, as one or two rectangles.

    Longitudes may be any number: a map that was dragged around the world shows the same places again.

    Raises:
        ValueError: It is not on the earth.
    """
    x0, y0, x1, y1 = _unwrapped(*bbox)
    return _split(x0, y0, x1, y1)


def area_of(bbox: Sequence[float] | None) -> Area:
    """
    The cells that a view of [west, south, east, north] touches, and one ring of cells around them.

    Raises:
        ValueError: It is not on the earth.
    """
    if bbox is None:
        return EVERYWHERE
    x0, y0, x1, y1 = _unwrapped(*bbox)
    level = _level(max(x1 - x0, y1 - y0) + 1)
    cell = (WORLD >> level) // CELLS_PER_TILE
    return Area(
        level=level,
        rectangles=_split(
            (x0 // cell - 1) * cell,
            max((y0 // cell - 1) * cell, 0),
            (x1 // cell + 2) * cell - 1,
            min((y1 // cell + 2) * cell - 1, WORLD - 1),
        ),
    )


def level_limit(bbox: Sequence[float] | None, zoom: float | None) -> int | None:
    """
    The highest level of detail that a view is sent; None for all.

    If no screen can show the bbox at this zoom, the highest zoom counts at which one can. So a client that asks for
    the whole world in the detail of a street gets the detail of the whole world.
    """
    if bbox is None:
        return None if zoom is None else math.floor(zoom)
    x0, y0, x1, y1 = _unwrapped(*bbox)
    largest = math.log2(WORLD * _SCREEN_TILES / (max(x1 - x0, y1 - y0) + 1))
    return math.floor(largest if zoom is None else min(zoom, largest))


def cell_bits(level: int) -> int:
    """The number of bits by which a coordinate is shifted to get its cell at this level."""
    return (WORLD.bit_length() - 1) - level - (CELLS_PER_TILE.bit_length() - 1)


def tile_bits(level: int) -> int:
    """The number of bits by which a coordinate is shifted to get its tile at this level."""
    return (WORLD.bit_length() - 1) - level


def _level(size: int) -> int:
    """The finest level at which `size` is at most _TILES_ACROSS tiles."""
    zoom = math.floor(math.log2(WORLD * _TILES_ACROSS / size))
    return max(0, min(zoom - zoom % _LEVEL_STEP, _FINEST_LEVEL))


# Cached, because it is called several times for each new filter: to check it, and to find its area and its level.
@lru_cache(maxsize=64)
def _unwrapped(west: float, south: float, east: float, north: float) -> Box:
    """In world units: x0 is in the world; x1 is at least x0 and may be beyond the right edge of the world."""
    for degrees in (west, east):
        if not -_DRAGGED_LIMIT <= degrees <= _DRAGGED_LIMIT:
            raise ValueError(f"a longitude is between -180 and 180 degrees, not {degrees}")
    for degrees in (south, north):
        _check_latitude(degrees)
    if south > north:
        raise ValueError(f"the order is west, south, east, north: {south} is north of {north}")
    if east < west:
        east += 360 * math.ceil((west - east) / 360)
    width = _x(east) - _x(west) if east - west < 360 else WORLD - 1
    x0 = _x(west) % WORLD
    return x0, _y(north), x0 + min(width, WORLD - 1), _y(south)


def _split(x0: int, y0: int, x1: int, y1: int) -> tuple[Box, ...]:
    if x1 - x0 >= WORLD - 1:
        return ((0, y0, WORLD - 1, y1),)
    x0, x1 = x0 % WORLD, x1 % WORLD
    return ((x0, y0, x1, y1),) if x0 <= x1 else ((x0, y0, WORLD - 1, y1), (0, y0, x1, y1))


def _x(longitude: float) -> int:
    return math.floor((longitude + 180) / 360 * WORLD)


def _y(latitude: float) -> int:
    radians = math.radians(max(-LATITUDE_LIMIT, min(latitude, LATITUDE_LIMIT)))
    y = math.floor((1 - math.asinh(math.tan(radians)) / math.pi) / 2 * WORLD)
    return max(0, min(y, WORLD - 1))


def _check_longitude(degrees: float) -> None:
    if not -_LONGITUDE_LIMIT <= degrees <= _LONGITUDE_LIMIT:
        raise ValueError(f"a longitude is between -180 and 180 degrees, not {degrees}")


def _check_latitude(degrees: float) -> None:
    if not -90 <= degrees <= 90:
        raise ValueError(f"a latitude is between -90 and 90 degrees, not {degrees}: a place is (longitude, latitude)")
