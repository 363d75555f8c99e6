"""Places and views on the grid of the world: longitude 180, the poles, maps dragged around the world."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.live.places import (
    WORLD,
    Area,
    area_of,
    box,
    boxes_of,
    cell_bits,
    level_limit,
    point,
    rectangles,
    tile_bits,
)

longitudes = st.floats(-180, 180)
latitudes = st.floats(-90, 90)


def is_inside(place: tuple[int, int], boxes: tuple[tuple[int, int, int, int], ...]) -> bool:
    x, y = place
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


@st.composite
def bboxes(draw: st.DrawFn) -> list[float]:
    """What a map shows: anywhere, dragged around the world, across longitude 180, at the poles."""
    west = draw(st.floats(-720, 720))
    width = draw(st.one_of(st.floats(0, 5), st.floats(0, 400)))
    south = draw(st.floats(-90, 90))
    return [west, south, west + width, min(south + draw(st.floats(0, 180)), 90)]


def test_the_corners_of_the_world() -> None:
    """x grows to the east from longitude -180, y to the south; longitude 180 is longitude -180."""
    assert point(-180, 90) == (0, 0)
    assert point(180, -90) == (0, WORLD - 1)
    assert point(0, 0) == (WORLD // 2, WORLD // 2)
    assert point(-180, 85.2) == point(-180, 89)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ((0, 91), "a latitude is between -90 and 90"),
        ((361, 0), "a longitude is between -180 and 180"),
        ((math.nan, 0), "a longitude"),
        ((0, math.nan), "a latitude"),
        ((math.inf, 0), "a longitude"),
        ((46.9, 200.1), r"a place is \(longitude, latitude\)"),
    ],
)
def test_a_place_that_is_not_on_the_earth(place: tuple[float, float], problem: str) -> None:
    """The error says which number is wrong."""
    with pytest.raises(ValueError, match=problem):
        point(*place)


@pytest.mark.parametrize(
    "bbox", [[0, 10, 1, 5], [math.nan, 0, 1, 1], [0, 0, math.inf, 1], [0, -91, 1, 1], [1e7, 0, 1, 1]]
)
def test_a_bbox_that_is_none(bbox: list[float]) -> None:
    """Neither the exact boxes nor the cells of a bad bbox are guessed."""
    for convert in (area_of, boxes_of):
        with pytest.raises(ValueError, match=r"longitude|latitude|north"):
            convert(bbox)
    with pytest.raises(ValueError, match=r"longitude|latitude|north"):
        level_limit(bbox, 3)


@given(bboxes(), longitudes, latitudes)
def test_a_view_has_all_of_its_bbox(bbox: list[float], longitude: float, latitude: float) -> None:
    """What lies in the bbox, by plain arithmetic, is in its exact boxes and in its area."""
    west, south, east, north = bbox
    is_in = south <= latitude <= north and any(west <= longitude + turn * 360 <= east for turn in range(-4, 5))
    place = point(longitude, latitude)
    if is_in:
        assert is_inside(place, boxes_of(bbox))
        assert is_inside(place, area_of(bbox).rectangles)


@given(bboxes(), longitudes, latitudes)
def test_a_view_has_one_ring_more_and_not_two(bbox: list[float], longitude: float, latitude: float) -> None:
    """Whatever is more than two cells away from the bbox is not in the area."""
    area = area_of(bbox)
    cell = 1 << cell_bits(area.level)
    x, y = point(longitude, latitude)
    if not is_inside((x, y), area.rectangles):
        return
    near = [
        (dx, dy)
        for x0, y0, x1, y1 in boxes_of(bbox)
        for turn in (-WORLD, 0, WORLD)
        for dx, dy in [(max(x0 - (x + turn), (x + turn) - x1, 0), max(y0 - y, y - y1, 0))]
    ]
    assert any(dx < 2 * cell and dy < 2 * cell for dx, dy in near)


@given(bboxes())
def test_the_level_fits_the_size(bbox: list[float]) -> None:
    """A view touches few tiles, whatever its size: hostile numbers cost nothing. Its edges are edges of cells."""
    area = area_of(bbox)
    bits, smallest = tile_bits(area.level), cell_bits(area.level)
    tiles = sum(
        ((x1 >> bits) - (x0 >> bits) + 1) * ((y1 >> bits) - (y0 >> bits) + 1) for x0, y0, x1, y1 in area.rectangles
    )
    assert tiles <= 11 * 11 + 11
    for x0, y0, x1, y1 in area.rectangles:
        assert 0 <= x0 <= x1 < WORLD
        assert 0 <= y0 <= y1 < WORLD
        assert not any(edge % (1 << smallest) for edge in (x0, y0, x1 + 1, y1 + 1))


@given(longitudes, latitudes, longitudes, latitudes)
def test_a_box_has_its_corners(west: float, south: float, east: float, north: float) -> None:
    """A shape's corners are in its box, also if it crosses longitude 180."""
    south, north = min(south, north), max(south, north)
    boxes = rectangles(box(west, south, east, north))
    for corner in [(west, south), (east, north)]:
        assert is_inside(point(*corner), boxes)


def test_a_box_across_longitude_180() -> None:
    """West of 180 and east of it, and nothing of the other side of the world."""
    boxes = rectangles(box(170, -10, -170, 10))
    assert boxes == rectangles(box(170, -10, 190, 10))
    assert is_inside(point(179, 0), boxes)
    assert is_inside(point(-179, 0), boxes)
    assert not is_inside(point(0, 0), boxes)


def test_the_whole_world_and_nothing_asked() -> None:
    """A bbox of more than 360 degrees is all longitudes; no bbox is everything."""
    assert boxes_of([-200, -90, 200, 90]) == ((0, 0, WORLD - 1, WORLD - 1),)
    assert area_of([-200, -90, 200, 90]).rectangles == ((0, 0, WORLD - 1, WORLD - 1),)
    assert area_of(None) == Area(level=0, rectangles=((0, 0, WORLD - 1, WORLD - 1),))


def test_the_level_of_detail_is_what_a_screen_can_show() -> None:
    """The client's zoom counts only as far as its bbox fits on a screen at that zoom."""
    world = [-180, -85, 180, 85]
    assert level_limit(world, 22) == 4
    assert level_limit(world, 1.9) == 1
    assert level_limit(world, None) == 4
    assert level_limit([7.4, 46.9, 7.5, 47.0], 13.7) == 13
    assert level_limit(None, None) is None
    assert level_limit(None, 7.5) == 7
