"""
A mirror: this process's copy of the topics of one family, with an index of their keys for each level of views.

Owns applying publications and snapshots, and finding what they changed. Does not own reading Redis (feed), nor when
they are applied and which views are sent them (scene).
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from realtime.broker.publication import Position
from realtime.live.changes import Change, Changes, has_same_tags
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import Item, State, TileIndex
from realtime.live.pause import Pause
from realtime.live.places import Area
from realtime.protocol import messages

__all__ = ["Mirror", "Reload", "thinned"]

# Indexes that no view uses are kept up to this number, because users zoom in and out.
_INDEXES_KEPT: Final = 6


class Reload:
    """Replaces all keys of a topic: with those read from Redis, or with none if the topic is forgotten."""

    __slots__ = ("is_forgotten", "position", "states", "topic")

    def __init__(self, topic: str, position: Position, states: dict[str, State], *, is_forgotten: bool = False) -> None:
        self.topic, self.position, self.states, self.is_forgotten = topic, position, states, is_forgotten


def thinned(incoming: Sequence[State | Reload]) -> deque[State | Reload]:
    """
    Drop what later arrivals replace. Applying the rest has the same result as applying all.

    Args:
        incoming: As for `Mirror.apply`. The states of a topic are in the order of their offsets.

    Returns:
        For each topic its newest reload, and the newest state of each key that follows it. Their order is kept.
    """
    kept: deque[State | Reload] = deque()
    reloaded: set[str] = set()
    # Topic → keys.
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for arrived in reversed(incoming):
        if arrived.topic in reloaded:
            continue
        if isinstance(arrived, Reload):
            reloaded.add(arrived.topic)
        else:
            keys = seen[arrived.topic]
            if arrived.key in keys:
                continue
            keys.add(arrived.key)
        kept.appendleft(arrived)
    return kept


class Mirror:
    """
    Belongs to one event loop.

    Args:
        counters: The counters of the event loop.

    Attributes:
        highest_level: The highest level of detail that a state has ever had.

    Guarantees:
        Within an epoch, a key never goes back to an older state. Items change only in `apply`.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        # Topic → key → item.
        self._items: dict[str, dict[str, Item]] = {}
        # Topic → its position when it was loaded. Only its epoch stays current.
        self._positions: dict[str, Position] = {}
        self._position_lines: dict[str, bytes] = {}
        # Level → index; one for each level that a view has used.
        self._indexes: dict[int, TileIndex] = {}
        self.highest_level = 0

    def epoch(self, topic: str) -> str | None:
        """The epoch of a topic; None if it is not loaded."""
        position = self._positions.get(topic)
        return None if position is None else position.epoch

    def shared(self, selector: Selector) -> Selector:
        """
        A selector that decides the same for all present states, and that more views share.

        It has no level if no state is above the selector's level.
        """
        return selector.for_levels_up_to(self.highest_level)

    def position_lines(self, topics: Iterable[str]) -> list[bytes]:
        """For each of these topics that is loaded, the object that tells a client its position."""
        return [self._position_lines[topic] for topic in topics if topic in self._position_lines]

    def items_in(self, area: Area, *, without: Area | None = None) -> list[Item]:
        """The items whose place is in an area, without those in the other one, each once."""
        for _ in self._make_index(area.level, self._indexes.keys):
            pass
        return self._indexes[area.level].items_in(area, without=without)

    async def prepare(self, level: int, used: Callable[[], Collection[int]], pause: Pause) -> None:
        """
        Make the index of a level, in steps, unless it exists.

        Args:
            level: Which one.
            used: Returns the levels that views use. Other indexes may be removed.
        """
        for _ in self._make_index(level, used):
            await pause.make_way()

    def clear(self) -> None:
        """Remove all items; the mirror is not used after this."""
        self._counters.item_count -= sum(map(len, self._items.values()))
        self._items.clear()

    async def apply(
        self, incoming: deque[State | Reload], *, tick: int, stay_bits: int, pause: Pause
    ) -> tuple[Changes, frozenset[str], frozenset[str]]:
        """
        Apply what has arrived.

        Args:
            incoming: States of publications, and whole topics, in their order. It is empty afterwards.
            tick: The number that changed items get.
            stay_bits: From `changes.stay_bits`, for all views.

        Returns:
            The changes, the topics that were not loaded before, and those that have a new epoch.
        """
        changed: dict[Item, State | None] = {}
        loaded: set[str] = set()
        restarted: set[str] = set()
        while incoming:
            arrived = incoming.popleft()
            if isinstance(arrived, State):
                self._apply_state(arrived, changed)
            else:
                for _ in self._apply_reload(arrived, changed, loaded, restarted):
                    await pause.make_way()
            if not len(incoming) % 100:
                await pause.make_way()
        self._counters.change_count += len(changed)
        stayed: list[State] = []
        others: list[Change] = []
        bits = min((stay_bits, *(index.cell_bits for index in self._indexes.values())))
        # A point is in the same cell of every grid if only bits lower than this of its coordinates have changed.
        limit = 0 if bits < 0 else 1 << bits
        for number, (item, old) in enumerate(changed.items(), 1):
            new = item.state
            if new is None:
                self._remove(item)
            if old is new:
                continue
            item.tick = tick
            if not number % 200:
                await pause.make_way()
            if (
                old is not None
                and new is not None
                and old.is_point
                and new.is_point
                # Most changes are of this kind, so they are found in few steps, and without an object for each.
                and (old.x0 ^ new.x0) | (old.y0 ^ new.y0) < limit
                and old.level == new.level
                and has_same_tags(old.tags, new.tags)
            ):
                stayed.append(new)
                continue
            change = Change.of(old, new)
            others.append(change)
            for index in self._indexes.values():
                if change.moved_bits > index.cell_bits:
                    index.replace(item, old, new)
        return Changes(stayed, others), frozenset(loaded), frozenset(restarted)

    def _apply_state(self, state: State, changed: dict[Item, State | None]) -> None:
        items = self._items.get(state.topic)
        if items is None:
            # Its feed has ended.
            return
        item = items.get(state.key)
        if item is None:
            if state.is_removed:
                return
            item = self._add(items, state.topic, state.key)
        elif item.state is not None and item.state.offset >= state.offset:
            # A snapshot that was read later contains it already.
            return
        if state.level > self.highest_level:
            self.highest_level = state.level
        if item not in changed:
            changed[item] = item.state
        item.state = None if state.is_removed else state

    def _apply_reload(
        self, reload: Reload, changed: dict[Item, State | None], loaded: set[str], restarted: set[str]
    ) -> Iterator[None]:
        """In steps, because a topic may have very many keys."""
        topic = reload.topic
        items = self._items.setdefault(topic, {})
        before = self._positions.get(topic)
        is_same_epoch = before is not None and before.epoch == reload.position.epoch
        if not is_same_epoch and not reload.is_forgotten:
            (loaded if before is None else restarted).add(topic)
        for number, (key, item) in enumerate(items.items(), 1):
            if key not in reload.states and item.state is not None:
                changed.setdefault(item, item.state)
                item.state = None
            if not number % 200:
                yield
        for number, (key, state) in enumerate(reload.states.items(), 1):
            if not number % 200:
                yield
            item = items.get(key) or self._add(items, topic, key)
            if item.state is not None and is_same_epoch and item.state.offset >= state.offset:
                continue
            changed.setdefault(item, item.state)
            item.state = state
            self.highest_level = max(self.highest_level, state.level)
        self._positions[topic] = reload.position
        self._position_lines[topic] = messages.position(topic, reload.position)
        if reload.is_forgotten:
            self._counters.item_count -= len(items)
            del self._items[topic], self._positions[topic], self._position_lines[topic]

    def _add(self, items: dict[str, Item], topic: str, key: str) -> Item:
        self._counters.item_count += 1
        item = items[key] = Item(topic, key)
        return item

    def _remove(self, item: Item) -> None:
        items = self._items.get(item.topic)
        # If the topic was forgotten meanwhile, it has no item of this key, or another one.
        if items is not None and items.get(item.key) is item:
            del items[item.key]
            self._counters.item_count -= 1

    def _make_index(self, level: int, used: Callable[[], Collection[int]]) -> Iterator[None]:
        """Make an index, in steps, if there is none."""
        if level in self._indexes:
            return
        if len(self._indexes) >= _INDEXES_KEPT:
            for unused in self._indexes.keys() - used():
                del self._indexes[unused]
        index = TileIndex(level)
        for items in self._items.values():
            for number, item in enumerate(items.values(), 1):
                index.replace(item, None, item.state)
                if not number % 200:
                    yield
        self._indexes[level] = index
