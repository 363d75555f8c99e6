"""
The newest publication of each key in this process, and finding those of an area.

Owns the items of a scene and their index by tile. Does not own when they change (scene) nor who is sent them (view).
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from realtime.broker.relevance import Relevance
from realtime.live.places import Area, Box, rectangles, tile_bits

__all__ = [
    "COLUMN",
    "NO_TILES",
    "ROW",
    "Item",
    "State",
    "TileIndex",
    "Tiling",
    "is_in",
    "is_wide",
    "state_of",
    "tiles_of",
]

# The key of a tile is its row, shifted by ROW, and its column.
ROW: Final = 32
COLUMN: Final = (1 << ROW) - 1
# An item that touches more tiles than this is compared with every view.
WIDE_TILES: Final = 32


class State(msgspec.Struct, frozen=True, eq=False, gc=False):
    """
    One publication of a key. Made by `state_of`.

    Attributes:
        topic: The name of its topic.
        offset: Its offset in the topic.
        frame: The JSON object that a client gets.
        relevance: The key, place, tags and level.
        is_point: Whether its place is a single point.
        is_box: Whether its place is a single rectangle, or a point.
        x0, y0, x1, y1: Its place, if `is_box`.
    """

    topic: str
    offset: int
    frame: bytes
    relevance: Relevance
    is_point: bool
    is_box: bool
    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Its place as rectangles: one, two if it crosses longitude 180, none if it has no place."""
        return () if self.relevance.place is None else rectangles(self.relevance.place)


def state_of(topic: str, offset: int, frame: bytes, relevance: Relevance) -> State:
    """
    The state that a publication brings.

    Raises:
        ValueError: Its place has neither two numbers nor four.
    """
    place = relevance.place
    if place is None:
        return State(topic, offset, frame, relevance, False, False, 0, 0, 0, 0)
    if len(place) == 2:
        x, y = place
        return State(topic, offset, frame, relevance, True, True, x, y, x, y)
    x0, y0, x1, y1 = place
    return State(topic, offset, frame, relevance, False, x0 <= x1, x0, y0, x1, y1)


