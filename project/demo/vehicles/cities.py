"""
The cities of the demo's map, and the land and water around them; only for `fetch`.

Owns which cities there are, and where their railways and ferries can go. Does not own the lines (lines).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from project.demo.vehicles.coasts import Land
from project.demo.vehicles.geometry import distance_km, moved, on_the_way

__all__ = ["choose_cities"]

COUNT = 500
# Between two cities.
LEAST_KM = 60
# From one country; otherwise half of the map's cities would be in two.
MOST_OF_A_COUNTRY = 28
# So that cities are not only where most people live.
FACTORS = {"EU": 3.0, "NA": 3.0, "OC": 4.0}
# How far a city's own lines may go in each of this many directions.
DIRECTIONS = 24
REACH_LIMIT_KM = 16.0
RAIL_LIMIT_KM = 600
RAILS_OF_A_CITY = 4
# Its centre may be in the water of the simplified coast: this much does not count.
SHORE_KM = 4.0
FERRY_LIMIT_KM = 450
FERRIES_OF_A_CITY = 2
HARBOUR_KM = (3.0, 30.0)


def choose_cities(
    places: Iterable[Mapping[str, Any]], countries: Mapping[str, Mapping[str, Any]], world: dict[str, Any]
) -> list[dict[str, Any]]:
    """
    Choose COUNT large cities that are apart, and find out where lines can go.

    Returns:
        For each city `slug`, `name`, `country`, `lon`, `lat`, `population`; `reach`: how many kilometres of land there
        are in each direction, clockwise from the north; `rails`: the indexes of cities that a railway goes to; and
        `ferries`: where to, and the longitudes and latitudes of the two ends of the way over water.
    """
    land = Land(world)
    chosen = list(_choose(places, countries))
    for city in chosen:
        city["reach"] = [_reach(city, 360 / DIRECTIONS * index, land) for index in range(DIRECTIONS)]
    for index, city in enumerate(chosen):
        near = sorted((distance_km(_at(city), _at(other)), other_index) for other_index, other in enumerate(chosen))
        # Each connection belongs to the larger of its cities.
        city["rails"] = [
            other
            for km, other in near[1 : 1 + 3 * RAILS_OF_A_CITY]
            if other > index and km < RAIL_LIMIT_KM and _is_dry(city, chosen[other], land)
        ][:RAILS_OF_A_CITY]
        ways = (
            (chosen[other]["name"], _water(city, chosen[other], land)) for km, other in near[1:] if km < FERRY_LIMIT_KM
        )
        city["ferries"] = [[name, *way] for name, way in ways if way][:FERRIES_OF_A_CITY] + _harbour(city, land)
    return chosen


def _choose(
    places: Iterable[Mapping[str, Any]], countries: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    def weight(place: Mapping[str, Any]) -> float:
        return float(place["population"]) * FACTORS.get(countries[place["countrycode"]]["continentcode"], 1.0)

    chosen: list[dict[str, Any]] = []
    slugs: set[str] = set()
    for place in sorted(places, key=weight, reverse=True):
        country = place["countrycode"]
        at = (place["longitude"], place["latitude"])
        if sum(city["country"] == country for city in chosen) >= MOST_OF_A_COUNTRY:
            continue
        if any(distance_km(at, _at(city)) < LEAST_KM for city in chosen):
            continue
        slug = _slug(place["name"])
        slug = slug if slug not in slugs else f"{slug}-{country.lower()}"
        slugs.add(slug)
        city = {"slug": slug, "name": place["name"], "country": country, "lon": round(at[0], 3), "lat": round(at[1], 3)}
        chosen.append({**city, "population": place["population"]})
        if len(chosen) == COUNT:
            return iter(chosen)
    raise ValueError(f"only {len(chosen)} cities are far enough apart")


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def _at(city: Mapping[str, Any]) -> tuple[float, float]:
    return city["lon"], city["lat"]


def _reach(city: Mapping[str, Any], bearing: float, land: Land) -> int:
    """How far the land goes in this direction; 0 if it does not begin near the centre."""
    points = [land.is_at(*moved(_at(city), bearing, half / 2)) for half in range(1, int(REACH_LIMIT_KM * 2) + 1)]
    begins = points.index(True) if True in points else len(points)
    if begins / 2 > SHORE_KM:
        return 0
    ends = points.index(False, begins) if False in points[begins:] else len(points)
    return ends // 2


def _is_dry(a: Mapping[str, Any], b: Mapping[str, Any], land: Land) -> bool:
    """Whether a railway is possible: bridges and fjords that are simplified away do not count."""
    points = [land.is_at(*on_the_way(_at(a), _at(b), share / 60)) for share in range(2, 59)]
    return points.count(False) <= 2


def _water(a: Mapping[str, Any], b: Mapping[str, Any], land: Land) -> list[float]:
    """The ends of the water between two cities; empty if it is not most of the way."""
    wet = [share for share in range(101) if not land.is_at(*on_the_way(_at(a), _at(b), share / 100))]
    if not wet or wet[0] > 30 or wet[-1] < 70 or len(wet) < wet[-1] - wet[0]:
        return []
    ends = (on_the_way(_at(a), _at(b), share / 100) for share in (wet[0], wet[-1]))
    return [round(degrees, 3) for end in ends for degrees in end]


def _harbour(city: Mapping[str, Any], land: Land) -> list[list[Any]]:
    """The longest way over water between two shores of the city."""
    shores = [
        moved(_at(city), 360 / DIRECTIONS * index, km + 0.5)
        for index, km in enumerate(city["reach"])
        if 0 < km < REACH_LIMIT_KM
    ]
    ways = [
        (distance_km(a, b), a, b)
        for index, a in enumerate(shores)
        for b in shores[index + 1 :]
        if HARBOUR_KM[0] < distance_km(a, b) < HARBOUR_KM[1]
        and not any(land.is_at(*on_the_way(a, b, share / 20)) for share in range(1, 20))
    ]
    if not ways:
        return []
    _, a, b = max(ways)
    return [["Harbour", *(round(degrees, 3) for degrees in (*a, *b))]]
