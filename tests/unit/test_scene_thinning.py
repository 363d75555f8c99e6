"""What waits for the next tick is thinned beyond a limit: views end up with the same, and memory has a bound."""

import json
import random
from collections import deque

import pytest

from realtime.broker.publication import Position
from realtime.broker.relevance import Relevance
from realtime.live import scene as scene_module
from realtime.live.counters import Counters
from realtime.live.items import State
from realtime.live.mirror import Mirror, Reload, thinned
from realtime.live.pause import Pause
from realtime.live.places import Area, Box, point
from realtime.live.scene import Scene
from realtime.live.view import View
from tests.support.relevances import state_with
from tests.support.scenes import FEEDS, joined, lens_at, rest, vehicle
from tests.support.view_clients import Viewer

A, B, C = FEEDS
WORLD: tuple[Box, ...] = ((0, 0, (1 << 30) - 1, (1 << 30) - 1),)


def of(topic: str, key: str, offset: int, *, is_removed: bool = False) -> State:
    frame = json.dumps({"type": "message", "topic": topic, "offset": offset, "key": key}).encode()
    return state_with(topic, offset, frame, Relevance(key, None if is_removed else point(0, 0), {}, 0, is_removed))


def test_only_what_nothing_later_replaces_is_kept() -> None:
    """Of each topic the newest reload and what follows it, of each key its newest state; in the same order."""
    first, second = Reload(A, Position(5, "e0"), {}), Reload(A, Position(9, "e1"), {})
    a1, a2, a3 = of(A, "k", 8), of(A, "k", 10), of(A, "k", 11)
    other, b1, b2 = of(A, "other", 12), of(B, "k", 1), of(B, "k", 2, is_removed=True)
    gone = Reload(C, Position(0, ""), {}, is_forgotten=True)
    begun = Reload(C, Position(3, "e0"), {})
    everything = deque([a1, first, b1, gone, a1, second, a2, b2, a3, begun, other])
    assert list(thinned(everything)) == [second, b2, a3, begun, other]
    assert list(thinned(deque([begun, of(C, "k", 4), gone]))) == [gone]
    assert list(thinned(thinned(everything))) == [second, b2, a3, begun, other]
    assert not thinned(deque())


class Log:
    """Feeds at random: reads of snapshots, publications that follow them, and their ends."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
        self.epochs = dict.fromkeys(FEEDS, 0)
        self.offsets = dict.fromkeys(FEEDS, 0)
        self.truth: dict[str, dict[str, State]] = {feed: {} for feed in FEEDS}
        # Whether it is mirrored.
        self.is_on = dict.fromkeys(FEEDS, False)

    def next(self) -> list[State | Reload]:
        feed, dice = self.random.choice(FEEDS), self.random.random()
        if not self.is_on[feed] or dice < 0.05:
            self.is_on[feed] = True
            if self.random.random() < 0.3:
                self.epochs[feed] += 1
                self.offsets[feed], self.truth[feed] = 0, {}
            for _ in range(self.random.randrange(6)):
                self.publish(feed)
            position = Position(self.offsets[feed], f"e{self.epochs[feed]}")
            # The keys may have been read later than the position.
            late = [self.publish(feed) for _ in range(self.random.randrange(3))]
            return [Reload(feed, position, dict(self.truth[feed])), *late]
        if dice < 0.08:
            self.is_on[feed] = False
            return [Reload(feed, Position(0, ""), {}, is_forgotten=True)]
        return [self.publish(feed) for _ in range(self.random.randrange(1, 4))]

    def publish(self, feed: str) -> State:
        self.offsets[feed] += 1
        key = f"k{self.random.randrange(8)}"
        state = of(feed, key, self.offsets[feed], is_removed=self.random.random() < 0.3)
        self.truth[feed].pop(key, None)
        if not state.is_removed:
            self.truth[feed][key] = state
        return state


async def applied(mirror: Mirror, incoming: deque[State | Reload], tick: int) -> frozenset[str]:
    """The topics whose positions clients are told."""
    _, loaded, restarted = await mirror.apply(incoming, tick=tick, stay_bits=-1, pause=Pause())
    return loaded | restarted


def content(mirror: Mirror) -> dict[tuple[str, str], State | None]:
    return {(item.topic, item.key): item.state for item in mirror.items_in(Area(level=0, rectangles=WORLD))}


@pytest.mark.parametrize("seed", range(30))
async def test_to_apply_it_has_the_same_result(seed: int) -> None:
    """Whatever is thinned, and how often: the same items in the same epochs, and each new epoch is told."""
    log, dice = Log(seed), random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    whole, thin = Mirror(Counters()), Mirror(Counters())
    for tick in range(1, 60):
        everything: deque[State | Reload] = deque()
        kept: deque[State | Reload] = deque()
        for _ in range(dice.randrange(1, 25)):
            arrived = log.next()
            everything += arrived
            kept += arrived
            if dice.random() < 0.2:
                kept = thinned(kept)
        kept = thinned(kept)
        epochs = {feed: thin.epoch(feed) for feed in FEEDS}
        await applied(whole, everything, tick)
        told = await applied(thin, kept, tick)
        assert content(thin) == content(whole)
        assert [thin.epoch(feed) for feed in FEEDS] == [whole.epoch(feed) for feed in FEEDS]
        assert content(thin) == {
            (feed, key): state for feed in FEEDS if log.is_on[feed] for key, state in log.truth[feed].items()
        }
        assert told == {feed for feed in FEEDS if thin.epoch(feed) not in (None, epochs[feed])}
        assert thin._counters.item_count == whole._counters.item_count == len(content(thin))


async def test_the_publications_that_wait_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no tick ends, only the newest of each key waits. They are counted, and views get the newest."""
    monkeypatch.setattr(scene_module, "_WAITING_LIMIT", 100)
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(A, Position(0, "e0"), {})
    viewer, _ = await joined(scene, lens_at(0, 1), A)
    most = 0
    for offset in range(1, 2_001):
        scene.take([vehicle(f"k{offset % 10}", offset, 0)])
        most = max(most, len(scene._incoming))
    waiting = len(scene._incoming)
    assert most <= 100
    assert counters.thinned_count == 2_000 - waiting
    await rest(scene)
    assert viewer.items == {(A, f"k{offset % 10}"): offset for offset in range(1_991, 2_001)}
    await scene.stop()


