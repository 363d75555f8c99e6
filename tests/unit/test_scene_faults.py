"""A scene when something ends or fails in the middle: views that leave, ticks that raise, clients that read slowly."""

import asyncio
import json

import pytest

from realtime.broker.publication import Position
from realtime.broker.relevance import Relevance
from realtime.exceptions import SubscriptionClosed
from realtime.hub.sinks import FRAME_BYTES
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import State, TileIndex
from realtime.live.mirror import _INDEXES_KEPT
from realtime.live.places import area_of, point
from realtime.live.scene import Scene
from realtime.live.view import Lens, View
from tests.support.relevances import state_with
from tests.support.scenes import FEEDS, joined, lens_at, rest, vehicle
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until


@pytest.fixture
def yielding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks let other tasks run wherever they can."""
    monkeypatch.setattr("realtime.live.pause._SLICE_SECONDS", 0)


@pytest.mark.parametrize("turns", range(10))
@pytest.mark.usefixtures("yielding")
async def test_nothing_is_left_of_a_view_that_leaves_while_it_joins(turns: int) -> None:
    """Whenever that is, also while the index of its level is made: nothing is written to it, and it watches nothing."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(900, "e0"), {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 901)})
    viewer = Viewer()
    view = View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None)
    joining = scene.join(view)
    for _ in range(turns):
        await asyncio.sleep(0)
    is_joined = joining.done()
    scene.leave(view)
    written = viewer.is_started, list(viewer.batches)
    async with asyncio.timeout(60):
        if is_joined:
            await joining
        else:
            with pytest.raises(SubscriptionClosed):
                await joining
        await rest(scene)
    assert (viewer.is_started, viewer.batches) == written
    assert not scene._watchers
    assert not viewer.closed
    await scene.stop()


@pytest.mark.parametrize("turns", range(14))
@pytest.mark.usefixtures("yielding")
async def test_a_view_may_leave_while_changes_are_sent(turns: int) -> None:
    """Nothing is written to it after it has left, whether it was sent the changes before. The others get everything."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    views = [await joined(scene, lens_at(0, 1)) for _ in range(30)]
    await rest(scene)
    scene.take([vehicle("k", 1, 0)])
    for _ in range(turns):
        await asyncio.sleep(0)
    # Views are sent the changes in the order in which they joined: one leaves that is early, and one of the last.
    leaving = views[5], views[25]
    for _, view in leaving:
        scene.leave(view)
    written = [list(viewer.batches) for viewer, _ in leaving]
    await rest(scene)
    assert [viewer.batches for viewer, _ in leaving] == written
    assert all(viewer.keys == {"k"} for viewer, view in views if not view.is_over)
    assert sum(viewer.closed != "" for viewer, _ in views) == 0
    await scene.stop()
    assert not scene._watchers


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.usefixtures("yielding")
async def test_a_slow_view_may_leave_while_others_catch_up(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is written to it, and its connection, which has other subscriptions, stays open."""
    monkeypatch.setattr("realtime.live.scene._CATCH_UP_SECONDS", 0)
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    views = [await joined(scene, lens_at(0, 1)) for _ in range(4)]
    for viewer, _ in views:
        viewer.unsent = viewer.limit_bytes
    scene.take([vehicle("k", 1, 0)])
    await wait_until(lambda: counters.skipped_count == 4)
    for viewer, _ in views:
        viewer.unsent = 0
    for _ in range(turns):
        await asyncio.sleep(0)
    *_, (viewer, view) = views
    scene.leave(view)
    written = list(viewer.batches)
    await rest(scene)
    assert viewer.batches == written
    assert not viewer.closed
    assert counters.failed_count == 0
    assert all(each.keys == {"k"} for each, _ in views[:3])
    await scene.stop()


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.usefixtures("yielding")
async def test_views_that_join_while_the_scene_stops_do_not_wait_for_ever(turns: int) -> None:
    """Whether or not a tick has begun with them."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(900, "e0"), {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 901)})
    joining = scene.join(View(view_id="v1", name="vehicles.*", sink=Viewer(), lens=lens_at(0, 1), positions=None))
    for _ in range(turns):
        await asyncio.sleep(0)
    is_joined = joining.done()
    async with asyncio.timeout(60):
        await scene.stop()
        if not is_joined:
            with pytest.raises(SubscriptionClosed):
                await joining


async def test_views_that_join_in_a_tick_that_fails_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their connections are closed too."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    viewer = Viewer()
    with monkeypatch.context() as patch:
        patch.setattr("realtime.live.scene.by_level", lambda *given: 1 / 0)
        scene.take([vehicle("k", 1, 0)])
        joining = scene.join(View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None))
        async with asyncio.timeout(60):
            with pytest.raises(SubscriptionClosed):
                await joining
    assert viewer.closed
    await scene.stop()


async def test_a_topic_that_begins_again_concerns_only_its_own_views() -> None:
    """The others are sent nothing, however many topics the family has."""
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(1, "e0"), {"k": vehicle("k", 1, 0)})
    scene.reload(FEEDS[1], Position(1, "e0"), {})
    viewers = []
    for topic in FEEDS[:2]:
        lens = lens_at(0, 1)._replace(selector=Selector.of(topics=[topic]))
        viewers.append((await joined(scene, lens))[0])
    scene.reload(FEEDS[1], Position(1, "e1"), {})
    await rest(scene)
    assert [viewer.batches for viewer in viewers] == [["reset"], ["reset", "changes"]]
    assert counters.skipped_count == 0
    await scene.stop()


async def test_a_client_that_reads_slowly_costs_no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a time to gather changes too. And others do not wait until it is looked at again."""
    monkeypatch.setattr("realtime.live.scene._CATCH_UP_SECONDS", 3_600)
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    slow, _ = await joined(scene, lens_at(0, 1))
    slow.unsent = slow.limit_bytes
    scene.take([vehicle("k", 1, 0)])
    await wait_until(lambda: counters.skipped_count == 1)
    for _ in range(5):
        await asyncio.sleep(0)
    tick_count = counters.tick_count
    for _ in range(100):
        await asyncio.sleep(0)
    assert counters.tick_count == tick_count
    quick, _ = await joined(scene, lens_at(0, 1))
    assert quick.items == {(FEEDS[0], "k"): 1}
    for _ in range(5):
        await asyncio.sleep(0)
    scene.take([vehicle("k", 2, 0)])
    await wait_until(lambda: quick.items == {(FEEDS[0], "k"): 2})
    await scene.stop()


