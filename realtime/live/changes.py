"""
The changes of one tick, grouped by the tiles of each level.

Owns how a change is described, and which changes may take a key out of a view. Does not own the items (items) nor what
each view is sent (parts).
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from realtime.broker.relevance import Tags
from realtime.live.items import COLUMN, ROW, State, is_wide, tiles_of
from realtime.live.places import cell_bits, tile_bits

__all__ = ["ANY_BITS", "Change", "Changes", "LevelChanges", "by_level", "has_same_tags", "stay_bits"]

# Greater than the number of bits of a coordinate.
ANY_BITS: Final = 99


class Change(msgspec.Struct, frozen=True, eq=False, gc=False):
    """
    How one key changed in a tick.

    Attributes:
        old: Its state in the tick before; None if it had none.
        new: Its state now; None if it was removed.
        moved_bits: At most this many of the lowest bits of its coordinates have changed. So if the squares of a grid
            have sides of at least 2**moved_bits units, the key is still in the same square. It is ANY_BITS if the key
            is new or removed, its tags or level have changed, only one of the two places is a point, or a place is not
            a single rectangle.
    """

    old: State | None
    new: State | None
    moved_bits: int

    @classmethod
    def of(cls, old: State | None, new: State | None) -> "Change":
        """The change from one state to another."""
        if old is None or new is None or old.is_point != new.is_point or not (old.is_box and new.is_box):
            return cls(old, new, ANY_BITS)
        if old.level != new.level or not has_same_tags(old.tags, new.tags):
            return cls(old, new, ANY_BITS)
        moved = (old.x0 ^ new.x0) | (old.y0 ^ new.y0) | (old.x1 ^ new.x1) | (old.y1 ^ new.y1)
        return cls(old, new, moved.bit_length())


def has_same_tags(old: Tags, new: Tags) -> bool:
    """Whether filters decide the same about two sets of tags."""
    # In Python, True equals 1; in a filter it does not.
    return old is new or (old == new and [type(old[name]) for name in new] == [*map(type, new.values())])


class Changes(NamedTuple):
    """
    All changes of one tick, each key once.

    Attributes:
        stayed: The new states of points that stayed in the same cell of every view, with the same tags and level.
            None of them can have left a view. Most changes are of this kind.
        others: All other changes.
    """

    stayed: list[State]
    others: list[Change]

    def __bool__(self) -> bool:
        return bool(self.stayed or self.others)


class LevelChanges:
    """
    The changes of one tick for the views of one level. Made by `by_level`.

    Args:
        level: The zoom of the tiles.
        has_limits: Whether any view has limits. Only such a view can lose a key that stays in its cell.

    Attributes:
        points: Tile → the new states in it whose place is a point.
        shapes: Tile → the new states that touch it and whose place is not a point.
        departed: Tile → the changes of keys that were in it and may have left any view.
        moved: Tile → the changes of points that moved within it, from one cell to another. The edges of areas lie
            between cells, so these keys can only have left views that cover part of the tile, or that have limits.
        stayed: Tile → the changes of points that stayed in their cell; none without `has_limits`. These keys can only
            have left views that have limits.
        wide: Changes of states that have no place or touch too many tiles to list. They are compared with every view.
    """

    def __init__(self, level: int, *, has_limits: bool) -> None:
        self.level, self.bits, self.cell_bits = level, tile_bits(level), cell_bits(level)
        self._has_limits = has_limits
        self.points: dict[int, list[State]] = {}
        self.shapes: dict[int, list[State]] = {}
        self.departed: dict[int, list[Change]] = {}
        self.moved: dict[int, list[Change]] = {}
        self.stayed: dict[int, list[Change]] = {}
        self.wide: list[Change] = []

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
        """Add a change of a point, by the tile that it was in."""
        old: State = change.old  # type: ignore[assignment]
        if change.moved_bits > self.bits:
            left = self.departed
        elif change.moved_bits > self.cell_bits:
            left = self.moved
        elif self._has_limits:
            left = self.stayed
        else:
            return
        left.setdefault(old.y0 >> self.bits << ROW | old.x0 >> self.bits, []).append(change)

    def add(self, change: Change) -> None:
        """Add a change of a key that is removed, or whose place is or was not a point."""
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


def stay_bits(levels: Iterable[int], *, has_limits: bool) -> int:
    """
    A point counts as `Changes.stayed` if at most this many of the lowest bits of its coordinates change; -1 for never.

    Args:
        levels: The levels of the views.
        has_limits: Whether a view has a selector with limits. A point that moves within a cell can leave such a view.
    """
    return -1 if has_limits else min(map(cell_bits, levels), default=ANY_BITS)


def by_level(levels: Iterable[int], changes: Changes, *, has_limits: bool) -> dict[int, LevelChanges]:
    """
    The changes of one tick for each level.

    Args:
        levels: The levels of the views.
        changes: All changes of the tick.
        has_limits: Whether a view has limits.
    """
    # The finest level comes first: each tile of the next level consists of tiles of this one.
    found = [LevelChanges(level, has_limits=has_limits) for level in sorted(levels, reverse=True)]
    if not found:
        return {}
    finest = found[0]
    bits, points = finest.bits, finest.points
    states = [*changes.stayed]
    others: list[Change] = []
    for change in changes.others:
        old, new = change.old, change.new
        if new is None or not new.is_point or (old is not None and not old.is_point):
            others.append(change)
            continue
        states.append(new)
        if old is not None:
            for each in found:
                each.add_departure(change)
    for state in states:
        key = state.y0 >> bits << ROW | state.x0 >> bits
        here = points.get(key)
        if here is None:
            points[key] = [state]
        else:
            here.append(state)
    for finer, coarser in pairwise(found):
        coarser.add_points(finer)
    for change in others:
        for each in found:
            each.add(change)
    return {each.level: each for each in found}
