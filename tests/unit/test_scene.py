"""A scene against brute force: every view has exactly what its lens lets through, whatever happens."""

import asyncio
import json
import random
from collections.abc import Sequence

import pytest

from realtime.broker.publication import Position
from realtime.broker.relevance import Relevance
from realtime.hub.sinks import Frame
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import State, TileIndex, is_in
from realtime.live.places import area_of, box, level_limit, point
from realtime.live.scene import Scene
from realtime.live.view import Lens, View
from tests.support.relevances import state_with
from tests.support.scenes import FEEDS, at_place, joined, lens_at, rest, vehicle
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until

MODES = ("rail", "tram", "bus")


class World:
    """The truth: what a snapshot in Redis would have."""

    def __init__(self, scene: Scene, random_: random.Random) -> None:
        self.scene, self.random = scene, random_
        self.offsets = dict.fromkeys(FEEDS, 0)
        self.epochs = dict.fromkeys(FEEDS, "e0")
        self.states: dict[str, dict[str, State]] = {feed: {} for feed in FEEDS}
        # Publications that are taken in the next step.
        self.waiting: list[State] = []
        for feed in FEEDS:
            scene.reload(feed, Position(0, "e0"), {})

    def place(self) -> tuple[int, ...] | None:
        dice = self.random.random()
        longitude, latitude = self.random.uniform(-180, 180), self.random.uniform(-90, 90)
        if dice < 0.5:
            # Many of them near each other, and near longitude 180.
            longitude, latitude = 180 + self.random.uniform(-2, 2), 10 + self.random.uniform(-2, 2)
        if dice < 0.8:
            return point(longitude, latitude)
        if dice < 0.83:
            return None
        width, height = self.random.choice([(0.01, 0.01), (1, 2), (90, 30), (359, 10)])
        return (
            box(longitude, max(latitude - height, -90), longitude - 360 + width, latitude)
            if longitude > 180
            else box(longitude, max(latitude - height, -90), min(longitude + width, 360), latitude)
        )

    def publish(self, feed: str, key: str) -> State:
        self.offsets[feed] += 1
        offset = self.offsets[feed]
        is_removed = self.random.random() < 0.1
        relevance = Relevance(
            key,
            None if is_removed else self.place(),
            {"mode": self.random.choice(MODES)},
            self.random.choice([0, 0, 5, 12]),
            is_removed,
        )
        frame = json.dumps({"type": "message", "topic": feed, "offset": offset, "key": key}).encode()
        state = state_with(feed, offset, frame, relevance)
        if is_removed:
            self.states[feed].pop(key, None)
        else:
            self.states[feed][key] = state
        return state

    def step(self) -> None:
        self.scene.take(self.waiting)
        self.waiting = []
        feed = self.random.choice(FEEDS)
        dice = self.random.random()
        if dice < 0.02:
            # Redis has lost everything.
            self.epochs[feed] = f"e{self.random.random()}"
            self.offsets[feed] = 0
            self.states[feed] = {}
            self.reload(feed)
        elif dice < 0.06:
            # Some publications were missed.
            for _ in range(5):
                self.publish(feed, f"k{self.random.randrange(80)}")
            self.reload(feed)
        elif dice < 0.1:
            # Publications that arrived while the snapshot was read, which has some of them already.
            at = self.offsets[feed]
            states = [self.publish(feed, f"k{self.random.randrange(80)}") for _ in range(5)]
            self.scene.reload(feed, Position(at, self.epochs[feed]), dict(self.states[feed]))
            self.waiting = states
        elif dice < 0.11:
            self.scene.forget(feed)
            self.reload(feed)
        else:
            self.scene.take(
                [self.publish(feed, f"k{self.random.randrange(80)}") for _ in range(self.random.randrange(1, 6))]
            )

    def reload(self, feed: str) -> None:
        self.scene.reload(feed, Position(self.offsets[feed], self.epochs[feed]), dict(self.states[feed]))

    def lens(self, number: int) -> Lens:
        zoom = self.random.uniform(0, 18)
        bbox: Sequence[float] | None = None
        if self.random.random() < 0.9:
            width, height = self.random.choice([(0.5, 0.4), (3, 2), (40, 20), (360, 170)])
            west, south = 180 + self.random.uniform(-3, 3), self.random.uniform(5, 12)
            if self.random.random() < 0.3:
                west, south = self.random.uniform(-540, 540), self.random.uniform(-90, 80)
            bbox = [west, max(south - height / 2, -90), west + width, min(south + height / 2, 90)]
        tags = self.random.choice([None, None, {"mode": "tram"}, {"mode": ["rail", "bus"]}])
        topics = self.random.choice([None, None, frozenset(FEEDS[:2])])
        limits = self.random.choice([None, None, [box(179.1, 9.3, -179.1, 10.7)]])
        selector = Selector.of(max_level=level_limit(bbox, zoom), tags=tags, topics=topics, limits=limits)
        return Lens(area_of(bbox), selector, number)

    def seen(self, lens: Lens) -> dict[tuple[str, str], int]:
        return {
            (feed, key): state.offset
            for feed, states in self.states.items()
            for key, state in states.items()
            if is_in(state, lens.area) and lens.selector.matches(state)
        }


