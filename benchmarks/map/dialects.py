"""
What a viewer says to each kind of server when it moves, and what it may be sent for it.

Owns these words and areas. Does not own the servers (servers) nor how a viewer moves (world).
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.map.world import WORLD, Box, Move, degrees

__all__ = ["DIALECTS", "TILE_LEVELS", "Dialect", "bbox_of", "tiles_of"]

# The levels of the peers' tiles, and by how much they are finer than the zoom of the map.
_FINER = 1
TILE_LEVELS = (9, 11, 13, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    Attributes:
        frame: What is sent for a move; "#" is its number.
        allowed: What a viewer may be sent for it.
        drops_outside: Whether the viewer itself forgets what is not in it, as no server tells it.
    """

    frame: Callable[[Move], str]
    allowed: Callable[[Move], Box]
    drops_outside: bool


def tiles_of(move: Move) -> tuple[int, Box]:
    """The tiles that a view touches, and one ring of tiles: their level, and columns and rows."""
    level = max(each for each in TILE_LEVELS if each <= move.zoom + _FINER)
    bits = WORLD.bit_length() - 1 - level
    x0, y0, x1, y1 = move.box
    return level, ((x0 >> bits) - 1, (y0 >> bits) - 1, (x1 >> bits) + 1, (y1 >> bits) + 1)


def _tiles_area(move: Move) -> Box:
    level, (x0, y0, x1, y1) = tiles_of(move)
    bits = WORLD.bit_length() - 1 - level
    return x0 << bits, y0 << bits, ((x1 + 1) << bits) - 1, ((y1 + 1) << bits) - 1


def _tiles_words(move: Move) -> str:
    level, box = tiles_of(move)
    return f"{level} {box[0]} {box[1]} {box[2]} {box[3]} #"


def _socketio_frame(move: Move) -> str:
    return f'42["view",[{_tiles_words(move).replace(" ", ",")}]]'


def bbox_of(move: Move) -> tuple[float, ...]:
    """West, south, east and north of a view, in degrees."""
    x0, y0, x1, y1 = move.box
    (west, north), (east, south) = degrees(x0, y0), degrees(x1, y1)
    return tuple(round(each, 8) for each in (west, south, east, north))


def _signalbox_frame(move: Move) -> str:
    west, south, east, north = bbox_of(move)
    kind = '"filter"' if move.at_ms else '"subscribe","topic":"map.*"'
    box = f'"bbox":[{west},{south},{east},{north}],"zoom":{move.zoom}'
    return f'{{"type":{kind},"view":"map","number":#,"filter":{{{box}}}}}'


def _signalbox_area(move: Move) -> Box:
    from realtime.live.places import area_of

    (area,) = area_of(bbox_of(move)).rectangles
    return area


def _exact_frame(move: Move) -> str:
    return " ".join(map(str, (*move.box, "#")))


DIALECTS = {
    "signalbox": Dialect(frame=_signalbox_frame, allowed=_signalbox_area, drops_outside=False),
    "tiles": Dialect(frame=_tiles_words, allowed=_tiles_area, drops_outside=True),
    "socketio": Dialect(frame=_socketio_frame, allowed=_tiles_area, drops_outside=True),
    "exact": Dialect(frame=_exact_frame, allowed=lambda move: move.box, drops_outside=True),
}
