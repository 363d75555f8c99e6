"""The vehicles of the demo's map: the same network each time, on its lines, at plausible speeds."""

import itertools
import json
import math
import random
from collections import Counter

import pytest

from project.demo.vehicles.coasts import Land, simplify
from project.demo.vehicles.fetch import LEAFLET, STATIC
from project.demo.vehicles.geometry import distance_km, moved, on_the_way
from project.demo.vehicles.lines import MODES, Network, Vehicle, build_network, load_cities

NOW = 1_700_000_000.0
# A position has five digits: about a metre.
METRE = 0.0012


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(500, 20_000)


@pytest.fixture(scope="module")
def some(network: Network) -> list[Vehicle]:
    """A sample with the same number of vehicles of each mode."""
    dice = random.Random("sample")  # noqa: S311 - the same each time
    by_mode = {mode: [each for each in vehicles(network) if each.line.mode == mode] for mode in MODES}
    return [each for found in by_mode.values() for each in dice.sample(found, 30)]


def vehicles(network: Network) -> list[Vehicle]:
    return [vehicle for feed in network.feeds for vehicle in feed.vehicles]


def test_the_network_is_as_large_as_it_was_asked_for(network: Network) -> None:
    """Each feed has vehicles, with keys of their own; the world view shows at most 2,000."""
    assert len({feed.slug for feed in network.feeds}) == 500
    assert network.vehicle_count == 20_000
    for feed in network.feeds:
        assert feed.vehicles
        assert len({vehicle.key for vehicle in feed.vehicles}) == len(feed.vehicles)
    levels = Counter(MODES[vehicle.line.mode].level for vehicle in vehicles(network))
    assert 1_500 <= levels[0] <= 2_000
    assert all(level >= 6 for level in levels if level)


@pytest.mark.parametrize(("feed_count", "vehicle_count"), [(1, 1), (1, 40), (3, 7), (40, 1_000), (500, 500)])
def test_any_size_has_exactly_its_vehicles(feed_count: int, vehicle_count: int) -> None:
    """Also if a mode has no line in these cities."""
    network = build_network(feed_count, vehicle_count)
    assert (len(network.feeds), network.vehicle_count) == (feed_count, vehicle_count)
    for feed in network.feeds:
        assert len({vehicle.key for vehicle in feed.vehicles}) == len(feed.vehicles)


def test_more_feeds_than_cities_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 500 cities"):
        build_network(501, 1_000)


def test_two_processes_make_the_same_network() -> None:
    """So a simulation that is started again continues where the clock is."""
    one, other = (build_network(20, 800) for _ in range(2))
    for a, b in zip(vehicles(one), vehicles(other), strict=True):
        assert a.key == b.key
        assert a.state(NOW) == b.state(NOW)


def test_nothing_is_faster_than_its_mode(some: list[Vehicle]) -> None:
    """Second by second, over a part of the day with stops and turns: no teleports."""
    for vehicle in some:
        fastest = MODES[vehicle.line.mode].speeds_kmh[1]
        places = [(state["lon"], state["lat"]) for state in (vehicle.state(NOW + second) for second in range(0, 1_200))]
        for a, b in itertools.pairwise(places):
            # The delay may shrink by one second in ten.
            assert distance_km(a, b) <= fastest / 3600 * 1.1 + 2 * METRE, (vehicle.key, vehicle.line.name)


def test_each_moves_and_stops(some: list[Vehicle]) -> None:
    """Within one turn of its line it has been at both ends; at a stop its speed is 0 and it does stand."""
    for vehicle in some:
        period = vehicle.line.period_seconds
        states = [vehicle.state(NOW + period * part / 400) for part in range(401)]
        assert {state["to"] for state in states} == set(vehicle.line.ends)
        assert max(state["speed"] for state in states) > 0
        standing = next(
            NOW + second for second in range(math.ceil(period)) if vehicle.state(NOW + second)["speed"] == 0
        )
        first, second = vehicle.state(standing), vehicle.state(standing + 1)
        if second["speed"] == 0:
            assert (first["lon"], first["lat"]) == (second["lon"], second["lat"])


