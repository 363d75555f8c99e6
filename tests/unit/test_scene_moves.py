"""Points that move by steps of every size, and views of several levels, with and without limits of the site."""

import random
from collections.abc import Sequence

import pytest

from realtime.broker.publication import Position
from realtime.live.counters import Counters
from realtime.live.filters import Selector
from realtime.live.items import State, is_in
from realtime.live.places import WORLD, Box, area_of, boxes_of, cell_bits, point, tile_bits
from realtime.live.scene import Scene
from realtime.live.view import Lens
from tests.support.scenes import FEEDS, at_place, joined, rest

# Around longitude 3 and latitude 0, from a town to the world.
BBOXES: Sequence[Sequence[float]] = (
    [2.99, -0.01, 3.01, 0.01],
    [2.5, -0.5, 3.5, 0.5],
    [-7, -10, 13, 10],
    [-180, -80, 180, 80],
)
# Ends in the middle of a cell of each of these views.
LIMITS: tuple[Box, ...] = boxes_of([2.991234, -0.00789, 3.00567, 0.00678])


def lenses(*limits: tuple[Box, ...] | None) -> list[Lens]:
    """One for each bbox and each of these limits."""
    return [Lens(area_of(bbox), Selector.of(limits=each), 1) for bbox in BBOXES for each in limits]


def seen(states: dict[str, State], lens: Lens) -> dict[tuple[str, str], int]:
    return {
        (FEEDS[0], key): state.offset
        for key, state in states.items()
        if is_in(state, lens.area) and lens.selector.matches(state)
    }


@pytest.mark.parametrize("seed", range(6))
async def test_steps_of_every_size_in_views_of_several_levels(seed: int) -> None:
    """
    After each tick, each view has what its lens lets through, and so has one that joins afterwards.

    In half of the runs, no view has limits.
    """
    dice = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    views = [(lens, (await joined(scene, lens))[0]) for lens in (lenses(None, LIMITS) if seed % 2 else lenses(None))]
    assert len({lens.area.level for lens, _ in views}) == len(BBOXES)
    # Edges of views and of the limits, where small steps matter.
    edges = [box for lens, _ in views for box in lens.area.rectangles] + list(LIMITS)
    states: dict[str, State] = {}
    offset = 0
    for _ in range(120):
        changed = []
        for key in dice.sample("abcdefghij", 4):
            offset += 1
            before = states.get(key)
            if before is None or dice.random() < 0.2:
                x0, y0, x1, y1 = dice.choice(edges)
                x, y = dice.choice([x0, (x0 + x1) // 2, x1]), dice.choice([y0, (y0 + y1) // 2, y1])
            else:
                step = 1 << dice.randrange(30)
                x = (before.x0 + dice.choice([-step, 0, step])) % WORLD
                y = min(max(before.y0 + dice.choice([-step, 0, step]), 0), WORLD - 1)
            states[key] = at_place(key, offset, (x, y))
            changed.append(states[key])
        scene.take(changed)
        await rest(scene)
        for lens, viewer in views:
            assert viewer.items == seen(states, lens)
    # These are looked up in the index.
    for lens, _ in views:
        late, _ = await joined(scene, lens)
        assert late.items == seen(states, lens)
    await scene.stop()


@pytest.mark.parametrize("distance", ["cell", "tile", "tiles"])
@pytest.mark.parametrize("bbox", BBOXES)
async def test_a_step_out_of_the_limits_leaves_the_view(bbox: Sequence[float], distance: str) -> None:
    """Within a cell, from cell to cell of a tile, and from tile to tile, far from the edge of the view."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    area = area_of(bbox)
    ((x0, y0, x1, y1),) = area.rectangles
    tile, cell = 1 << tile_bits(area.level), 1 << cell_bits(area.level)
    # The corner of a tile in the middle of the view, and in what distance from it the limits end.
    x, y = (x0 + x1) // 2 // tile * tile, (y0 + y1) // 2 // tile * tile
    width = {"cell": cell // 2, "tile": cell, "tiles": tile}[distance]
    limits = ((x, y, x + width - 1, y + tile - 1),)
    viewer, _ = await joined(scene, Lens(area, Selector.of(limits=limits), 1))
    scene.take([at_place("goes", 1, (x + width - 1, y)), at_place("stays", 2, (x + width - 1, y))])
    await rest(scene)
    assert viewer.keys == {"goes", "stays"}
    scene.take([at_place("goes", 3, (x + width, y)), at_place("stays", 4, (x, y))])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "stays"): 4}
    await scene.stop()


async def test_an_index_that_no_view_uses_now_stays_right() -> None:
    """A view of a fine level has left. A step within a cell of the others' level still counts in the fine index."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    fine, coarse = area_of(BBOXES[0]), area_of(BBOXES[3])
    ((_, y, x, _),) = fine.rectangles
    assert x >> cell_bits(coarse.level) == x + 1 >> cell_bits(coarse.level)
    scene.take([at_place("k", 1, (x, y))])
    lens = Lens(fine, Selector.of(), 1)
    first, its_view = await joined(scene, lens)
    assert first.keys == {"k"}
    scene.leave(its_view)
    viewer, _ = await joined(scene, Lens(coarse, Selector.of(), 1))
    scene.take([at_place("k", 2, (x + 1, y))])
    await rest(scene)
    assert viewer.items == {(FEEDS[0], "k"): 2}
    late, _ = await joined(scene, lens)
    assert late.keys == set()
    await scene.stop()


async def test_a_tag_that_only_python_takes_for_the_same_leaves_the_view() -> None:
    """In Python, True equals 1; in a filter it does not. The key leaves even if it stays where it is."""
    scene = Scene("vehicles.*", gather_seconds=0, counters=Counters())
    scene.reload(FEEDS[0], Position(0, "e0"), {})
    viewer, _ = await joined(scene, Lens(area_of(BBOXES[1]), Selector.of(tags={"late": True}), 1))
    place = point(3, 0)
    scene.take([at_place("a", 1, place, late=True), at_place("b", 2, place, late=True)])
    await rest(scene)
    assert viewer.keys == {"a", "b"}
    scene.take([at_place("a", 3, place, late=1), at_place("b", 4, place, late=True)])
    await rest(scene)
    assert viewer.keys == {"b"}
    await scene.stop()