@pytest.mark.parametrize("is_begun", [False, True], ids=["first batch not begun", "changes skipped"])
async def test_the_index_of_a_slow_view_stays(is_begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its client reads again, its index would be made in one step, which stops all others for that long."""
    made: list[int] = []
    monkeypatch.setattr("realtime.live.mirror.TileIndex", lambda level: made.append(level) or TileIndex(level))
    monkeypatch.setattr("realtime.live.scene._CATCH_UP_SECONDS", 0.001)
    counters = Counters()
    scene = Scene("vehicles.*", gather_seconds=0, counters=counters)
    scene.reload(FEEDS[0], Position(0, "e0"), {"k": vehicle("k", 1, 0)})
    if is_begun:
        slow, _ = await joined(scene, lens_at(0, 1))
        slow.unsent = slow.limit_bytes
        scene.take([vehicle("k", 2, 0)])
        await wait_until(lambda: not scene._watchers)
    else:
        slow = Viewer()
        slow.unsent = slow.limit_bytes
        await scene.join(View(view_id="v1", name="vehicles.*", sink=slow, lens=lens_at(0, 1), positions=None))
    for width in (0.01, 0.1, 0.5, 4, 20, 60, 300):
        area = area_of([-width / 2, -width / 4, width / 2, width / 4])
        _, view = await joined(scene, Lens(area, Selector.of(), 1))
        scene.leave(view)
    assert len(set(made)) > _INDEXES_KEPT
    slow.unsent = 0
    await rest(scene)
    assert slow.keys == {"k"}
    assert made.count(lens_at(0, 1).area.level) == 1, "it is still there"
    await scene.stop()


async def test_a_state_that_outgrows_a_view_is_not_sent_by_an_unfinished_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its level was below the view's when the batch began, and no state had a higher one then."""
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(9, "e0"), {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 10)})
    viewer = Viewer()
    written: list[int] = []
    take = viewer.take
    monkeypatch.setattr(
        viewer, "take", lambda lines: written.extend(line.get("offset", 0) for line in lines) or take(lines)
    )
    viewer.is_stuck = True
    lens = lens_at(0, 1)._replace(selector=Selector.of(max_level=5))
    await scene.join(View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens, positions=None))
    assert not viewer.is_complete
    last = vehicle("k9", 10, 0)
    scene.take([state_with(FEEDS[0], 10, last.frame, Relevance("k9", point(0, 0), {"mode": "tram"}, 12))])
    await wait_until(lambda: scene._mirror.highest_level == 12)
    viewer.is_stuck, viewer.unsent = False, 0
    await rest(scene)
    assert viewer.keys == {f"k{at}" for at in range(1, 9)}
    assert 10 not in written
    await scene.stop()


