"""The positions that a client is sent, so that it can resume: of each topic that its view needs, once it is loaded."""

import json

import pytest

from realtime.broker.publication import Position
from realtime.broker.relevance import Relevance
from realtime.hub.sinks import Frame
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import State
from realtime.live.places import point
from realtime.live.scene import Scene
from realtime.live.view import View
from tests.support.relevances import state_with
from tests.support.scenes import FEEDS, joined, lens_at, rest, vehicle
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until

A, B, C = FEEDS


def new_scene() -> Scene:
    return Scene("vehicles.*", gather_seconds=0, counters=Counters())


def of_feed(feed: str, key: str, offset: int, longitude: float = 0) -> State:
    """As `vehicle`, on another topic."""
    frame = json.dumps({"type": "message", "topic": feed, "offset": offset, "key": key}).encode()
    return state_with(feed, offset, frame, Relevance(key, point(longitude, 0), {}))


async def test_a_topic_that_is_loaded_later() -> None:
    """Its position comes before its items, in the same batch, and once."""
    scene = new_scene()
    scene.reload(A, Position(1, "e0"), {"a": vehicle("a", 1, 0)})
    viewer, _ = await joined(scene, lens_at(0, 1), A, B)
    assert viewer.named == [A]
    frames: list[list[str]] = []
    write = viewer.write

    def note(frame: Frame) -> None:
        frames.append([json.loads(line)["type"] for line in frame.payload.split(b"\n")])
        write(frame)

    viewer.write = note  # type: ignore[method-assign]
    scene.reload(B, Position(7, "e5"), {"b": of_feed(B, "b", 3)})
    await rest(scene)
    scene.take([of_feed(B, "b", 8)])
    await rest(scene)
    assert frames == [["view", "position", "message"], ["view", "message"]]
    assert (viewer.named, viewer.epochs) == ([A, B], {A: "e0", B: "e5"})
    assert not viewer.restarted
    await scene.stop()


async def test_a_topic_that_is_loaded_again() -> None:
    """After a gap its epoch is the same, so nothing needs to be said; a view without the topic gets nothing at all."""
    scene = new_scene()
    scene.reload(A, Position(1, "e0"), {})
    viewer, _ = await joined(scene, lens_at(0, 1), A)
    other, _ = await joined(scene, lens_at(0, 1), A)
    scene.reload(A, Position(9, "e0"), {})
    scene.reload(B, Position(1, "e0"), {})
    await rest(scene)
    assert viewer.batches == other.batches == ["reset"]
    assert viewer.named == other.named == [A]
    await scene.stop()


async def test_a_topic_without_items_in_view_when_the_view_begins() -> None:
    """Its position is in the first batch, because its items may come into view later."""
    scene = new_scene()
    scene.reload(A, Position(1, "e0"), {"a": vehicle("a", 1, 50)})
    scene.reload(B, Position(4, "e1"), {})
    viewer, _ = await joined(scene, lens_at(0, 1), A, B)
    assert (viewer.epochs, viewer.items) == ({A: "e0", B: "e1"}, {})
    scene.take([vehicle("a", 2, 0)])
    await rest(scene)
    assert (sorted(viewer.named), viewer.keys) == ([A, B], {"a"})
    await scene.stop()


async def test_a_topic_that_is_loaded_in_the_tick_in_which_the_view_joins() -> None:
    """The first batch has its position already."""
    scene = new_scene()
    viewer = Viewer()
    view = View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None)
    view.topics = frozenset({A})
    joining = scene.join(view)
    scene.reload(A, Position(1, "e0"), {"a": vehicle("a", 1, 0)})
    await joining
    await rest(scene)
    assert (viewer.batches, viewer.named) == (["reset"], [A])
    await scene.stop()


@pytest.mark.parametrize("is_moved", [False, True])
async def test_a_topic_that_a_view_needs_later_and_that_is_loaded_already(is_moved: bool) -> None:
    """As when its extent grows into the view, or the map is moved to it: there may be no item yet."""
    scene = new_scene()
    scene.reload(A, Position(1, "e0"), {})
    scene.reload(B, Position(4, "e1"), {})
    viewer, view = await joined(scene, lens_at(0, 1), A)
    view.topics |= {B}
    view.untold |= {B}
    view.wanted = lens_at(3, 2) if is_moved else view.wanted
    scene.renew(view)
    await rest(scene)
    assert viewer.batches == ["reset", "entered" if is_moved else "changes"]
    assert viewer.named == [A, B]
    scene.renew(view)
    await rest(scene)
    assert len(viewer.batches) == 2
    await scene.stop()


async def test_a_topic_that_the_view_may_not_show_yet() -> None:
    """Its position is sent with its items: a client that has only the position would take the items for known."""
    scene = new_scene()
    only_a = lens_at(0, 1)._replace(selector=Selector.of(topics=[A]))
    scene.reload(A, Position(1, "e0"), {})
    viewer, view = await joined(scene, only_a, A)
    view.topics |= {B}
    scene.reload(B, Position(4, "e1"), {"b": of_feed(B, "b", 3)})
    scene.take([vehicle("a", 2, 0)])
    await wait_until(lambda: viewer.keys == {"a"})
    assert viewer.named == [A]
    view.wanted = only_a._replace(selector=Selector.of(topics=[A, B]))
    scene.renew(view)
    await rest(scene)
    assert (viewer.named, viewer.keys, viewer.batches[-1]) == ([A, B], {"a", "b"}, "entered")
    await scene.stop()


async def test_a_topic_that_is_loaded_while_the_client_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent the position with what follows, whether or not the topic has items."""
    monkeypatch.setattr("realtime.live.view.FRAME_BYTES", 500)
    scene = new_scene()
    scene.reload(A, Position(9, "e0"), {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 10)})
    viewer = Viewer()
    viewer.is_stuck = True
    view = View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens_at(0, 1), positions=None)
    view.topics = frozenset(FEEDS)
    await scene.join(view)
    assert not viewer.is_complete
    scene.reload(B, Position(4, "e1"), {})
    await wait_until(lambda: scene._mirror.epoch(B) == "e1")
    viewer.is_stuck, viewer.unsent = False, 0
    await rest(scene)
    assert (set(viewer.batches), viewer.named) == ({"reset"}, [A]), "nothing had changed, so nothing was sent again"
    scene.take([of_feed(B, "b", 5)])
    await rest(scene)
    assert (viewer.batches[-1], viewer.named) == ("changes", [A, B])

    viewer.unsent = viewer.limit_bytes
    scene.reload(C, Position(2, "e2"), {"c": of_feed(C, "c", 2)})
    await wait_until(lambda: not scene._watchers)
    viewer.unsent = 0
    await rest(scene)
    assert viewer.batches[-1] == "reset"
    assert viewer.epochs == {A: "e0", B: "e1", C: "e2"}
    await scene.stop()
