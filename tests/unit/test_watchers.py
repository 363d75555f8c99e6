"""Watchers: the views of a level, by the tiles that they watch."""

import random

from realtime.live.items import ROW
from realtime.live.places import area_of, tile_bits
from realtime.live.watchers import NO_TILES, Tiling, Watchers


def test_the_tiles_of_an_area_are_whole_or_at_its_edge() -> None:
    """Each place in the area is in one of its tiles, and each place of a whole tile is in the area."""
    dice = random.Random(4)  # noqa: S311 - a schedule that can be repeated
    for _ in range(200):
        west, south = dice.uniform(-200, 200), dice.uniform(-85, 80)
        width, height = dice.choice([(0.01, 0.02), (2, 1), (60, 30), (360, 160)])
        area = area_of([west, south, west + width, min(south + height, 85)])
        tiling, bits = Tiling.of(area), tile_bits(area.level)
        assert not tiling.whole & tiling.edge
        inside = {
            y << ROW | x
            for x0, y0, x1, y1 in area.rectangles
            for x in range(x0 >> bits, (x1 >> bits) + 1)
            for y in range(y0 >> bits, (y1 >> bits) + 1)
        }
        assert tiling.whole | tiling.edge == inside
        for key in tiling.whole:
            x, y = (key & (1 << ROW) - 1) << bits, (key >> ROW) << bits
            last = (1 << bits) - 1
            assert any(x0 <= x and x + last <= x1 and y0 <= y and y + last <= y1 for x0, y0, x1, y1 in area.rectangles)


def test_a_view_watches_its_newest_tiles() -> None:
    """And no others. A tile that was whole may now be at the edge of the view. At the end, nothing is left."""
    dice = random.Random(5)  # noqa: S311 - a schedule that can be repeated
    watchers: Watchers[str] = Watchers()
    now: dict[str, Tiling] = {}
    for _ in range(500):
        view = dice.choice("abcd")
        tiles = dice.sample(range(12), 6)
        new = Tiling(frozenset(tiles[:3]), frozenset(tiles[3:])) if dice.random() < 0.8 else NO_TILES
        watchers.change(view, now.get(view, NO_TILES), new)
        now[view] = new
        for key in range(12):
            assert set(watchers.whole.get(key, ())) == {each for each, tiling in now.items() if key in tiling.whole}
            assert set(watchers.edge.get(key, ())) == {each for each, tiling in now.items() if key in tiling.edge}
            assert sorted(watchers.of(key)) == sorted(each for each in now if key in now[each].whole | now[each].edge)
        assert watchers.all() == {each for each, tiling in now.items() if tiling != NO_TILES}
    for view, tiling in now.items():
        watchers.change(view, tiling, NO_TILES)
    assert not watchers
    assert (watchers.whole, watchers.edge) == ({}, {})