@pytest.mark.parametrize("seed", range(20))
async def test_every_view_equals_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is published, lost, reloaded, panned, or read slowly: at rest each view is what brute force finds."""
    # Small frames, so that batches are written in parts.
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    if seed % 3 == 0:
        # What waits for a tick is thinned.
        monkeypatch.setattr("realtime.live.scene._WAITING_LIMIT", 3)
    dice = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    # With a pause between ticks, some views are served in it.
    scene = Scene("vehicles.*", gather_seconds=0.003 * (seed % 2), counters=Counters())
    world = World(scene, dice)
    viewers: list[tuple[Viewer, View]] = []
    for step in range(300):
        world.step()
        if step < 12:
            viewer = Viewer()
            view = View(view_id=f"v{step}", name="vehicles.*", sink=viewer, lens=world.lens(1), positions=None)
            view.topics = view.untold = frozenset(FEEDS)
            scene.join(view)
            viewers.append((viewer, view))
        viewer, view = dice.choice(viewers)
        action = dice.random()
        if action < 0.3:
            # The same number: the topics that it may be sent are others, or there are more of them.
            view.wanted = world.lens(view.wanted.number + dice.choice([0, 1, 1]))
            scene.renew(view)
        elif action < 0.4:
            viewer.is_stuck = True
        elif action < 0.6:
            viewer.is_stuck, viewer.unsent = False, 0
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if not step % 50:
            for each, _ in viewers:
                each.is_stuck, each.unsent = False, 0
            world.scene.take(world.waiting)
            world.waiting = []
            await rest(scene)
            for each, its_view in viewers:
                assert not each.closed
                assert each.is_complete
                assert each.items == world.seen(its_view.wanted)
                assert each.numbers[-1] == its_view.wanted.number
                assert all(each.epochs[feed] == world.epochs[feed] for feed, _ in each.items)
    await scene.stop()


async def test_a_view_does_not_wait_for_the_next_tick() -> None:
    """What its client asks for is sent at once. Only changes are gathered."""
    scene = Scene("vehicles.*", gather_seconds=3_600, counters=Counters())
    scene.reload(FEEDS[0], Position(2, "e0"), {"a": vehicle("a", 1, 0), "b": vehicle("b", 2, 50)})
    viewer, view = await joined(scene, lens_at(0, 1))
    scene.take([vehicle("late", 3, 50)])
    view.wanted = lens_at(50, 2)
    scene.renew(view)
    await wait_until(lambda: viewer.numbers[-1] == 2)
    other, _ = await joined(scene, lens_at(50, 1))
    assert (viewer.keys, other.keys) == ({"b"}, {"b"})
    await scene.stop()


async def test_a_topic_that_was_loaded_does_not_wait_for_the_next_tick() -> None:
    """A view that joins needs it."""
    scene = Scene("vehicles.*", gather_seconds=3_600, counters=Counters())
    scene.reload(FEEDS[0], Position(1, "e0"), {"a": vehicle("a", 1, 0)})
    await joined(scene, lens_at(0, 1))
    scene.reload(FEEDS[0], Position(2, "e0"), {"a": vehicle("a", 1, 0), "b": vehicle("b", 2, 0)})
    viewer, _ = await joined(scene, lens_at(0, 1))
    assert viewer.keys == {"a", "b"}
    await scene.stop()


async def test_a_batch_that_was_cut_leaves_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that got a part of what left, and moves its map back, is sent every item, not only the names of keys."""
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    here = {f"here{number}": vehicle(f"here{number}", number, 0) for number in range(1, 5)}
    there = {f"there{number}": vehicle(f"there{number}", number, 50) for number in range(5, 15)}
    scene.reload(FEEDS[0], Position(14, "e0"), here | there)
    viewer, view = await joined(scene, lens_at(0, 1))
    await rest(scene)
    assert {key for _, key in viewer.items} == here.keys()

    viewer.is_stuck = True
    view.wanted = lens_at(50, 2)
    scene.renew(view)
    await wait_until(lambda: not viewer.is_complete)
    assert not {key for _, key in viewer.items} & here.keys()
    view.wanted = lens_at(0, 3)
    scene.renew(view)
    await asyncio.sleep(0.01)
    viewer.is_stuck, viewer.unsent = False, 0
    await rest(scene)
    assert {key for _, key in viewer.items} == here.keys()
    assert viewer.batches[-1] == "reset"
    await scene.stop()