async def test_thinning_costs_little_if_nothing_can_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many keys: it is done again only when twice as many wait. After a tick the limit is as at first."""
    monkeypatch.setattr(scene_module, "_WAITING_LIMIT", 100)
    counts: list[int] = []
    monkeypatch.setattr(scene_module, "thinned", lambda incoming: counts.append(len(incoming)) or thinned(incoming))
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(A, Position(0, "e0"), {})
    viewer, _ = await joined(scene, lens_at(0, 1), A)
    for _ in range(2):
        scene.take([vehicle("begins a tick", 1, 0)])
        await rest(scene)
        for offset in range(2, 1_602):
            scene.take([vehicle(f"k{offset}", offset, 0)])
        await rest(scene)
        assert counts == [101, 203, 407, 815]
        counts.clear()
    assert counters.thinned_count == 0
    assert len(viewer.items) == 1_601
    await scene.stop()


async def test_the_snapshots_that_wait_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each topic the newest waits, whatever else is published. A view that joins waits for it."""
    monkeypatch.setattr(scene_module, "_WAITING_LIMIT", 100)
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    most = 0
    for at in range(1, 101):
        states = {f"k{number}": vehicle(f"k{number}", at, 0) for number in range(30)}
        scene.reload(A, Position(at, "e0"), states)
        most = max(most, sum(len(each.states) for each in scene._incoming if isinstance(each, Reload)))
    scene.forget(B)
    assert most <= 100
    viewer = Viewer()
    view = View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None)
    view.topics = frozenset({A})
    await scene.join(view)
    assert (viewer.items, viewer.epochs) == ({(A, f"k{number}"): 100 for number in range(30)}, {A: "e0"})
    assert counters.thinned_count > 90
    await rest(scene)
    assert scene._reload_size == 0
    await scene.stop()


async def test_a_new_epoch_is_told_although_its_first_snapshot_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets begin again, and the client must know."""
    monkeypatch.setattr(scene_module, "_WAITING_LIMIT", 2)
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(A, Position(9, "e0"), {"k": vehicle("k", 9, 0), "old": vehicle("old", 8, 0)})
    viewer, _ = await joined(scene, lens_at(0, 1), A)
    scene.take([vehicle("k", 10, 0)])
    scene.reload(A, Position(0, "e1"), {})
    scene.take([vehicle("k", 1, 0), vehicle("k", 2, 0)])
    scene.reload(A, Position(3, "e1"), {"k": vehicle("k", 3, 0)})
    scene.take([vehicle("k", 4, 0), vehicle("k", 5, 0)])
    await rest(scene)
    assert viewer.items == {(A, "k"): 5}
    assert (viewer.epochs, viewer.restarted) == ({A: "e1"}, {A})
    await scene.stop()