def test_each_is_on_its_line(some: list[Vehicle]) -> None:
    """A position is on the straight piece between two points of the line."""
    for vehicle in some:
        for part in range(10):
            state = vehicle.state(NOW + vehicle.line.period_seconds * part / 10)
            at = (state["lon"], state["lat"])
            detours = (
                distance_km(a, at) + distance_km(at, b) - distance_km(a, b)
                for a, b in itertools.pairwise(vehicle.line.points)
            )
            assert min(detours) < 0.1, (vehicle.key, vehicle.line.name)


def test_a_bearing_is_where_it_goes(some: list[Vehicle]) -> None:
    """Unless it has turned or stopped since."""
    compared = 0
    for vehicle in some:
        a, b = vehicle.state(NOW), vehicle.state(NOW + 5)
        here, there = (a["lon"], a["lat"]), (b["lon"], b["lat"])
        km = distance_km(here, there)
        if a["bearing"] == b["bearing"] and km > 0.02:
            assert distance_km(moved(here, a["bearing"], km), there) < km * 0.2
            compared += 1
    assert compared > 50


def test_lines_keep_off_the_water_and_ferries_keep_to_it(network: Network) -> None:
    """By the coasts that the page draws; a bridge here and there is allowed."""
    land = Land(json.loads((STATIC / "world.json").read_text()))
    on_land: dict[str, list[bool]] = {mode: [] for mode in MODES}
    for vehicle in vehicles(network)[::7]:
        state = vehicle.state(NOW)
        on_land[state["mode"]].append(land.is_at(state["lon"], state["lat"]))
    shares = {mode: sum(found) / len(found) for mode, found in on_land.items()}
    assert min(shares[mode] for mode in ("rail", "metro", "tram", "bus")) > 0.95
    assert shares["ferry"] < 0.15


def test_a_city_is_where_it_says() -> None:
    """Its slug is that of a topic, and its railways go to cities that exist."""
    cities = load_cities()
    assert all(city["slug"] == city["slug"].strip("-") and city["slug"].isascii() for city in cities)
    (bern,) = [city for city in cities if city["slug"] == "berlin"]
    assert distance_km((bern["lon"], bern["lat"]), (13.40, 52.52)) < 10
    assert all(0 <= other < len(cities) for city in cities for other in city["rails"])


def test_the_page_has_all_that_it_draws_with() -> None:
    """From this site alone, and small enough for a phone."""
    assert (STATIC / "world.json").stat().st_size <= 300_000
    assert "sourceMappingURL" not in (LEAFLET / "leaflet.js").read_text()
    assert "BSD 2-Clause License" in (LEAFLET / "LICENSE").read_text()


def test_a_simplified_coast_keeps_its_shape() -> None:
    """A point on a straight piece is left out, a corner is not; what is not a coast is a border."""
    square = [[0, 0], [50, 0], [50, 0], [0, 100], [-100, 0], [0, -100]]
    middle = [[50, 0], [0, 100]]
    atlas = {
        "transform": {"scale": [0.1, 0.1], "translate": [0, 0]},
        "arcs": [square, middle],
        "objects": {"land": {"type": "MultiPolygon", "arcs": [[[0]]]}, "countries": {}},
    }
    world = simplify(atlas)
    assert world["arcs"][0] == [0, 0, 1000, 0, 0, 1000, -1000, 0, 0, -1000]
    assert (world["land"], world["borders"]) == ([[[0]]], [1])
    land = Land(world)
    assert land.is_at(5, 5)
    assert not any(land.is_at(*point) for point in ((-1, 5), (11, 5), (5, 11)))


def test_the_way_between_two_points_has_the_length_of_both_parts() -> None:
    """On a sphere; also across longitude 180."""
    a, b = (179.5, 10.0), (-179.5, 12.0)
    middle = on_the_way(a, b, 0.5)
    assert abs(distance_km(a, middle) * 2 - distance_km(a, b)) < 0.01
    assert abs(abs(middle[0]) - 180) < 0.2
