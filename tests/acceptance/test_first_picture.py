"""The measurement of the map's first picture works: a real site, a real browser, and the vehicles that Redis has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.map.demo import OPENING, Place, in_view, place_with
from project.demo.vehicles.lines import load_cities
from realtime.broker.relevance import Relevance
from realtime.live.places import point
from tests.support.relevances import state_with

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]
ROOT = Path(__file__).resolve().parent.parent.parent


def test_each_visit_to_the_map_shows_what_redis_has(tmp_path: Path) -> None:
    """A real browser opens the demo's map, cold and warm: each picture has vehicles, and its time is the page's own."""
    words = ("--visits", "2", "--feeds", "20", "--vehicles", "600", "--shown", "50", "--json")
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.map.first_picture", *words],
        cwd=ROOT,
        env=environment | {"VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    measured = json.loads(run.stdout)
    assert (measured["feeds"], measured["vehicles"]) == (20, 600)
    assert set(measured["figures"]) == {"cold", "warm"}
    for figures in measured["figures"].values():
        least, most = figures["shown"]
        assert figures["visits"] == 2
        assert 25 <= least <= most <= 100
        assert 0 < figures["median_ms"] <= figures["p95_ms"] <= figures["max_ms"]


def test_vehicles_in_a_view_are_counted_as_the_server_does() -> None:
    """Inside and in the ring of cells around it, of a level and a mode that the page asks for; a place has the most."""
    city = load_cities()[0]
    here = point(city["lon"], city["lat"])
    asked = Place(11, city["lat"], city["lon"]).filter((1280, 640))
    west, south, east, north = asked["bbox"]
    assert (round(east - west, 3), south < city["lat"] < north) == (0.879, True)
    near, far = (point(longitude, city["lat"]) for longitude in (west - 0.001, west - 0.2))
    truth = {
        ("vehicles.a", name): state_with("vehicles.a", 1, b"{}", Relevance(name, place, {"mode": mode}, level))
        for name, place, mode, level in (
            ("in", here, "bus", 11),
            ("near", near, "rail", 0),
            ("far", far, "rail", 0),
            ("detail", here, "bus", 12),
        )
    }
    assert {key for _, key in in_view(truth, asked)} == {"in", "near"}
    asked["tags"]["mode"] = ["rail"]
    assert {key for _, key in in_view(truth, asked)} == {"near"}
    assert place_with(2, truth, (1280, 640)) == OPENING
    four = {("vehicles.a", str(number)): truth["vehicles.a", "in"] for number in range(4)}
    four["vehicles.a", "near"] = truth["vehicles.a", "near"]
    assert place_with(4, four, (1280, 640)).zoom > OPENING.zoom
