"""
The changes of one tick, grouped by tile, and the part of them that each view is sent.

Owns finding the changes of an area, and joining frames once for all views that are sent the same ones. Does not
own the items (items) nor writing (view).

Most of a view is whole tiles. All views with the same conditions are sent the same bytes of a whole tile, so these are
joined once. Only in the tiles at the edge of a view is each change compared with it.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from realtime.live.filters import Selector
from realtime.live.items import COLUMN, ROW, State, is_in, is_wide, tiles_of
from realtime.live.places import Area, cell_bits, tile_bits

__all__ = ["ANY_BITS", "Change", "LevelChanges", "Lines", "by_level"]

# Greater than the number of bits of a coordinate.
ANY_BITS: Final = 99


class Change(msgspec.Struct, frozen=True, eq=False, gc=False):
    """
    How one key changed in a tick.

    Attributes:
        old: Its state in the tick before; None if it had none.
        new: Its state now; None if it was removed.
        moved_bits: The number of low bits of its coordinates that have changed. The key is still in the same square of
            every grid whose squares have at least this many bits. ANY_BITS if the key is new or removed, its
            tags or level have changed, or its place is not one rectangle.
    """

    old: State | None
    new: State | None
    moved_bits: int

    @classmethod
    def of(cls, old: State | None, new: State | None) -> "Change":
        """The change from one state to another."""
        if old is None or new is None or not (old.is_box and new.is_box):
            return cls(old, new, ANY_BITS)
        before, after = old.relevance, new.relevance
        if before.level != after.level or before.tags != after.tags:
            return cls(old, new, ANY_BITS)
        moved = (old.x0 ^ new.x0) | (old.y0 ^ new.y0) | (old.x1 ^ new.x1) | (old.y1 ^ new.y1)
        return cls(old, new, moved.bit_length())


class Lines(NamedTuple):
    """
    The objects that a view is sent for one tick.

    Attributes:
        frames: Objects as JSON, or several joined by line breaks.
        line_count: The number of objects in `frames`, plus the number of keys in `left`.
        left: Topic → the keys that left.
    """

    frames: list[bytes]
    line_count: int
    left: dict[str, list[str]]


class _Part(NamedTuple):
    """The changes of one tile that a selector lets through."""

    states: list[State]
    joined: bytes
    # Changes within one cell that ended outside the selector's boxes.
    stepped_out: list[Change]


class _Tile:
    """The changes of one tile."""

    __slots__ = ("departed", "parts", "several", "single", "stayed")

    def __init__(self) -> None:
        # New states that touch this tile alone, and those that touch others too.
        self.single: list[State] = []
        self.several: list[State] = []
        # Changes whose old state was here, and which may have taken it out of a view.
        self.departed: list[Change] = []
        # Changes within one cell. These can leave a view only across an edge of the selector's boxes, which are exact.
        self.stayed: list[Change] = []
        # Selector → the states of `single` that it lets through.
        self.parts: dict[Selector, _Part] = {}

    def part(self, selector: Selector) -> _Part:
        part = self.parts.get(selector)
        if part is None:
            states, matches = self.single, selector.matches
            stepped_out: list[Change] = []
            if selector is not Selector.everything:
                states = [state for state in states if matches(state.topic, state.relevance)]
            if selector.limits is not None:
                stepped_out = [each for each in self.stayed if not matches(each.new.topic, each.new.relevance)]  # type: ignore[union-attr]
            part = self.parts[selector] = _Part(states, b"\n".join([state.frame for state in states]), stepped_out)
        return part


class LevelChanges:
    """
    The changes of one tick for the views of one level. Made by `by_level`.

    Args:
        level: The zoom of the tiles.

    Attributes:
        tiles: Changed tiles, by key.
        wide: Changes of states that have no place or touch too many tiles to list; they are compared with every view.
    """

    def __init__(self, level: int) -> None:
        self.tiles: dict[int, _Tile] = {}
        self.wide: list[Change] = []
        self.bits, self.cell_bits = tile_bits(level), cell_bits(level)

    def lines(self, area: Area, selector: Selector, keys: Iterable[int]) -> Lines:
        """
        The objects that one view is sent.

        Args:
            area, selector: The lens of the view.
            keys: The changed tiles that the area touches, each once.
        """
        frames: list[bytes] = []
        count = 0
        bits, tiles = self.bits, self.tiles
        departed: list[Change] = []
        several: list[State] = []
        last = (1 << bits) - 1
        for key in keys:
            tile = tiles[key]
            if tile.departed:
                departed += tile.departed
            if tile.several:
                several += tile.several
            if not tile.single:
                continue
            states, joined, stepped_out = tile.parts.get(selector) or tile.part(selector)
            if stepped_out:
                departed += stepped_out
            left, top = (key & COLUMN) << bits, key >> ROW << bits
            right, bottom = left + last, top + last
            for x0, y0, x1, y1 in area.rectangles:
                if x0 <= left and right <= x1 and y0 <= top and bottom <= y1:
                    if states:
                        frames.append(joined)
                        count += len(states)
                    break
                if x0 <= right and left <= x1 and y0 <= bottom and top <= y1:
                    inside = [
                        state.frame
                        for state in states
                        if state.x0 <= x1 and state.x1 >= x0 and state.y0 <= y1 and state.y1 >= y0
                    ]
                    frames += inside
                    count += len(inside)
        if several:
            matches = selector.matches
            # Found once in each tile that it touches.
            for state in dict.fromkeys(several):
                if is_in(state, area) and matches(state.topic, state.relevance):
                    frames.append(state.frame)
                    count += 1
        for change in self.wide:
            if change.new is not None and _is_seen(change.new, area, selector):
                frames.append(change.new.frame)
                count += 1
        left_keys: dict[str, list[str]] = {}
        if departed or self.wide:
            for change in dict.fromkeys((*departed, *self.wide)):
                old, new = change.old, change.new
                if old is not None and _is_seen(old, area, selector) and not (new and _is_seen(new, area, selector)):
                    left_keys.setdefault(old.topic, []).append(old.relevance.key)
                    count += 1
        return Lines(frames, count, left_keys)

    def add(self, change: Change) -> None:
        """Add a change of something that is not a single point before and after."""
        old, new = change.old, change.new
        bits = self.bits
        if (old is not None and is_wide(old, bits)) or (new is not None and is_wide(new, bits)):
            self.wide.append(change)
            return
        if new is not None:
            keys = tiles_of(new, bits)
            for key in keys:
                tile = self._tile(key)
                (tile.single if len(keys) == 1 else tile.several).append(new)
        if old is not None:
            for key in tiles_of(old, bits):
                self._tile(key).departed.append(change)

    def _tile(self, key: int) -> _Tile:
        tile = self.tiles.get(key)
        if tile is None:
            tile = self.tiles[key] = _Tile()
        return tile


def by_level(levels: Iterable[int], changes: Iterable[Change], *, has_limits: bool) -> dict[int, LevelChanges]:
    """
    The changes of one tick for each level.

    Args:
        levels: Those that views have.
        changes: All changes of the tick; each key once.
        has_limits: Whether a view has a selector with boxes. Only these can be left within a cell.
    """
    found = {level: LevelChanges(level) for level in levels}
    # One loop for all levels, because reading a change costs as much as finding its tile.
    grids = [(each.bits, each.cell_bits, each.tiles) for each in found.values()]
    for change in changes:
        old, new, moved_bits = change.old, change.new, change.moved_bits
        if new is None or not new.is_point or (old is not None and not old.is_point):
            for each in found.values():
                each.add(change)
            continue
        x, y = new.x0, new.y0
        for bits, smallest_bits, tiles in grids:
            key = y >> bits << ROW | x >> bits
            tile = tiles.get(key)
            if tile is None:
                tile = tiles[key] = _Tile()
            tile.single.append(new)
            # The edges of views lie between cells, so a key that is still in its cell has left no view.
            if old is None:
                continue
            if moved_bits <= smallest_bits:
                if has_limits:
                    tile.stayed.append(change)
                continue
            key = old.y0 >> bits << ROW | old.x0 >> bits
            tile = tiles.get(key)
            if tile is None:
                tile = tiles[key] = _Tile()
            tile.departed.append(change)
    return found


def _is_seen(state: State, area: Area, selector: Selector) -> bool:
    return is_in(state, area) and selector.matches(state.topic, state.relevance)
