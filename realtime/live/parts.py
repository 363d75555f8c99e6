"""
A part: those changes of one tick that one view is sent.

Owns finding the changes that a view lets through, and joining frames once for all views that are sent the same ones.
Does not own how the changes are grouped (changes) nor writing (view).

The search goes from tile to tile, not from view to view. Most of a view consists of whole tiles. For a whole tile, all
views with the same conditions are sent the same bytes, which are joined once. Only in the tiles at the edge of a view,
single changes are compared with its area.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from realtime.live.changes import ANY_BITS, Change, LevelChanges
from realtime.live.filters import Selector
from realtime.live.items import State, is_in
from realtime.live.places import Area
from realtime.live.watchers import Watchers

__all__ = ["NO_LINES", "Lines", "Part", "Parts"]

# Other tasks may run after this many tiles.
_TILES_AT_A_TIME: Final = 50


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


NO_LINES: Final = Lines([], 0, {})


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
    The changes that a selector lets through, by tile.

    Args:
        changes: The changes of the level.
        selector: The conditions.

    Attributes:
        states: Tile → the new states whose place is a point.
        joined: Tile → their frames, joined.
        stepped_out: Tile → the changes within one cell whose new state the selector does not let through.
    """

    __slots__ = ("joined", "selector", "states", "stepped_out")

    def __init__(self, changes: LevelChanges, selector: Selector) -> None:
        self.selector = selector
        points, stayed, matches = changes.points, changes.stayed, selector.matches

        def selected(key: int) -> list[State]:
            return [state for state in points[key] if matches(state)]

        def stepped_out(key: int) -> list[Change]:
            return [each for each in stayed[key] if not matches(each.new)]  # type: ignore[arg-type]

        states = points if selector is Selector.everything else _ByTile(selected)
        self.states: dict[int, list[State]] = states
        self.joined = _ByTile(lambda key: b"\n".join([state.frame for state in states[key]]))
        self.stepped_out = _ByTile(stepped_out)


class Part:
    """
    The changes of one tick for one view.

    Args:
        area: The area of its lens.
        selected: The changes that its selector lets through.
    """

    __slots__ = ("area", "departed", "extra_count", "frames", "selected", "shapes")

    def __init__(self, area: Area, selected: _Selected) -> None:
        self.area, self.selected = area, selected
        # The frames of new states that are points; some are several frames, joined.
        self.frames: list[bytes] = []
        # How many more objects than elements `frames` has.
        self.extra_count = 0
        # Changes of keys that may have left, and other new states that may be seen. They come from several tiles, so
        # the same one may be here twice.
        self.departed: list[Change] = []
        self.shapes: list[State] = []

    def lines(self) -> Lines:
        """The objects that the view is sent. Called once."""
        area, selector, frames = self.area, self.selected.selector, self.frames
        if self.shapes:
            frames += [state.frame for state in dict.fromkeys(self.shapes) if _is_seen(state, area, selector)]
        count = self.extra_count + len(frames)
        left: dict[str, list[str]] = {}
        if self.departed:
            for change in dict.fromkeys(self.departed):
                old, new = change.old, change.new
                if selector.limits is None and change.moved_bits < ANY_BITS and is_in(new, area):  # type: ignore[arg-type]
                    # For the selector, nothing has changed: if it let the old state through, the key is still seen.
                    continue
                if old is not None and _is_seen(old, area, selector) and not (new and _is_seen(new, area, selector)):
                    left.setdefault(old.topic, []).append(old.key)
                    count += 1
        return Lines(frames, count, left)


class Parts[V](dict[V, Part]):
    """
    View → its part; for the views of one level. Views that are sent nothing may be missing.

    Args:
        changes: The changes for the level.
        lens_of: Returns the area and the selector of a view.
    """

    __slots__ = ("_changes", "_lens_of", "_selected")

    def __init__(self, changes: LevelChanges, lens_of: Callable[[V], tuple[Area, Selector]]) -> None:
        self._changes, self._lens_of = changes, lens_of
        self._selected: dict[Selector, _Selected] = {}

    def add(self, view: V) -> None:
        """Add a view, although there may be nothing for it."""
        self[view]

    def __missing__(self, view: V) -> Part:
        area, selector = self._lens_of(view)
        selected = self._selected.get(selector)
        if selected is None:
            selected = self._selected[selector] = _Selected(self._changes, selector)
        part = self[view] = Part(area, selected)
        return part

    def collect(self, watchers: Watchers[V]) -> Iterator[None]:
        """Find the parts, in steps. Views may leave the watchers between two steps."""
        for number, (key, states) in enumerate(self._changes.points.items(), 1):
            for view in watchers.whole.get(key, ()):
                part = self[view]
                states = part.selected.states[key]
                if states:
                    part.frames.append(part.selected.joined[key])
                    part.extra_count += len(states) - 1
            for view in watchers.edge.get(key, ()):
                part = self[view]
                states, frames = part.selected.states[key], part.frames
                for x0, y0, x1, y1 in part.area.rectangles:
                    # One comparison after another, because Python is slower with x0 <= x <= x1.
                    frames += [
                        state.frame
                        for state in states
                        if state.x0 <= x1 and state.x0 >= x0 and state.y0 <= y1 and state.y0 >= y0
                    ]
            if not number % _TILES_AT_A_TIME:
                yield
        self._collect_departed(watchers)
        self._collect_shapes(watchers)

    def _collect_departed(self, watchers: Watchers[V]) -> None:
        changes = self._changes
        for key, departed in changes.departed.items():
            for view in watchers.of(key):
                self[view].departed += departed
        for key, moved in changes.moved.items():
            for view in watchers.edge.get(key, ()):
                self[view].departed += moved
            for view in watchers.whole.get(key, ()):
                if self[view].selected.selector.limits is not None:
                    self[view].departed += moved
        for key in changes.stayed:
            for view in watchers.of(key):
                selected = self[view].selected
                if selected.selector.limits is not None:
                    self[view].departed += selected.stepped_out[key]

    def _collect_shapes(self, watchers: Watchers[V]) -> None:
        changes = self._changes
        for key, shapes in changes.shapes.items():
            for view in watchers.of(key):
                self[view].shapes += shapes
        if changes.wide:
            new = [change.new for change in changes.wide if change.new is not None]
            for view in watchers.all():
                self[view].departed += changes.wide
                self[view].shapes += new


def _is_seen(state: State, area: Area, selector: Selector) -> bool:
    return is_in(state, area) and selector.matches(state)