async def test_a_late_publication_does_not_replace_a_newer_snapshot() -> None:
    """A snapshot may have a publication that is still on its way: its older ones are ignored when they arrive."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(3, "e0"), {"k": vehicle("k", 5, 0)})
    viewer, _ = await joined(scene, lens_at(0, 1))
    scene.take([vehicle("k", 4, 0)])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "k"): 5}
    scene.take([vehicle("k", 6, 0)])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "k"): 6}
    await scene.stop()


async def test_a_client_that_reads_slowly_is_not_sent_what_it_cannot_read() -> None:
    """It gets the newest state once it reads again, and not all that happened; others are not affected."""
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(2, "e0"), {"k": vehicle("k", 1, 0), "still": vehicle("still", 2, 0)})
    slow, _ = await joined(scene, lens_at(0, 1))
    quick, _ = await joined(scene, lens_at(0, 1))
    slow.unsent = 900
    for offset in range(3, 103):
        scene.take([vehicle("k", offset, 0)])
        await asyncio.sleep(0)
        await wait_until(lambda: quick.items.get((FEEDS[0], "k"), 0) >= offset)  # noqa: B023 - awaited at once
    assert slow.items[FEEDS[0], "k"] == 1
    assert counters.skipped_count == 1
    slow.unsent = 0
    await rest(scene)
    assert slow.items == quick.items == {(FEEDS[0], "k"): 102, (FEEDS[0], "still"): 2}
    assert slow.batches == ["reset", "reset"]
    await scene.stop()


async def test_changes_that_are_too_large_for_one_write_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage much changes at once. A client that reads fast enough is not closed for what waits for it."""
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    viewer, _ = await joined(scene, lens_at(3, 1))
    viewer.is_stuck = True
    scene.take([vehicle(f"k{number}", number, 3) for number in range(1, 51)])
    await wait_until(lambda: viewer.unsent > 0)
    assert viewer.unsent <= viewer.limit_bytes
    viewer.is_stuck, viewer.unsent = False, 0
    await rest(scene)
    assert viewer.items == {(FEEDS[0], f"k{number}"): number for number in range(1, 51)}
    await scene.stop()


async def test_views_of_a_client_that_does_not_read_keep_no_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch has is found when its first part can be sent: a client may open many views, and read none."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    scene.take([vehicle("a", 1, 3), vehicle("b", 2, 4)])
    viewer, view = await joined(scene, lens_at(3, 1))
    found: list[object] = []
    items_in = TileIndex.items_in
    monkeypatch.setattr(TileIndex, "items_in", lambda *given, **rest: found.append(given) or items_in(*given, **rest))
    viewer.unsent = viewer.limit_bytes
    late = Viewer()
    late.unsent = late.limit_bytes
    scene.join(View(view_id="v2", name="vehicles.*", sink=late, lens=lens_at(3, 1), positions=None))
    view.wanted = lens_at(4, 2)
    scene.renew(view)
    await wait_until(lambda: late.is_started)
    assert not found
    viewer.unsent = late.unsent = 0
    await rest(scene)
    assert (viewer.keys, late.keys) == ({"b"}, {"a"})
    await scene.stop()