async def test_a_view_whose_client_has_read_all_is_sent_changes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch that was written in parts, and after one that replaced changes that it has missed."""
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(9, "e0"), {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 10)})
    viewer = Viewer()
    viewer.is_stuck = True
    await scene.join(View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None))
    assert not viewer.is_complete
    viewer.is_stuck, viewer.unsent = False, 0
    await rest(scene)
    assert set(viewer.batches) == {"reset"}
    scene.take([vehicle("k1", 10, 0)])
    await rest(scene)
    assert (viewer.batches[-1], viewer.items[FEEDS[0], "k1"]) == ("changes", 10)

    viewer.unsent = viewer.limit_bytes
    scene.take([vehicle("k1", 11, 0)])
    await wait_until(lambda: not scene._watchers)
    viewer.unsent = 0
    await rest(scene)
    assert (viewer.batches[-1], viewer.items[FEEDS[0], "k1"]) == ("reset", 11)
    scene.take([vehicle("k1", 12, 0)])
    await rest(scene)
    assert (viewer.batches[-1], viewer.items[FEEDS[0], "k1"]) == ("changes", 12)
    await scene.stop()


async def test_no_frame_of_several_objects_is_larger_than_a_frame_may_be() -> None:
    """Daphne refuses frames that are much larger, and a page would be sent them again when it comes back."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    sizes = (40_000, FRAME_BYTES - 400, FRAME_BYTES, 30_000, 200)
    states = {str(at): large(str(at), at, size) for at, size in enumerate(sizes, 1)}
    scene.reload(FEEDS[0], Position(len(sizes), "e"), states)
    viewer = Viewer()
    viewer.limit_bytes = 10_000_000
    frames: list[bytes] = []
    write = viewer.write
    viewer.write = lambda frame: (frames.append(frame.payload), write(frame))[1]  # type: ignore[method-assign]
    await scene.join(View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None))
    await rest(scene)
    await scene.stop()
    assert viewer.keys == states.keys()
    for frame in frames:
        # Beside the header.
        assert len(frame) <= FRAME_BYTES or frame.count(b"\n") == 1, [len(line) for line in frame.split(b"\n")]


def large(key: str, offset: int, size: int) -> State:
    """A tram whose data has this many bytes."""
    message = {"type": "message", "topic": FEEDS[0], "offset": offset, "key": key, "data": "x" * size}
    return state_with(FEEDS[0], offset, json.dumps(message).encode(), Relevance(key, point(0, 0), {"mode": "tram"}))


async def test_a_connection_that_cannot_be_closed_is_no_matter_for_the_others() -> None:
    """Their connections stay open, and they are served."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(1, "e"), {"k": vehicle("k", 1, 0)})
    broken = [await joined(scene, lens_at(0, 1)) for _ in range(2)]
    healthy, _ = await joined(scene, lens_at(0, 1))

    def refuse(*arguments: object) -> None:
        raise OSError("broken")

    for viewer, view in broken:
        viewer.write = view.end = refuse  # type: ignore[method-assign,assignment]
    scene.take([vehicle("k", 2, 0)])
    await rest(scene)
    assert len(scene._views) == 1
    assert not healthy.closed
    assert healthy.items == {(FEEDS[0], "k"): 2}
    await scene.stop()
