"""
Items, which hold the newest publication of each key in this process, and the index that finds the items of an area.

Owns both. Does not own when they change (mirror) nor which views are sent them (parts, batches).
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import compress
from typing import Final

import msgspec

from realtime.broker.relevance import Tags, decode_relevance, tags_of
from realtime.live.places import CELLS_PER_TILE, Area, Box, cell_bits, rectangles, tile_bits

__all__ = [
    "COLUMN",
    "ROW",
    "Item",
    "State",
    "TileIndex",
    "is_in",
    "is_wide",
    "state_of",
    "tiles_of",
    "touches",
]

# The key of a tile is its row, shifted by ROW, and its column.
ROW: Final = 32
COLUMN: Final = (1 << ROW) - 1
# Of the column of a cell in its tile, and of its row: the number of bits, and the greatest value.
_SIDE_BITS: Final = CELLS_PER_TILE.bit_length() - 1
_LAST: Final = CELLS_PER_TILE - 1
# An item that touches more tiles than this is compared with every view.
WIDE_TILES: Final = 32


class State(msgspec.Struct, frozen=True, eq=False, gc=False):
    """
    The state that a publication gives to a key. Made by `state_of`.

    Attributes:
        topic, key: The topic, and the name of the key.
        offset: Its offset in the topic.
        frame: The JSON object that a client gets.
        tags: What filters compare.
        level: The lowest zoom at which it is shown.
        is_removed: Whether the key is gone.
        is_point: Whether its place is a single point.
        is_box: Whether its place is a single rectangle, or a point.
        x0, y0, x1, y1: Its place. With x0 > x1 it crosses longitude 180. All are 0 if it has none.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    is_point: bool
    is_box: bool
    level: int
    tags: Tags
    key: str
    frame: bytes
    topic: str
    offset: int
    is_removed: bool

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Its place as rectangles: one, two if it crosses longitude 180, none if it has no place."""
        if self.is_box or self.x0 > self.x1:
            return rectangles((self.x0, self.y0, self.x1, self.y1))
        return ()


def state_of(topic: str, offset: int, frame: bytes, relevance: bytes) -> State:
    """
    The state that a publication brings.

    Args:
        relevance: As `encode_relevance` makes it.

    Raises:
        ValueError: The relevance cannot be read, or the frame is not one line of text.
    """
    if not frame or b"\n" in frame or not (frame.isascii() or frame.decode()):
        raise ValueError("a frame is one line of text")
    try:
        decoded = decode_relevance(relevance)
        tags = tags_of(decoded)
    except RecursionError as error:
        raise ValueError("the relevance is nested too deeply") from error
    place, level, key = decoded.place, decoded.level, decoded.key
    if place is None:
        return State(0, 0, 0, 0, False, False, level, tags, key, frame, topic, offset, decoded.is_removed)
    x0, y0, x1, y1 = place.x0, place.y0, place.x1, place.y1
    if x1 is None or y1 is None:
        if x1 is not y1:
            raise ValueError("a place has two numbers or four")
        return State(x0, y0, x0, y0, True, True, level, tags, key, frame, topic, offset, decoded.is_removed)
    if y1 < y0:
        raise ValueError("a place begins in the north")
    return State(x0, y0, x1, y1, False, x0 <= x1, level, tags, key, frame, topic, offset, decoded.is_removed)


class Item:
    """
    A key of a topic.

    Args:
        topic, key: The topic, and the name of the key.

    Attributes:
        state: Its newest publication; None once it is removed.
        tick: The number of the tick in which `state` was applied.
    """

    __slots__ = ("key", "state", "tick", "topic")

    def __init__(self, topic: str, key: str) -> None:
        self.topic, self.key = topic, key
        self.state: State | None = None
        self.tick = 0


def is_in(state: State, area: Area) -> bool:
    """Whether its place is in the area. A state without a place is in every area."""
    return touches(state, area.rectangles)


def touches(state: State, boxes: Iterable[Box]) -> bool:
    """
    Whether its place touches one of the boxes, none of which crosses longitude 180.

    A state without a place touches every box.
    """
    if state.is_box:
        x0, y0, x1, y1 = state.x0, state.y0, state.x1, state.y1
        for west, north, east, south in boxes:  # noqa: SIM110 - any() is slower
            if x0 <= east and x1 >= west and y0 <= south and y1 >= north:
                return True
        return False
    own = state.boxes
    return not own or any(
        box[0] <= x1 and box[2] >= x0 and box[1] <= y1 and box[3] >= y0 for x0, y0, x1, y1 in boxes for box in own
    )


def tiles_of(state: State, bits: int) -> tuple[int, ...]:
    """The keys of the tiles that its place touches, each once; none if it has no place."""
    if state.is_box:
        x0, y0 = state.x0 >> bits, state.y0 >> bits
        if x0 == state.x1 >> bits and y0 == state.y1 >> bits:
            return (y0 << ROW | x0,)
    return tuple(
        {
            y << ROW | x: None
            for x0, y0, x1, y1 in state.boxes
            for y in range(y0 >> bits, (y1 >> bits) + 1)
            for x in range(x0 >> bits, (x1 >> bits) + 1)
        }
    )


def is_wide(state: State, bits: int) -> bool:
    """Whether it has no place, or touches more than WIDE_TILES tiles."""
    count = 0
    for x0, y0, x1, y1 in state.boxes:
        count += ((x1 >> bits) - (x0 >> bits) + 1) * ((y1 >> bits) - (y0 >> bits) + 1)
    return not 0 < count <= WIDE_TILES


class TileIndex:
    """
    The items of a family by the tiles of one level.

    A tile has 16 x 16 cells, numbered from 0 to 255. An area consists of whole cells. So one `bytes.translate` of the
    cell numbers of a tile's points tells which of these points are in an area. Their coordinates, which are scattered
    in memory, are not read.

    Args:
        level: The zoom of the tiles.

    Attributes:
        bits, cell_bits: By how many bits a coordinate is shifted to get its tile, and its cell.
    """

    def __init__(self, level: int) -> None:
        self.level, self.bits, self.cell_bits = level, tile_bits(level), cell_bits(level)
        # Items by tile; a tile is present only while it has an item. Each point comes with the number of its cell. A
        # shape is in each tile that it touches.
        self._points: dict[int, dict[Item, int]] = {}
        self._shapes: dict[int, set[Item]] = {}
        # Items that touch too many tiles to list, and items without a place.
        self._wide: set[Item] = set()

    def replace(self, item: Item, old: State | None, new: State | None) -> None:
        """Move an item from its old state to its new one. `old` is None for a new item, `new` for a removed one."""
        if old is not None and new is not None and old.is_point and new.is_point:
            x, y, bits = new.x0, new.y0, self.bits
            if not (old.x0 ^ x | old.y0 ^ y) >> bits:
                # Most points are still in the same tile.
                bits = self.cell_bits
                x, y = x >> bits, y >> bits
                self._points[y >> _SIDE_BITS << ROW | x >> _SIDE_BITS][item] = (y & _LAST) << _SIDE_BITS | x & _LAST
                return
        if old is not None:
            self._remove(item, old)
        if new is not None:
            self._add(item, new)

    def items_in(self, area: Area, *, without: Area | None = None) -> list[Item]:
        """
        The items whose place is in the area, each once.

        Args:
            area: Of this level.
            without: Leave out what is in this area, which may be of another level.
        """
        boxes = area.rectangles if without is None else _difference(area.rectangles, without.rectangles)
        # The edges of an area of a finer level may lie within cells of this one.
        is_exact = without is None or without.level <= area.level
        found: list[Item] = []
        for box in boxes:
            found += self._points_at(box) if is_exact else self._points_in(box)
        if self._shapes or self._wide:
            shapes = {item: None for key in self._shape_tiles(boxes) for item in self._shapes[key]}
            for item in (*self._wide, *shapes):
                state: State = item.state  # type: ignore[assignment]
                if is_in(state, area) and (without is None or not is_in(state, without)):
                    found.append(item)
        return found

    def _points_in(self, box: Box) -> list[Item]:
        """The points in a box whose edges may lie within cells."""
        x0, y0, x1, y1 = box
        found: list[Item] = []
        for item in self._points_at(box):
            state: State = item.state  # type: ignore[assignment]
            # One comparison after another, because Python is slower with x0 <= x <= x1.
            if state.x0 <= x1 and state.x0 >= x0 and state.y0 <= y1 and state.y0 >= y0:
                found.append(item)
        return found

    def _points_at(self, box: Box) -> list[Item]:
        """The points in the cells that a box touches."""
        x0, y0, x1, y1 = box
        bits, tiles = self.cell_bits, self._points
        west, north, east, south = x0 >> bits, y0 >> bits, x1 >> bits, y1 >> bits
        found: list[Item] = []
        for y in range(north >> _SIDE_BITS, (south >> _SIDE_BITS) + 1):
            first_row = y << _SIDE_BITS
            top, bottom = max(north - first_row, 0), min(south - first_row, _LAST)
            for x in range(west >> _SIDE_BITS, (east >> _SIDE_BITS) + 1):
                items = tiles.get(y << ROW | x)
                if items is None:
                    continue
                first = x << _SIDE_BITS
                mask = _mask(max(west - first, 0), top, min(east - first, _LAST), bottom)
                if mask is _WHOLE:
                    found += items
                else:
                    found += compress(items, bytes(items.values()).translate(mask))
        return found

    def _shape_tiles(self, boxes: Iterable[Box]) -> Iterable[int]:
        """The tiles with shapes that the boxes touch."""
        bits = self.bits
        for x0, y0, x1, y1 in boxes:
            for y in range(y0 >> bits, (y1 >> bits) + 1):
                for x in range(x0 >> bits, (x1 >> bits) + 1):
                    if y << ROW | x in self._shapes:
                        yield y << ROW | x

    def _add(self, item: Item, state: State) -> None:
        if state.is_point:
            key, cell = self._tile_and_cell(state)
            items = self._points.get(key)
            if items is None:
                items = self._points[key] = {}
            items[item] = cell
        elif is_wide(state, self.bits):
            self._wide.add(item)
        else:
            for key in tiles_of(state, self.bits):
                self._shapes.setdefault(key, set()).add(item)

    def _remove(self, item: Item, state: State) -> None:
        if state.is_point:
            key, _ = self._tile_and_cell(state)
            items = self._points[key]
            del items[item]
            if not items:
                del self._points[key]
        elif is_wide(state, self.bits):
            self._wide.discard(item)
        else:
            for key in tiles_of(state, self.bits):
                shapes = self._shapes[key]
                shapes.discard(item)
                if not shapes:
                    del self._shapes[key]

    def _tile_and_cell(self, state: State) -> tuple[int, int]:
        """The tile of a point, and the number of its cell there."""
        x, y = state.x0 >> self.cell_bits, state.y0 >> self.cell_bits
        return y >> _SIDE_BITS << ROW | x >> _SIDE_BITS, (y & _LAST) << _SIDE_BITS | x & _LAST


@lru_cache(maxsize=4_096)
def _mask(left: int, top: int, right: int, bottom: int) -> bytes:
    """For each cell of a tile: 1 from column `left` to `right` in the rows from `top` to `bottom`, 0 elsewhere."""
    row = bytes(left) + b"\1" * (right - left + 1) + bytes(_LAST - right)
    return (bytes(top * CELLS_PER_TILE) + row * (bottom - top + 1)).ljust(CELLS_PER_TILE**2, b"\0")


# The mask of a whole tile.
_WHOLE: Final = _mask(0, 0, _LAST, _LAST)


def _difference(boxes: Iterable[Box], others: Iterable[Box]) -> list[Box]:
    """The boxes without the areas of the others, as boxes. They do not overlap if the given boxes do not."""
    rest = list(boxes)
    for a0, b0, a1, b1 in others:
        before, rest = rest, []
        for x0, y0, x1, y1 in before:
            # The overlap.
            left, top, right, bottom = max(x0, a0), max(y0, b0), min(x1, a1), min(y1, b1)
            if left > right or top > bottom:
                rest.append((x0, y0, x1, y1))
                continue
            if y0 < top:
                rest.append((x0, y0, x1, top - 1))
            if bottom < y1:
                rest.append((x0, bottom + 1, x1, y1))
            if x0 < left:
                rest.append((x0, top, left - 1, bottom))
            if right < x1:
                rest.append((right + 1, top, x1, bottom))
    return rest
