"""
The newest publication of each key in this process, and finding those of an area.

Owns the items of a scene and their index by tile. Does not own when they change (scene) nor who is sent them (view).
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from realtime.broker.relevance import Relevance
from realtime.live.places import Area, Box, rectangles, tile_bits

__all__ = ["COLUMN", "ROW", "Item", "State", "TileIndex", "is_in", "is_wide", "state_of", "tiles_in", "tiles_of"]

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


def tiles_in(area: Area) -> frozenset[int]:
    """The keys of the tiles of its level that an area touches; a few dozen, because its level fits its size."""
    bits = tile_bits(area.level)
    return frozenset(
        y << ROW | x
        for x0, y0, x1, y1 in area.rectangles
        for y in range(y0 >> bits, (y1 >> bits) + 1)
        for x in range(x0 >> bits, (x1 >> bits) + 1)
    )


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
        # Items by tile; an item that touches several tiles is in each. A tile is present only while it has an item.
        self._tiles: dict[int, set[Item]] = {}
        # Items that touch more tiles than are worth listing, and items without a place.
        self._wide: set[Item] = set()

    def replace(self, item: Item, old: State | None, new: State | None) -> None:
        """Move an item from its old state to its new one. `old` is None for a new item, `new` for a removed one."""
        if old is not None:
            self._remove(item, old)
        if new is not None:
            self._add(item, new)

    def items_in(self, area: Area, *, without: Area | None = None) -> Iterator[Item]:
        """
        The items whose place is in the area, each once.

        Args:
            without: Leave out what lies in this area. As far as it saves time: the caller checks each item again.
        """
        # Each once: only an item that touches several tiles can be found several times.
        found: set[Item] = set()
        for item in self._wide:
            if is_in(item.state, area):  # type: ignore[arg-type]
                yield item
        for items, rectangle in self._tiles_in(area, without):
            for item in items:
                state: State = item.state  # type: ignore[assignment]
                if state.is_point:
                    if rectangle is None:
                        yield item
                    else:
                        x0, y0, x1, y1 = rectangle
                        if x0 <= state.x0 <= x1 and y0 <= state.y0 <= y1:
                            yield item
                elif item not in found and is_in(state, area):
                    found.add(item)
                    yield item

    def points_that_enter(self, area: Area, old: Area) -> list[Item] | None:
        """
        The items of `area` that are not in `old`: the quick way for two areas of one rectangle each.

        Returns:
            None if it is not possible: an area has two rectangles, or an item of the tiles concerned is not a point.
        """
        if len(area.rectangles) != 1 or len(old.rectangles) != 1 or self._wide:
            return None
        found: list[Item] = []
        (x0, y0, x1, y1), (a0, b0, a1, b1) = area.rectangles[0], old.rectangles[0]
        for items, _ in self._tiles_in(area, old):
            for item in items:
                state: State = item.state  # type: ignore[assignment]
                x, y = state.x0, state.y0
                if x0 <= x <= x1 and y0 <= y <= y1 and not (a0 <= x <= a1 and b0 <= y <= b1):
                    if not state.is_point:
                        return None
                    found.append(item)
                elif not state.is_point:
                    return None
        return found

    def _tiles_in(self, area: Area, without: Area | None) -> Iterator[tuple[set[Item], Box | None]]:
        """The items of each tile that the area touches, and a rectangle of the area; None if it has the whole tile."""
        bits, tiles = self.bits, self._tiles
        skipped = () if without is None else without.rectangles
        for x0, y0, x1, y1 in area.rectangles:
            columns = range(x0 >> bits, (x1 >> bits) + 1)
            rows = range(y0 >> bits, (y1 >> bits) + 1)
            keys: Iterator[tuple[int, int]]
            if len(columns) * len(rows) > len(tiles):
                keys = ((key & COLUMN, key >> ROW) for key in list(tiles))
            else:
                keys = ((x, y) for y in rows for x in columns)
            for x, y in keys:
                if x not in columns or y not in rows or (items := tiles.get(y << ROW | x)) is None:
                    continue
                left, top = x << bits, y << bits
                right, bottom = left + (1 << bits) - 1, top + (1 << bits) - 1
                if any(a <= left and b <= top and c >= right and d >= bottom for a, b, c, d in skipped):
                    # An item that touches other tiles as well is found there.
                    continue
                is_inside = x0 <= left and y0 <= top and x1 >= right and y1 >= bottom
                yield items, None if is_inside else (x0, y0, x1, y1)

    def _add(self, item: Item, state: State) -> None:
        if is_wide(state, self.bits):
            self._wide.add(item)
            return
        for key in tiles_of(state, self.bits):
            tile = self._tiles.get(key)
            if tile is None:
                tile = self._tiles[key] = set()
            tile.add(item)

    def _remove(self, item: Item, state: State) -> None:
        if is_wide(state, self.bits):
            self._wide.discard(item)
            return
        for key in tiles_of(state, self.bits):
            tile = self._tiles[key]
            tile.discard(item)
            if not tile:
                del self._tiles[key]
