"""
The views of one family in this process: what each is sent, and when.

Owns the ticks, and which batch a view is sent. Does not own the items (mirror), the content of a batch (batches, parts)
nor writing it (view).

Changes are gathered, and applied to the items in ticks. In each tick, every view is then brought to the new state, with
one write of the changes that it lets through. Publications that arrive during a tick wait for the next one. So a whole
tick sees one state, although it yields to other tasks, and between ticks the state stays the same. A view that joins,
or whose client has a new filter, does not wait for the next tick: it is served from the present state.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from realtime.broker.publication import Position
from realtime.exceptions import SubscriptionClosed
from realtime.live.batches import difference, entered_lines, entered_lines_now, is_seen, reset_lines
from realtime.live.changes import Changes, by_level, stay_bits
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import Item, State
from realtime.live.mirror import Mirror, Reload, thinned
from realtime.live.parts import NO_LINES, Part, Parts
from realtime.live.pause import Pause
from realtime.live.places import Area
from realtime.live.view import Lens, View
from realtime.live.watchers import NO_TILES, Tiling, Watchers
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode

__all__ = ["Scene"]

logger = logging.getLogger(__name__)

# A loaded topic waits at most this long for others, so that they share a tick.
_RELOAD_SECONDS: Final = 0.02
# If more publications, or more keys of reloads, wait for the next tick, those that later ones replace are dropped. This
# is repeated only when twice as many wait as were kept, so its cost for each publication is limited.
_WAITING_LIMIT: Final = 20_000
# How long a client that reads slowly waits for more, at most.
_CATCH_UP_SECONDS: Final = 0.05
# The pause after a tick that failed. All snapshots may be read again then, so failures must not repeat fast.
_FAILED_SECONDS: Final = 1.0
# Up to this many items that enter a view are written at once. More are written in parts.
_ENTERED_AT_ONCE: Final = 500


class Scene:
    """
    Belongs to one event loop.

    Args:
        name: Of the family, for the log.
        gather_seconds: The shortest time between two ticks. The first change after a pause does not wait.
        counters: The counters of the event loop.
        on_lost: Called when changes could not be applied. It must have all topics reloaded, because their items are
            forgotten.

    Guarantees:
        After each tick, every view whose client reads fast enough has exactly the items that its lens lets through, in
        their newest state. A client never gets an older state of a key after a newer one.
    """

    def __init__(
        self, name: str, *, gather_seconds: float, counters: Counters, on_lost: Callable[[], None] = lambda: None
    ) -> None:
        self.name, self._gather_seconds, self._counters, self._on_lost = name, gather_seconds, counters, on_lost
        self._mirror = Mirror(counters)
        self._views: dict[View, None] = {}
        # Level → the views of this level that are sent changes now. Those whose clients read slowly are not.
        self._watchers: dict[int, Watchers[View]] = {}
        # What the next tick applies, in order: states of publications, and whole topics. Beyond a limit it is thinned.
        self._incoming: deque[State | Reload] = deque()
        self._waiting_limit = _WAITING_LIMIT
        # Views that have joined or have a new `wanted` lens; and views whose clients read slowly.
        self._renewed: dict[View, None] = {}
        self._slow: dict[View, None] = {}
        # Views without a first batch, and the futures of `join`.
        self._joining: dict[View, asyncio.Future[None]] = {}
        # The reloads that wait for the next tick, counted together with their keys. Views that join wait with them,
        # because they may need the items.
        self._reload_size = 0
        self._tick = 0
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None
        # Set when a view is to be renewed.
        self._is_woken = asyncio.Event()
        # Whether the only work is to check the slow views again later.
        self._is_idle = False

    # From feeds -------------------------------------------------------------------------------------------------------

    def take(self, states: Sequence[State]) -> None:
        """Publications of one topic, in their order."""
        self._incoming += states
        if len(self._incoming) > self._waiting_limit:
            self._thin()
        self._wake()

    def reload(self, topic: str, position: Position, states: dict[str, State]) -> None:
        """All keys of a topic as they are in Redis. Other keys of the topic have been removed."""
        self._reload(Reload(topic, position, states))

    def forget(self, topic: str) -> None:
        """No view needs the topic now: remove its items."""
        self._reload(Reload(topic, Position(0, ""), {}, is_forgotten=True))

    def _reload(self, loaded: Reload) -> None:
        self._incoming.append(loaded)
        self._reload_size += 1 + len(loaded.states)
        if self._reload_size > self._waiting_limit:
            self._thin()
        # Views that wait for the topic show nothing of it yet.
        self._next_at = min(self._next_at, asyncio.get_running_loop().time() + _RELOAD_SECONDS)
        self._is_woken.set()
        self._wake()

    def _thin(self) -> None:
        """A tick takes long: drop what waits for the next one and is replaced by something newer."""
        count = len(self._incoming)
        self._incoming = thinned(self._incoming)
        self._counters.thinned_count += count - len(self._incoming)
        self._reload_size = sum(1 + len(each.states) for each in self._incoming if isinstance(each, Reload))
        self._waiting_limit = max(_WAITING_LIMIT, 2 * max(len(self._incoming), self._reload_size))

    # From views -------------------------------------------------------------------------------------------------------

    def join(self, view: View) -> asyncio.Future[None]:
        """
        Add a view. Its first batch is written soon.

        Returns:
            Done when that batch was begun; fails with SubscriptionClosed if the view leaves before.
        """
        future = self._joining[view] = asyncio.get_running_loop().create_future()
        self._views[view] = None
        self._counters.view_count += 1
        self._renewed[view] = None
        self._is_woken.set()
        self._wake()
        return future

    def renew(self, view: View) -> None:
        """The view has a new `wanted` lens, which soon applies."""
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
        self._renewed.pop(view, None)
        future = self._joining.pop(view, None)
        if future is not None and not future.done():
            future.set_exception(SubscriptionClosed())
            # Marks the exception as retrieved, because no task may be waiting.
            future.exception()

    async def stop(self) -> None:
        """End the ticks. The scene is not used after this."""
        for view in tuple(self._views):
            self.leave(view)
        self._mirror.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # Ticks ------------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"ticks of {self.name}")
        elif self._is_idle:
            self._is_woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._incoming or self._renewed or self._slow:
            # What arrives at the same moment is handled together.
            await asyncio.sleep(0)
            if not self._incoming and not self._renewed:
                self._is_idle = True
                await self._sleep(_CATCH_UP_SECONDS)
                self._is_idle = False
            elif loop.time() < self._next_at and (self._reload_size or not self._renewed):
                await self._sleep(self._next_at - loop.time())
            try:
                if loop.time() >= self._next_at:
                    self._next_at = loop.time() + self._gather_seconds
                    await self._run_tick()
                elif not self._reload_size:
                    await self._serve_views(self._take_renewed(), Pause())
            except Exception:
                # It is unknown what the clients have now.
                logger.exception("a tick of %s failed: the connections of its views are closed", self.name)
                for view in tuple(self._views):
                    self._fail(view)
                await asyncio.sleep(_FAILED_SECONDS)
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
        pause = Pause()
        self._tick += 1
        self._counters.tick_count += 1
        # Only these are served in this tick: a view that joins during it may need items that are not applied yet.
        renewed = self._take_renewed()
        incoming, self._incoming, self._reload_size = self._incoming, deque(), 0
        self._waiting_limit = _WAITING_LIMIT
        has_limits = any(view.has is not None and view.has.selector.limits is not None for view in self._views)
        bits = stay_bits(self._watchers, has_limits=has_limits)
        try:
            changes, loaded, restarted = await self._mirror.apply(
                incoming, tick=self._tick, stay_bits=bits, pause=pause
            )
        except Exception:
            # The rest of the changes is lost, and items and indexes may differ.
            self._mirror.clear()
            self._mirror = Mirror(self._counters)
            self._on_lost()
            raise
        untold = await self._find_untold(loaded, restarted, pause)
        await self._send_changes(changes, untold, pause, has_limits=has_limits)
        await self._serve_views(renewed, pause)

    def _take_renewed(self) -> dict[View, None]:
        renewed, self._renewed = self._renewed, {}
        return renewed

    async def _serve_views(self, renewed: Iterable[View], pause: Pause) -> None:
        """Bring views to their new lenses, and continue with those whose clients read slowly."""
        # A view may leave whenever other tasks run.
        for view in renewed:
            if not view.is_over:
                await self._mirror.prepare(view.wanted.area.level, self._levels, pause)
            if not view.is_over:
                self._guard(view, self._renew)
                future = self._joining.pop(view, None)
                if future is not None and not future.done():
                    future.set_result(None)
            await pause.make_way()
        for view in tuple(self._slow):
            if not view.is_over:
                self._guard(view, self._catch_up)
            await pause.make_way()

    def _levels(self) -> set[int]:
        """The levels that views use. Views whose clients read slowly count too: they will use their levels again."""
        slow = [level for view in self._slow for level in (view.lens.area.level, view.wanted.area.level)]
        return {*self._watchers, *slow}

    async def _find_untold(self, loaded: frozenset[str], restarted: frozenset[str], pause: Pause) -> list[View]:
        """The views whose clients must be told the position of topics that were loaded, or that have a new epoch."""
        found: list[View] = []
        begun = loaded | restarted
        if not begun:
            return found
        for number, view in enumerate(tuple(self._views), 1):
            # A view may also have items of topics that only other views need.
            untold = begun & view.topics | (view.has or view.wanted).among(restarted)
            if untold:
                view.untold |= untold
                found.append(view)
            if not number % 200:
                await pause.make_way()
        return found

    async def _send_changes(self, changes: Changes, untold: list[View], pause: Pause, *, has_limits: bool) -> None:
        """Send views what changed. The `untold` ones are also sent positions, even if nothing changed for them."""
        if not changes and not untold:
            return
        sent_count = 0
        if changes:
            for view in self._slow:
                if not view.is_behind:
                    view.is_behind = True
                    self._counters.skipped_count += 1
        levels = by_level(self._watchers, changes, has_limits=has_limits)
        await pause.make_way()
        for level, level_changes in levels.items():
            watchers = self._watchers.get(level)
            if watchers is None:
                # Its views have left meanwhile.
                continue
            parts = Parts(level_changes, self._lens_of)
            for _ in parts.collect(watchers):
                await pause.make_way()
            for view in untold:
                if view.watched is not None and view.watched.level == level:
                    parts.add(view)
            for view, part in parts.items():
                if view.is_over:
                    continue
                if not view.has_room:
                    self._skip(view)
                    continue
                self._guard(view, self._send_to, part)
                sent_count += 1
                if not sent_count % 8:
                    await pause.make_way()

    def _lens_of(self, view: View) -> tuple[Area, Selector]:
        lens: Lens = view.has  # type: ignore[assignment]
        return lens.area, self._mirror.shared(lens.selector)

    def _send_to(self, view: View, part: Part | None) -> None:
        """Send a view its changes, if any, after the positions that its client does not know."""
        has: Lens = view.has  # type: ignore[assignment]
        lines = NO_LINES if part is None else part.lines()
        positions = self._mirror.position_lines(view.tell(has)) if view.untold else []
        if not lines.line_count and not positions:
            return
        written_bytes = view.write_changes(lines, positions)
        if not written_bytes:
            self._skip(view)
            return
        self._counters.written_bytes += written_bytes
        self._counters.delivery_count += lines.line_count
        self._counters.batch_count += 1

    def _skip(self, view: View) -> None:
        """Send a view nothing now: a "reset" batch follows when its socket has room."""
        view.is_behind, view.tick = True, self._tick - 1
        self._counters.skipped_count += 1
        self._slow[view] = None
        self._watch(view, None)

    def _renew(self, view: View) -> None:
        """Bring a view to its `wanted` lens."""
        if view.is_writing and view.wanted.number == view.lens.number:
            # The view waits: its client could not tell a second batch with this number from the rest of the first one.
            view.is_behind = view.is_behind or view.wanted != view.lens
            return
        if view.has is None or view.is_writing or view.is_behind:
            self._reset(view)
            return
        old, new = view.has, view.wanted
        if not view.has_room:
            if old != new:
                self._skip(view)
            return
        if old == new:
            self._send_to(view, None)
            return
        entered, left = difference(self._mirror, old, new)
        if not entered and not left and old.number == new.number:
            view.has = new
            self._watch(view, new.area)
            self._send_to(view, None)
            return
        positions = self._mirror.position_lines({*view.tell(new), *[item.topic for item in entered]})
        lines: Iterable[bytes]
        if len(entered) <= _ENTERED_AT_ONCE:
            lines = entered_lines_now(positions, entered, left)
        else:
            lines = entered_lines(positions, entered, left, new, self._tick)
        self._begin(view, "entered", new, lines)

    def _reset(self, view: View) -> None:
        """Send a view everything that its lens lets through. Of items that the client has already, only the keys."""
        # If a batch was written only in part, it is unknown what the client has, so it gets everything.
        has, positions = (None, None) if view.is_writing else (view.has, view.positions)
        new, tick, epoch = view.wanted, view.tick, self._mirror.epoch

        def is_same(item: Item, state: State) -> bool:
            if has is not None:
                return item.tick <= tick and is_seen(state, has)
            at = positions.get(state.topic) if positions else None
            return at is not None and at.epoch == epoch(state.topic) and state.offset <= at.offset

        is_first = view.has is None and not view.is_writing
        preface = messages.subscribed_view(view.name, view.view_id) if is_first else None
        view.tell(new)
        lines = reset_lines(self._mirror, new, is_same, tick=self._tick, topics=new.among(view.topics))
        self._begin(view, "reset", new, lines, preface=preface)

    def _begin(
        self, view: View, batch: str, lens: Lens, lines: Iterable[bytes], *, preface: bytes | None = None
    ) -> None:
        view.is_behind = False
        self._counters.batch_count += 1
        self._counters.written_bytes += view.begin(batch, lens, lines, tick=self._tick, preface=preface)
        if view.is_writing:
            self._slow[view] = None
            self._watch(view, None)
        else:
            self._watch(view, lens.area)

    def _catch_up(self, view: View) -> None:
        """Continue with a view whose client reads slowly."""
        self._counters.written_bytes += view.go_on()
        if view.is_writing:
            return
        if not view.is_behind:
            del self._slow[view]
            self._watch(view, view.has.area)  # type: ignore[union-attr]
        elif view.has_room:
            del self._slow[view]
            self._reset(view)

    def _watch(self, view: View, area: Area | None) -> None:
        """From now on, the view is sent what changes in this area; None for nothing."""
        before, old = view.watched, view.tiling
        if area == before:
            return
        view.watched = area
        new = view.tiling = NO_TILES if area is None else Tiling.of(area)
        if area is not None:
            same = before is not None and before.level == area.level
            watchers = self._watchers.setdefault(area.level, Watchers())
            watchers.change(view, old if same else NO_TILES, new)
            if same:
                return
        if before is not None:
            watchers = self._watchers[before.level]
            watchers.change(view, old, NO_TILES)
            if not watchers:
                del self._watchers[before.level]

    def _guard(self, view: View, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(view, *arguments)
        except Exception:
            # Only this view is closed: it is unknown what its client has now.
            logger.exception("a view of %s could not be served", self.name)
            self._fail(view)

    def _fail(self, view: View) -> None:
        """Close the connection of a view; its client connects again and resumes."""
        self._counters.failed_count += 1
        self.leave(view)
        try:
            view.end(CloseCode.WRITE_FAILED, "a write failed: come back with the last positions")
        except Exception:
            # Other views are still to be served.
            logger.exception("a connection of %s could not be closed", self.name)