class Item:
    """
    A key of a topic.

    Args:
        topic, key: Which one.

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
    if state.is_box:
        for x0, y0, x1, y1 in area.rectangles:
            if state.x0 <= x1 and state.x1 >= x0 and state.y0 <= y1 and state.y1 >= y0:
                return True
        return False
    boxes = state.boxes
    return not boxes or any(
        box[0] <= x1 and box[2] >= x0 and box[1] <= y1 and box[3] >= y0
        for box in boxes
        for x0, y0, x1, y1 in area.rectangles
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


class Tiling(NamedTuple):
    """
    The tiles of its level that an area touches; a few dozen, because its level fits its size.

    Attributes:
        whole: The keys of those that lie in the area as a whole.
        edge: The keys of the others.
        all: Both.
    """

    whole: frozenset[int]
    edge: frozenset[int]
    all: frozenset[int]

    @classmethod
    def of(cls, area: Area) -> "Tiling":
        """The tiles of an area."""
        bits = tile_bits(area.level)
        last = (1 << bits) - 1
        whole, touched = set(), set()
        for x0, y0, x1, y1 in area.rectangles:
            touched |= _keys(x0 >> bits, y0 >> bits, x1 >> bits, y1 >> bits)
            whole |= _keys(x0 + last >> bits, y0 + last >> bits, (x1 + 1 >> bits) - 1, (y1 + 1 >> bits) - 1)
        return cls(frozenset(whole), frozenset(touched - whole), frozenset(touched))


NO_TILES: Final = Tiling(frozenset(), frozenset(), frozenset())


def _keys(first_x: int, first_y: int, last_x: int, last_y: int) -> set[int]:
    return {y << ROW | x for y in range(first_y, last_y + 1) for x in range(first_x, last_x + 1)}


class TileIndex:
    """
    The items of a scene by the tiles of one level.

    Args:
        level: The zoom of the tiles.

    Attributes:
        bits: By how many bits a coordinate is shifted to get its tile.
    """

    def __init__(self, level: int) -> None:
        self.level, self.bits = level, tile_bits(level)
        # Items by tile; a tile is present only while it has an item. Shapes are in each tile that they touch.
        self._points: dict[int, set[Item]] = {}
        self._shapes: dict[int, set[Item]] = {}
        # Items that touch more tiles than are worth listing, and items without a place.
        self._wide: set[Item] = set()

    def replace(self, item: Item, old: State | None, new: State | None) -> None:
        """Move an item from its old state to its new one. `old` is None for a new item, `new` for a removed one."""
        if old is not None:
            self._remove(item, old)
        if new is not None:
            self._add(item, new)

    def items_in(self, area: Area, *, without: Area | None = None) -> list[Item]:
        """
        The items whose place is in the area, each once.

        Args:
            without: Leave out what is in this area.
        """
        boxes = area.rectangles if without is None else _difference(area.rectangles, without.rectangles)
        found: list[Item] = []
        for items, (x0, y0, x1, y1), is_whole in self._tiles_in(self._points, boxes):
            if is_whole:
                found += items
                continue
            for item in items:
                state: State = item.state  # type: ignore[assignment]
                x, y = state.x0, state.y0
                # One comparison after another, because Python is slower with x0 <= x <= x1.
                if x <= x1 and x >= x0 and y <= y1 and y >= y0:
                    found.append(item)
        if self._shapes or self._wide:
            shapes = {item: None for items, _, _ in self._tiles_in(self._shapes, boxes) for item in items}
            for item in (*self._wide, *shapes):
                state = item.state  # type: ignore[assignment]
                if is_in(state, area) and (without is None or not is_in(state, without)):
                    found.append(item)
        return found

    def _tiles_in(self, tiles: dict[int, set[Item]], boxes: Iterable[Box]) -> Iterator[tuple[set[Item], Box, bool]]:
        """The items of each tile that the boxes touch, the box, and whether it has the whole tile."""
        bits = self.bits
        if not tiles:
            return
        for box in boxes:
            x0, y0, x1, y1 = box
            columns, rows = range(x0 >> bits, (x1 >> bits) + 1), range(y0 >> bits, (y1 >> bits) + 1)
            # The columns and rows that the box has whole.
            inner_columns = range(x0 + (1 << bits) - 1 >> bits, x1 + 1 >> bits)
            inner_rows = range(y0 + (1 << bits) - 1 >> bits, y1 + 1 >> bits)
            if len(columns) * len(rows) > len(tiles):
                for key, items in tiles.items():
                    x, y = key & COLUMN, key >> ROW
                    if x in columns and y in rows:
                        yield items, box, x in inner_columns and y in inner_rows
                continue
            for y in rows:
                row, is_inner = y << ROW, y in inner_rows
                for x in columns:
                    items = tiles.get(row | x)  # type: ignore[assignment]
                    if items is not None:
                        yield items, box, is_inner and x in inner_columns

    def _add(self, item: Item, state: State) -> None:
        if is_wide(state, self.bits):
            self._wide.add(item)
            return
        tiles = self._points if state.is_point else self._shapes
        for key in tiles_of(state, self.bits):
            items = tiles.get(key)
            if items is None:
                items = tiles[key] = set()
            items.add(item)

    def _remove(self, item: Item, state: State) -> None:
        if is_wide(state, self.bits):
            self._wide.discard(item)
            return
        tiles = self._points if state.is_point else self._shapes
        for key in tiles_of(state, self.bits):
            items = tiles[key]
            items.discard(item)
            if not items:
                del tiles[key]


def _difference(boxes: Iterable[Box], others: Iterable[Box]) -> list[Box]:
    """What of the boxes is in none of the others, as boxes that do not overlap, if the given ones do not."""
    rest = list(boxes)
    for a0, b0, a1, b1 in others:
        before, rest = rest, []
        for x0, y0, x1, y1 in before:
            # What both have.
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
