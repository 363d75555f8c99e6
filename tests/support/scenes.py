"""
Scenes without Redis: publications, lenses and viewers for them.

Owns these builders. Does not own the checks of a client (view_clients).
"""

import asyncio
import json

from realtime.broker.relevance import Relevance, Tag
from realtime.live.filters import Selector
from realtime.live.items import State
from realtime.live.places import area_of, point
from realtime.live.scene import Scene
from realtime.live.view import Lens, View
from tests.support.relevances import state_with
from tests.support.view_clients import Viewer

__all__ = ["FEEDS", "at_place", "joined", "lens_at", "rest", "vehicle"]

FEEDS = ("vehicles.a", "vehicles.b", "vehicles.c")


async def rest(scene: Scene) -> None:
    """Wait until the scene has nothing to do."""
    while scene._task is not None:
        await asyncio.wait([scene._task])


def vehicle(key: str, offset: int, longitude: float, latitude: float = 0) -> State:
    """A publication of a tram on vehicles.a."""
    return at_place(key, offset, point(longitude, latitude))


def at_place(key: str, offset: int, place: tuple[int, int], **tags: Tag) -> State:
    """The same, with its place in world units, and with more tags."""
    frame = json.dumps({"type": "message", "topic": FEEDS[0], "offset": offset, "key": key, "data": "x" * 100}).encode()
    return state_with(FEEDS[0], offset, frame, Relevance(key, place, {"mode": "tram", **tags}))


def lens_at(longitude: float, number: int) -> Lens:
    """A view of one degree around a point on the equator."""
    return Lens(area_of([longitude - 0.5, -0.5, longitude + 0.5, 0.5]), Selector.of(), number)


async def joined(scene: Scene, lens: Lens, *topics: str) -> tuple[Viewer, View]:
    """A viewer with its first batch, whose view needs these topics."""
    viewer = Viewer()
    view = View(view_id="v1", name="vehicles.*", sink=viewer, lens=lens, positions=None)
    view.topics = frozenset(topics)
    await scene.join(view)
    return viewer, view
