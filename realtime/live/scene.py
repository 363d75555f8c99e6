"""
The topics of one family in this process, and their views: applying changes, and when they are sent.

Owns the items of all feeds of a family, and the ticks. Does not own reading Redis (feed), finding what lies in an area
(items, changes) nor writing (view).

Changes are gathered. In each tick they are applied to the items, and then every view is brought to this state with one
write of the changes that it lets through. Publications that arrive during a tick wait for the next one. So a whole tick
sees one state, although it yields to other tasks. Between ticks the state stays the same. A view that joins, or whose
client has a new filter, is sent what it needs of this state at once, without waiting for the next tick.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from realtime.broker.publication import Position
from realtime.live.changes import Change, LevelChanges, by_level
from realtime.live.filters import Selector
from realtime.live.items import NO_TILES, Item, State, TileIndex, Tiling, is_in
from realtime.live.places import Area
from realtime.live.view import Lens, View, left_lines, same_lines
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode

__all__ = ["Counters", "Scene"]

logger = logging.getLogger(__name__)

# A tick yields to other tasks after this time.
_SLICE_SECONDS: Final = 0.004
# How long a topic that was loaded waits for others, at most.
_RELOAD_SECONDS: Final = 0.02
# How long a client that reads slowly waits for more, at most.
_CATCH_UP_SECONDS: Final = 0.05
# Indexes of levels that no view uses are kept up to this number, because users zoom in and out.
_INDEXES_KEPT: Final = 6
# The largest number of keys that wait to be named in one object.
_SAME_AT_A_TIME: Final = 500
# Up to this many items that enter a view are collected before they are written.
_ENTERED_AT_ONCE: Final = 500


class Counters:
    """What the scenes of an event loop count; see `ViewStatistics`."""

    __slots__ = (
        "batch_count",
        "change_count",
        "delivery_count",
        "failed_count",
        "item_count",
        "loaded_count",
        "skipped_count",
        "tick_count",
        "view_count",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.view_count = self.item_count = self.tick_count = self.change_count = self.batch_count = 0
        self.delivery_count = self.written_bytes = self.skipped_count = self.loaded_count = self.failed_count = 0


class _Reload:
    """All keys of a topic, as read from Redis; or none, if the topic is forgotten."""

    __slots__ = ("is_forgotten", "position", "states", "topic")

    def __init__(self, topic: str, position: Position, states: dict[str, State], *, is_forgotten: bool) -> None:
        self.topic, self.position, self.states, self.is_forgotten = topic, position, states, is_forgotten


class Scene:
    """
    Belongs to one event loop.

    Args:
        name: Of the family, for the log.
        gather_seconds: The shortest time between two ticks. The first change after a pause does not wait.
        counters: The counters of the event loop.

    Guarantees:
        After each tick, every view whose client reads fast enough has exactly the items that its lens lets through, in
        their newest state. A client never gets an older state of a key after a newer one.
    """

    def __init__(self, name: str, *, gather_seconds: float, counters: Counters) -> None:
        self.name, self._gather_seconds, self._counters = name, gather_seconds, counters
        # Topic → key → item.
        self._items: dict[str, dict[str, Item]] = {}
        # Topic → its position when it was loaded, for its epoch.
        self._positions: dict[str, Position] = {}
        # Level → index; one for each level that a view has used.
        self._indexes: dict[int, TileIndex] = {}
        self._views: dict[View, None] = {}
        # Level → tile → the views whose watched area touches it.
        self._watchers: dict[int, dict[int, dict[View, None]]] = {}
        # What the next tick applies, in order: states of publications, and whole topics.
        self._incoming: deque[State | _Reload] = deque()
        # Views that have joined or have a new `wanted` lens, and views whose clients read slowly.
        self._renewed: dict[View, asyncio.Future[None] | None] = {}
        self._slow: dict[View, None] = {}
        # How many `_Reload` wait for the next tick. Views wait with them, because they may need their items.
        self._reload_count = 0
        # The highest level of all states that there have been.
        self._highest_level = 0
        self._tick = 0
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None
        # Set when a view is to be renewed.
        self._is_woken = asyncio.Event()
        self.is_stopped = False

    # From feeds -------------------------------------------------------------------------------------------------------

    def take(self, states: Sequence[State]) -> None:
        """Publications of one topic, in their order."""
        self._incoming += states
        self._wake()

    def reload(self, topic: str, position: Position, states: dict[str, State]) -> None:
        """All keys of a topic as they are in Redis. Other keys of the topic have been removed."""
        self._reload(_Reload(topic, position, states, is_forgotten=False))

    def forget(self, topic: str) -> None:
        """No view needs the topic now: remove its items."""
        self._reload(_Reload(topic, Position(0, ""), {}, is_forgotten=True))

    def _reload(self, loaded: _Reload) -> None:
        self._incoming.append(loaded)
        self._reload_count += 1
        # Its views have nothing on the screen yet.
        self._next_at = min(self._next_at, asyncio.get_running_loop().time() + _RELOAD_SECONDS)
        self._is_woken.set()
        self._wake()

    # From views -------------------------------------------------------------------------------------------------------

    def join(self, view: View) -> asyncio.Future[None]:
        """Add a view. Its first batch is written soon; the future is done then."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._views[view] = None
        self._counters.view_count += 1
        self._renewed[view] = future
        self._is_woken.set()
        self._wake()
        return future

    def renew(self, view: View) -> None:
        """The view has a new `wanted` lens, which soon applies."""
        if view not in self._renewed:
            self._renewed[view] = None
        self._is_woken.set()
        self._wake()

    def leave(self, view: View) -> None:
        """Nothing is written for the view after this. Idempotent."""
        view.is_over = True
        if view in self._views:
            del self._views[view]
            self._counters.view_count -= 1
        self._slow.pop(view, None)
        self._watch(view, None)
        future = self._renewed.pop(view, None)
        if future is not None and not future.done():
            future.cancel()

    async def stop(self) -> None:
        """End the ticks. The scene is not used after this."""
        self.is_stopped = True
        for view in tuple(self._views):
            self.leave(view)
        self._counters.item_count -= sum(map(len, self._items.values()))
        self._items.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # Ticks ------------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"ticks of {self.name}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._incoming or self._renewed or self._slow:
            # What arrives at the same moment is handled together.
            await asyncio.sleep(0)
            if loop.time() < self._next_at and (self._reload_count or not self._renewed):
                await self._sleep(self._next_at - loop.time())
            try:
                if loop.time() >= self._next_at:
                    self._next_at = loop.time() + self._gather_seconds
                    await self._run_tick()
                elif not self._reload_count:
                    await self._serve_views(self._take_renewed(), _Pause())
            except Exception:
                logger.exception("a tick of %s failed", self.name)
        self._task = None

    async def _sleep(self, seconds: float) -> None:
        """Wait for the next tick, or until there is something to do for a view."""
        self._is_woken.clear()
        if self._slow:
            seconds = min(seconds, _CATCH_UP_SECONDS)
        timer = asyncio.get_running_loop().call_later(seconds, self._is_woken.set)
        await self._is_woken.wait()
        timer.cancel()

    async def _run_tick(self) -> None:
        pause = _Pause()
        self._tick += 1
        self._counters.tick_count += 1
        # What these views need is applied in this tick. What others need may arrive during it.
        renewed = self._take_renewed()
        changes, restarted = await self._apply(pause)
        await self._send_changes(changes, restarted, pause)
        await self._serve_views(renewed, pause)

    def _take_renewed(self) -> dict[View, asyncio.Future[None] | None]:
        renewed, self._renewed = self._renewed, {}
        return renewed

    async def _serve_views(self, renewed: dict[View, asyncio.Future[None] | None], pause: "_Pause") -> None:
        """Bring views to their new lenses, and continue with those whose clients read slowly."""
        for view, future in renewed.items():
            if not view.is_over:
                await self._prepare_index(view.wanted.area.level, pause)
                self._guard(view, self._renew)
            if future is not None and not future.done():
                future.set_result(None)
            await pause.make_way()
        for view in tuple(self._slow):
            self._guard(view, self._catch_up)
            await pause.make_way()

    async def _apply(self, pause: "_Pause") -> tuple[list[Change], list[str]]:
        """Apply what has arrived. Returns the changes, each key once, and the topics that have a new epoch."""
        incoming, self._incoming = self._incoming, deque()
        self._reload_count = 0
        changed: dict[Item, State | None] = {}
        restarted: dict[str, None] = {}
        while incoming:
            arrived = incoming.popleft()
            if isinstance(arrived, State):
                self._apply_state(arrived, changed)
            else:
                self._apply_reload(arrived, changed, restarted)
            if not len(incoming) % 100:
                await pause.make_way()
        self._counters.change_count += len(changed)
        changes: list[Change] = []
        for item, old in changed.items():
            new = item.state
            if new is None:
                self._remove(item)
            if old is new:
                continue
            item.tick = self._tick
            change = Change.of(old, new)
            changes.append(change)
            moved_bits = change.moved_bits
            for index in self._indexes.values():
                if moved_bits > index.bits:
                    index.replace(item, old, new)
            if not len(changes) % 200:
                await pause.make_way()
        return changes, list(restarted)

    def _apply_state(self, state: State, changed: dict[Item, State | None]) -> None:
        items = self._items.get(state.topic)
        if items is None:
            # Its feed has ended.
            return
        item = items.get(state.relevance.key)
        if item is None:
            if state.relevance.is_removed:
                return
            item = self._add(items, state.topic, state.relevance.key)
        elif item.state is not None and item.state.offset >= state.offset:
            # A snapshot that was read later contains it already.
            return
        if state.relevance.level > self._highest_level:
            self._highest_level = state.relevance.level
        if item not in changed:
            changed[item] = item.state
        item.state = None if state.relevance.is_removed else state

    def _apply_reload(self, loaded: _Reload, changed: dict[Item, State | None], restarted: dict[str, None]) -> None:
        topic = loaded.topic
        items = self._items.setdefault(topic, {})
        before = self._positions.get(topic)
        is_same_epoch = before is not None and before.epoch == loaded.position.epoch
        if before is not None and not is_same_epoch and not loaded.is_forgotten:
            restarted[topic] = None
        for key, item in items.items():
            if key not in loaded.states and item.state is not None:
                changed.setdefault(item, item.state)
                item.state = None
        for key, state in loaded.states.items():
            item = items.get(key) or self._add(items, topic, key)
            if item.state is not None and is_same_epoch and item.state.offset >= state.offset:
                continue
            changed.setdefault(item, item.state)
            item.state = state
            self._highest_level = max(self._highest_level, state.relevance.level)
        self._positions[topic] = loaded.position
        if loaded.is_forgotten:
            self._counters.item_count -= len(items)
            del self._items[topic], self._positions[topic]

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

    async def _send_changes(self, changes: list[Change], restarted: Iterable[str], pause: "_Pause") -> None:
        if not changes and not restarted:
            return
        sent_count = 0
        for view in self._slow:
            if not view.is_behind:
                view.is_behind = True
                self._counters.skipped_count += 1
        has_limits = any(view.has is not None and view.has.selector.limits is not None for view in self._views)
        levels = by_level(self._watchers, changes, has_limits=has_limits)
        await pause.make_way()
        for level, by_tile in levels.items():
            watchers = self._watchers.get(level, {})
            touched: dict[View, None] = {}
            for key in watchers.keys() & by_tile.tiles:
                touched.update(watchers[key])
            if by_tile.wide or restarted:
                for watching in watchers.values():
                    touched.update(watching)
            for view in touched:
                if view.is_over or view in self._slow:
                    continue
                if not view.has_room:
                    self._skip(view)
                    continue
                self._guard(view, self._send_to, by_tile, restarted)
                sent_count += 1
                if not sent_count % 8:
                    await pause.make_way()

    def _send_to(self, view: View, by_tile: LevelChanges, restarted: Iterable[str]) -> None:
        lens: Lens = view.has  # type: ignore[assignment]
        lines = by_tile.lines(lens.area, view.tiling, self._selector(lens))
        if not lines.line_count and not restarted:
            return
        positions: list[bytes] = []
        if restarted:
            topics = lens.selector.topics
            positions = self._position_lines(topic for topic in restarted if topics is None or topic in topics)
        written_bytes = view.write_changes(lines, positions)
        if not written_bytes:
            self._skip(view)
            return
        self._counters.written_bytes += written_bytes
        self._counters.delivery_count += lines.line_count
        self._counters.batch_count += 1

    def _skip(self, view: View) -> None:
        """The view does not get this change: a "reset" batch follows, in parts, as its socket has room."""
        view.is_behind, view.tick = True, self._tick - 1
        self._counters.skipped_count += 1
        self._slow[view] = None

    def _renew(self, view: View) -> None:
        """Bring a view to its `wanted` lens."""
        if view.is_writing and view.wanted.number == view.writing_number:
            # The client takes a second batch with this number for the next part of the first, so it is sent later.
            view.is_behind = True
            return
        if view.has is None or view.is_writing or view.is_behind:
            self._reset(view)
            return
        old, new = view.has, view.wanted
        if old == new:
            return
        if not view.has_room:
            self._skip(view)
            return
        entered, left = self._difference(old, new)
        if not entered and not left and old.number == new.number:
            view.has = new
            self._watch(view, new.area)
            return

        lines: Iterable[bytes] = self._entered_lines(entered, left, new, self._tick)
        if len(entered) <= _ENTERED_AT_ONCE and view.has_room:
            lines = list(lines)
        self._begin(view, "entered", new, lines)

    def _difference(self, old: Lens, new: Lens) -> tuple[list[Item], dict[str, list[str]]]:
        """The items that only the new lens lets through, and the keys of those that only the old one did."""
        old_selector, new_selector = self._selector(old), self._selector(new)
        entered = self._only_in(new, old, new_selector, old_selector)
        left: dict[str, list[str]] = {}
        for item in self._only_in(old, new, old_selector, new_selector):
            left.setdefault(item.topic, []).append(item.key)
        return entered, left

    def _only_in(self, here: Lens, there: Lens, selector: Selector, other: Selector) -> list[Item]:
        """The items that the lens `here` lets through with its selector, and `there` does not with the other one."""
        index, matches = self._index(here.area.level), selector.matches
        if selector is other:
            found = index.items_in(here.area, without=there.area)
            if selector is Selector.everything:
                return found
            return [item for item in found if matches(item.topic, item.state.relevance)]  # type: ignore[union-attr]
        matches_there = other.matches
        only: list[Item] = []
        for item in index.items_in(here.area):
            state: State = item.state  # type: ignore[assignment]
            if not matches(item.topic, state.relevance):
                continue
            if not (is_in(state, there.area) and matches_there(item.topic, state.relevance)):
                only.append(item)
        return only

    def _entered_lines(self, entered: list[Item], left: dict[str, list[str]], lens: Lens, tick: int) -> Iterator[bytes]:
        for topic, keys in left.items():
            yield from left_lines(topic, keys)
        yield from self._position_lines(dict.fromkeys(item.topic for item in entered))
        for item in entered:
            state = item.state
            # It may have changed since the batch began.
            if state is not None and (item.tick <= tick or _is_seen(state, lens)):
                yield state.frame

    def _reset(self, view: View) -> None:
        """Send a view everything that its lens lets through. Items that the client has already are only named."""
        # After a batch that was written in part, it is unknown what the client has, so it gets everything.
        has, positions = (None, None) if view.is_writing else (view.has, view.positions)
        new, tick, known = view.wanted, view.tick, self._positions

        def is_same(item: Item, state: State) -> bool:
            if has is not None:
                return item.tick <= tick and _is_seen(state, has)
            at = positions.get(state.topic) if positions else None
            return at is not None and at.epoch == known[state.topic].epoch and state.offset <= at.offset

        is_first = view.has is None and not view.is_writing
        preface = messages.subscribed_view(view.name, view.view_id) if is_first else None
        self._begin(view, "reset", new, self._reset_lines(new, is_same, self._tick), preface=preface)

    def _reset_lines(self, lens: Lens, is_same: Callable[[Item, State], bool], tick: int) -> Iterator[bytes]:
        # Only now: views of a client that does not read must not keep a list of everything each.
        items = self._index(lens.area.level).items_in(lens.area)
        matches, area = self._selector(lens).matches, lens.area
        same: dict[str, list[str]] = {}
        positions: set[str] = set()
        for item in items:
            state = item.state
            if state is None or not matches(item.topic, state.relevance) or item.topic not in self._positions:
                continue
            # It may have moved since the batch began.
            if item.tick > tick and not is_in(state, area):
                continue
            topic = state.topic
            if topic not in positions:
                positions.add(topic)
                yield from self._position_lines([topic])
            if not is_same(item, state):
                yield state.frame
                continue
            keys = same.setdefault(topic, [])
            keys.append(state.relevance.key)
            if len(keys) == _SAME_AT_A_TIME:
                yield from same_lines(topic, same.pop(topic))
        for topic, keys in same.items():
            yield from same_lines(topic, keys)

    def _begin(
        self, view: View, batch: str, lens: Lens, lines: Iterable[bytes], *, preface: bytes | None = None
    ) -> None:
        view.is_behind = False
        self._counters.batch_count += 1
        self._counters.written_bytes += view.begin(batch, lens, lines, tick=self._tick, preface=preface)
        if view.is_writing:
            self._slow[view] = None
        else:
            self._watch(view, lens.area)

    def _catch_up(self, view: View) -> None:
        """Continue with a view whose client reads slowly."""
        self._counters.written_bytes += view.go_on()
        if view.is_writing:
            return
        self._watch(view, view.has.area)  # type: ignore[union-attr]
        if not view.is_behind:
            del self._slow[view]
        elif view.has_room:
            del self._slow[view]
            self._reset(view)

    def _watch(self, view: View, area: Area | None) -> None:
        """From now on, the view is sent what changes in this area; None for nothing."""
        if area == view.watched:
            return
        before, view.watched = view.watched, area
        old = view.tiling.all
        view.tiling = NO_TILES if area is None else Tiling.of(area)
        new = view.tiling.all
        if before is not None:
            watchers = self._watchers[before.level]
            for key in old if area is None or area.level != before.level else old - new:
                del watchers[key][view]
                if not watchers[key]:
                    del watchers[key]
            if not watchers:
                del self._watchers[before.level]
        if area is not None:
            watchers = self._watchers.setdefault(area.level, {})
            for key in new:
                watchers.setdefault(key, {})[view] = None

    def _guard(self, view: View, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(view, *arguments)
        except Exception:
            # Only this view failed. It is unknown what its client has now, so the connection is closed.
            self._counters.failed_count += 1
            logger.exception("a view of %s could not be served", self.name)
            self.leave(view)
            view.sink.close(CloseCode.WRITE_FAILED, "a write failed: come back with the last positions")

    def _selector(self, lens: Lens) -> Selector:
        """The selector of a lens, without its level if no state is above it: more views share that selector."""
        return lens.selector.for_levels_up_to(self._highest_level)

    def _position_lines(self, topics: Iterable[str]) -> list[bytes]:
        return [messages.position(topic, self._positions[topic]) for topic in topics if topic in self._positions]

    async def _prepare_index(self, level: int, pause: "_Pause") -> None:
        """Make the index of a level, if there is none."""
        if level not in self._indexes:
            for _ in self._made_index(level):
                await pause.make_way()

    def _index(self, level: int) -> TileIndex:
        if level not in self._indexes:
            for _ in self._made_index(level):
                pass
        return self._indexes[level]

    def _made_index(self, level: int) -> Iterator[None]:
        """Make an index, in steps."""
        if len(self._indexes) >= _INDEXES_KEPT:
            used = {lens.area.level for view in self._views for lens in (view.has, view.wanted) if lens is not None}
            for unused in self._indexes.keys() - used:
                del self._indexes[unused]
        index = TileIndex(level)
        for items in self._items.values():
            for number, item in enumerate(items.values(), 1):
                index.replace(item, None, item.state)
                if not number % 200:
                    yield
        self._indexes[level] = index


class _Pause:
    """Yields to other tasks when a slice of time is used up."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _SLICE_SECONDS

    async def make_way(self) -> None:
        if self._loop.time() >= self._until:
            await asyncio.sleep(0)
            self._until = self._loop.time() + _SLICE_SECONDS


def _is_seen(state: State, lens: Lens) -> bool:
    return is_in(state, lens.area) and lens.selector.matches(state.topic, state.relevance)
