"""
The content of "reset" and "entered" batches: all that a view's lens lets through, or the difference to its last lens.

Owns finding these items, and the objects that a client is sent for them. Does not own when a batch is sent (scene) nor
"changes" batches (parts).
"""

from collections.abc import Callable, Iterable, Iterator

from realtime.live.filters import Selector
from realtime.live.items import Item, State, is_in
from realtime.live.mirror import Mirror
from realtime.live.view import KEYS_PER_LINE, Lens, left_lines, same_lines

__all__ = ["difference", "entered_lines", "entered_lines_now", "is_seen", "reset_lines"]


def difference(mirror: Mirror, old: Lens, new: Lens) -> tuple[list[Item], dict[str, list[str]]]:
    """The items that only the new lens lets through; and by topic, the keys that only the old one lets through."""
    old_selector, new_selector = mirror.shared(old.selector), mirror.shared(new.selector)
    entered = _only_in(mirror, new, old, new_selector, old_selector)
    left: dict[str, list[str]] = {}
    for item in _only_in(mirror, old, new, old_selector, new_selector):
        left.setdefault(item.topic, []).append(item.key)
    return entered, left


def _only_in(mirror: Mirror, here: Lens, there: Lens, selector: Selector, other: Selector) -> list[Item]:
    """The items that `here` lets through and `there` does not. Their selectors are given as the mirror shares them."""
    matches = selector.matches
    if selector is other:
        found = mirror.items_in(here.area, without=there.area)
        if selector is Selector.everything:
            return found
        return [item for item in found if matches(item.state)]  # type: ignore[arg-type]
    matches_there = other.matches
    only: list[Item] = []
    for item in mirror.items_in(here.area):
        state: State = item.state  # type: ignore[assignment]
        if not matches(state):
            continue
        if not (is_in(state, there.area) and matches_there(state)):
            only.append(item)
    return only


def entered_lines(
    head: list[bytes], entered: list[Item], left: dict[str, list[str]], lens: Lens, tick: int
) -> Iterator[bytes]:
    """
    The objects of an "entered" batch, made when they are written.

    Args:
        head: The objects that name positions.
        entered, left: The result of `difference`.
        lens: The new lens.
        tick: The number of the tick after which they were found.
    """
    yield from _left_lines(left)
    yield from head
    for item in entered:
        state = item.state
        # It may have changed since the batch began.
        if state is not None and (item.tick <= tick or is_seen(state, lens)):
            yield state.frame


def entered_lines_now(head: list[bytes], entered: list[Item], left: dict[str, list[str]]) -> list[bytes]:
    """The same objects, all made at once. Valid only while nothing has changed since the items were found."""
    return [*_left_lines(left), *head, *[item.state.frame for item in entered]]  # type: ignore[union-attr]


def _left_lines(left: dict[str, list[str]]) -> Iterator[bytes]:
    for topic, keys in left.items():
        yield from left_lines(topic, keys)


def reset_lines(
    mirror: Mirror, lens: Lens, is_same: Callable[[Item, State], bool], *, tick: int, topics: Iterable[str]
) -> Iterator[bytes]:
    """
    The objects of a "reset" batch, made when they are written.

    Args:
        lens: The new lens.
        is_same: Whether the client has this state of an item already. If so, only its key is sent.
        tick: The number of the last tick when the batch began.
        topics: Those whose positions are named first, although the batch may have no item of them.
    """
    positions = {topic for topic in topics if mirror.epoch(topic) is not None}
    yield from mirror.position_lines(positions)
    # Looked up when the first object is written, so that a view whose client does not read holds no list of items.
    items = mirror.items_in(lens.area)
    matches = mirror.shared(lens.selector).matches
    same: dict[str, list[str]] = {}
    for item in items:
        state = item.state
        if state is None or not matches(state) or mirror.epoch(item.topic) is None:
            continue
        # The item has changed since the batch began. `matches` may not check its new level, so the lens decides.
        if item.tick > tick and not is_seen(state, lens):
            continue
        topic = state.topic
        if topic not in positions:
            positions.add(topic)
            yield from mirror.position_lines([topic])
        if not is_same(item, state):
            yield state.frame
            continue
        keys = same.setdefault(topic, [])
        keys.append(state.key)
        if len(keys) == KEYS_PER_LINE:
            yield from same_lines(topic, same.pop(topic))
    for topic, keys in same.items():
        yield from same_lines(topic, keys)


def is_seen(state: State, lens: Lens) -> bool:
    """Whether a lens lets a state through."""
    return is_in(state, lens.area) and lens.selector.matches(state)