@pytest.mark.parametrize("cells", range(4))
async def test_the_smallest_step_across_the_edge_of_a_view_leaves_it(cells: int) -> None:
    """Wherever the edge is in the grid of the tiles."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    lens = lens_at(3 + cells * 360 / (16 << lens_at(3, 1).area.level), 1)
    viewer, _ = await joined(scene, lens)
    ((x0, y0, x1, y1),) = lens.area.rectangles
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    steps = {
        "west": ((x0, y), (x0 - 1, y)),
        "east": ((x1, y), (x1 + 1, y)),
        "north": ((x, y0), (x, y0 - 1)),
        "south": ((x, y1), (x, y1 + 1)),
    }
    inside = [at_place(key, number, place) for number, (key, (place, _)) in enumerate(steps.items(), 1)]
    outside = [at_place(key, number, place) for number, (key, (_, place)) in enumerate(steps.items(), 5)]
    scene.take(inside)
    await rest(scene)
    assert viewer.keys == steps.keys()
    scene.take(outside)
    await rest(scene)
    assert viewer.keys == set()
    await scene.stop()


async def test_what_leaves_the_limits_of_the_site_leaves_the_view() -> None:
    """The site's box is exact: a short step across its edge counts, also within a cell of the view's grid."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    selector = Selector.of(limits=[box(-10, -10, 3.3, 10)])
    viewer, _ = await joined(scene, Lens(area_of([-180, -80, 180, 80]), selector, 1))
    scene.take([vehicle("a", 1, 3.299), vehicle("b", 2, 3.299)])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "a"): 1, (FEEDS[0], "b"): 2}
    scene.take([vehicle("a", 3, 3.301), vehicle("b", 4, 3.298)])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "b"): 4}
    await scene.stop()


async def test_a_view_that_fails_is_closed_alone() -> None:
    """The error is logged and counted, its client is asked to connect again, and the others get everything."""
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    bad, _ = await joined(scene, lens_at(0, 1))
    good, _ = await joined(scene, lens_at(0, 1))

    def refuse(frame: Frame) -> None:
        raise OSError("gone")

    bad.write = refuse  # type: ignore[method-assign]
    scene.take([vehicle("k", 1, 0)])
    await rest(scene)
    assert bad.closed
    assert good.items == {(FEEDS[0], "k"): 1}
    assert (counters.failed_count, counters.view_count) == (1, 1)
    await scene.stop()


async def test_after_a_tick_that_failed_all_clients_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they have now is unknown, so their connections are closed. The items are right, so they can resume."""
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    viewers = [(await joined(scene, lens_at(0, 1)))[0] for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr("realtime.live.scene.by_level", lambda *given: 1 / 0)
        scene.take([vehicle("k", 1, 0)])
        await rest(scene)
    assert all(viewer.closed for viewer in viewers)
    assert (counters.failed_count, counters.view_count) == (2, 0)
    viewer, _ = await joined(scene, lens_at(0, 1))
    assert viewer.items == {(FEEDS[0], "k"): 1}
    await scene.stop()


async def test_a_view_resumes_with_its_positions() -> None:
    """What is not newer than its position is named, not sent; of a topic in another epoch everything is sent."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(7, "e0"), {"old": vehicle("old", 3, 0), "new": vehicle("new", 7, 0)})
    for epoch, kept in (("e0", {"old"}), ("e1", set())):
        viewer = Viewer()
        viewer.items = {(FEEDS[0], "old"): 3, (FEEDS[0], "gone"): 2}
        positions = {FEEDS[0]: Position(5, epoch)}
        view = View(view_id="v", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=positions)
        await scene.join(view)
        assert viewer.items == {(FEEDS[0], "old"): 3, (FEEDS[0], "new"): 7}
        assert viewer.same == kept
    await scene.stop()
