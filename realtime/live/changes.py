"""
The changes of one tick, grouped by tile, and the part of them that each view is sent.

Owns finding the changes of an area, and joining frames once for all views that are sent the same ones. Does not
own the items (items) nor writing (view).

Most of a view is whole tiles. All views with the same conditions are sent the same bytes of a whole tile, so these are
joined once. Only in the tiles at the edge of a view is each change compared with it.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from realtime.live.filters import Selector
from realtime.live.items import COLUMN, ROW, State, Tiling, is_in, is_wide, tiles_of
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
            every grid whose squares have at least this many bits. ANY_BITS if the key is new or removed, its tags or
            level have changed, it was a point before or now but not both, or its place is not one rectangle.
    """

    old: State | None
    new: State | None
    moved_bits: int

    @classmethod
    def of(cls, old: State | None, new: State | None) -> "Change":
        """The change from one state to another."""
        if old is None or new is None or old.is_point != new.is_point or not (old.is_box and new.is_box):
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


class _ByTile[T](dict[int, T]):
    """
    A value for each tile, made when it is first needed.

    Args:
        make: Makes the value of a tile.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __missing__(self, key: int) -> T:
        value = self[key] = self._make(key)
        return value


class _Selected:
    """
    What a selector lets through, tile by tile.

    Args:
        changes: The changes of the level.
        selector: The conditions.

    Attributes:
        states: The new states, of those whose place is a point.
        joined: Their frames, joined.
        stepped_out: Changes within one cell that ended outside the selector's boxes.
    """

    __slots__ = ("joined", "states", "stepped_out")

    def __init__(self, changes: "LevelChanges", selector: Selector) -> None:
        points, stayed, matches = changes.points, changes.stayed, selector.matches

        def selected(key: int) -> list[State]:
            return [state for state in points[key] if matches(state.topic, state.relevance)]

        def stepped_out(key: int) -> list[Change]:
            return [each for each in stayed[key] if not matches(each.new.topic, each.new.relevance)]  # type: ignore[union-attr]

        states = points if selector is Selector.everything else _ByTile(selected)
        self.states: dict[int, list[State]] = states
        self.joined = _ByTile(lambda key: b"\n".join([state.frame for state in states[key]]))
        self.stepped_out = _ByTile(stepped_out)


class LevelChanges:
    """
    The changes of one tick for the views of one level. Made by `by_level`.

    Args:
        level: The zoom of the tiles.

    Attributes:
        points: Tile → the new states there, of those whose place is a point.
        shapes: Tile → the new states that touch it, of the others.
        departed: Tile → the changes whose old state was there, and which may have taken it out of a view.
        stayed: Tile → the changes within one cell, if asked for. These can leave a view only across an edge of the
            selector's boxes, which are exact.
        wide: Changes of states that have no place or touch too many tiles to list; they are compared with every view.
    """

    def __init__(self, level: int) -> None:
        self.level, self.bits, self.cell_bits = level, tile_bits(level), cell_bits(level)
        self.points: dict[int, list[State]] = {}
        self.shapes: dict[int, list[State]] = {}
        self.departed: dict[int, list[Change]] = {}
        self.stayed: dict[int, list[Change]] = {}
        self.wide: list[Change] = []
        self._selected: dict[Selector, _Selected] = {}

    @property
    def tiles(self) -> set[int]:
        """The changed tiles."""
        return self.points.keys() | self.shapes.keys() | self.departed.keys()

    def lines(self, area: Area, tiling: Tiling, selector: Selector) -> Lines:
        """
        The objects that one view is sent.

        Args:
            area, selector: The lens of the view.
            tiling: The tiles of the area.
        """
        selected = self._selected.get(selector)
        if selected is None:
            selected = self._selected[selector] = _Selected(self, selector)
        states_of, joined_of = selected.states, selected.joined
        frames: list[bytes] = []
        count = 0
        for key in self.points.keys() & tiling.whole:
            states = states_of[key]
            if states:
                frames.append(joined_of[key])
                count += len(states)
        for x0, y0, x1, y1 in area.rectangles:
            for key in self.points.keys() & tiling.edge:
                # One comparison after another, because Python is slower with x0 <= x <= x1.
                inside = [
                    state.frame
                    for state in states_of[key]
                    if state.x0 <= x1 and state.x0 >= x0 and state.y0 <= y1 and state.y0 >= y0
                ]
                frames += inside
                count += len(inside)
        if self.shapes or self.wide:
            seen = [state.frame for state in self._shapes_in(tiling) if _is_seen(state, area, selector)]
            frames += seen
            count += len(seen)
        departed: list[Change] = []
        for key in self.departed.keys() & tiling.all:
            departed += self.departed[key]
        if selector.limits is not None:
            for key in self.stayed.keys() & tiling.all:
                departed += selected.stepped_out[key]
        left: dict[str, list[str]] = {}
        if departed or self.wide:
            for change in dict.fromkeys((*departed, *self.wide)):
                old, new = change.old, change.new
                if old is not None and _is_seen(old, area, selector) and not (new and _is_seen(new, area, selector)):
                    left.setdefault(old.topic, []).append(old.relevance.key)
                    count += 1
        return Lines(frames, count, left)

    def _shapes_in(self, tiling: Tiling) -> Iterable[State]:
        """The new states that are no points and may be in the area; each once."""
        found = {state: None for key in self.shapes.keys() & tiling.all for state in self.shapes[key]}
        return (*found, *(change.new for change in self.wide if change.new is not None))

    def add_points(self, finer: "LevelChanges") -> None:
        """Add all points of a finer level. This level has no point yet."""
        points, up = self.points, self.bits - finer.bits
        for key, states in finer.points.items():
            key = key >> ROW + up << ROW | (key & COLUMN) >> up
            known = points.get(key)
            if known is None:
                points[key] = states.copy()
            else:
                known += states

    def add_departure(self, change: Change) -> None:
        """Add where a point was that has moved, if it may have left a view thereby."""
        old: State = change.old  # type: ignore[assignment]
        # The edges of views lie between cells, so a key that is still in its cell has left no view.
        left = self.departed if change.moved_bits > self.cell_bits else self.stayed
        left.setdefault(old.y0 >> self.bits << ROW | old.x0 >> self.bits, []).append(change)

    def add(self, change: Change) -> None:
        """Add a change of something that is not a single point before and after."""
        old, new = change.old, change.new
        bits = self.bits
        if (old is not None and is_wide(old, bits)) or (new is not None and is_wide(new, bits)):
            self.wide.append(change)
            return
        if new is not None:
            for key in tiles_of(new, bits):
                (self.points if new.is_point else self.shapes).setdefault(key, []).append(new)
        if old is not None:
            for key in tiles_of(old, bits):
                self.departed.setdefault(key, []).append(change)


def by_level(levels: Iterable[int], changes: Iterable[Change], *, has_limits: bool) -> dict[int, LevelChanges]:
    """
    The changes of one tick for each level.

    Args:
        levels: Those that views have.
        changes: All changes of the tick; each key once.
        has_limits: Whether a view has a selector with boxes. Only these can be left within a cell.
    """
    # The finest first: its tiles are parts of those of the next.
    found = [LevelChanges(level) for level in sorted(levels, reverse=True)]
    if not found:
        return {}
    finest = found[0]
    bits, points = finest.bits, finest.points
    # A key that is still in its cell of the finest level is so in all levels.
    smallest_bits = -1 if has_limits else finest.cell_bits
    others: list[Change] = []
    for change in changes:
        old, new = change.old, change.new
        if new is None or not new.is_point or (old is not None and not old.is_point):
            others.append(change)
            continue
        key = new.y0 >> bits << ROW | new.x0 >> bits
        states = points.get(key)
        if states is None:
            points[key] = [new]
        else:
            states.append(new)
        if old is not None and change.moved_bits > smallest_bits:
            for each in found:
                each.add_departure(change)
    for finer, coarser in pairwise(found):
        coarser.add_points(finer)
    for change in others:
        for each in found:
            each.add(change)
    return {each.level: each for each in found}


def _is_seen(state: State, area: Area, selector: Selector) -> bool:
    return is_in(state, area) and selector.matches(state.topic, state.relevance)
