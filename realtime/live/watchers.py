"""
The views of one level, by the tiles that they watch: a view watches the tiles of its area, and is sent their changes.

Owns which views watch a tile. Does not own which of its changes they are sent (parts).
"""

from collections.abc import Iterable
from itertools import chain
from typing import Final, NamedTuple

from realtime.live.items import ROW
from realtime.live.places import Area, tile_bits

__all__ = ["NO_TILES", "Tiling", "Watchers"]


class Tiling(NamedTuple):
    """
    The tiles of its level that an area touches: at most about a hundred, because the level of an area fits its size.

    Attributes:
        whole: The keys of the tiles that lie completely in the area.
        edge: The keys of the tiles that lie partly in it.
    """

    whole: frozenset[int]
    edge: frozenset[int]

    @classmethod
    def of(cls, area: Area) -> "Tiling":
        """The tiles of an area."""
        bits = tile_bits(area.level)
        last = (1 << bits) - 1
        whole, touched = set(), set()
        for x0, y0, x1, y1 in area.rectangles:
            touched |= _keys(x0 >> bits, y0 >> bits, x1 >> bits, y1 >> bits)
            whole |= _keys(x0 + last >> bits, y0 + last >> bits, (x1 + 1 >> bits) - 1, (y1 + 1 >> bits) - 1)
        return cls(frozenset(whole), frozenset(touched - whole))


NO_TILES: Final = Tiling(frozenset(), frozenset())


def _keys(first_x: int, first_y: int, last_x: int, last_y: int) -> set[int]:
    return {y << ROW | x for y in range(first_y, last_y + 1) for x in range(first_x, last_x + 1)}


class Watchers[V]:
    """
    Which views watch each tile.

    Attributes:
        whole: Tile → the views whose area has all of it.
        edge: Tile → the views whose area has some of it.
    """

    def __init__(self) -> None:
        self.whole: dict[int, dict[V, None]] = {}
        self.edge: dict[int, dict[V, None]] = {}

    def __bool__(self) -> bool:
        return bool(self.whole or self.edge)

    def of(self, key: int) -> Iterable[V]:
        """The views that watch a tile."""
        return chain(self.whole.get(key, ()), self.edge.get(key, ()))

    def all(self) -> set[V]:
        """All views."""
        return {view for views in chain(self.whole.values(), self.edge.values()) for view in views}

    def change(self, view: V, old: Tiling, new: Tiling) -> None:
        """A view that has watched the tiles `old` watches the tiles `new` from now on."""
        for watchers, before, after in ((self.whole, old.whole, new.whole), (self.edge, old.edge, new.edge)):
            for key in before - after:
                views = watchers[key]
                del views[view]
                if not views:
                    del watchers[key]
            for key in after - before:
                views = watchers.get(key)  # type: ignore[assignment]
                if views is None:
                    watchers[key] = {view: None}
                else:
                    views[view] = None
