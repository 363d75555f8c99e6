"""The measurement of the map's first picture works: a real site, a real browser, and the vehicles that Redis has."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.map import first_picture
from benchmarks.map.demo import OPENING, Place, Truth, in_view, place_with
from benchmarks.processes import BenchmarkError
from project.demo.vehicles.lines import load_cities
from realtime.broker.relevance import Relevance
from realtime.live.places import point
from tests.support.browser import chromium
from tests.support.relevances import state_with

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]
ROOT = Path(__file__).resolve().parent.parent.parent
# What the measurement reads of the demo's page: the measure and the filter.
PICTURE = """
performance.mark("vehicles:subscribe");
performance.measure("vehicles:first-picture", { start: "vehicles:subscribe", detail: { names: %s } });
liveMap = { live: { filter: %s } };
"""


@asynccontextmanager
async def site_with(script: str, *truths: Truth) -> AsyncIterator[Any]:
    """A site whose pages run this script; if it is empty, the site does not answer. Each truth is returned once."""
    reply = f"<!doctype html><script>{script}</script>".encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(reply)
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if script:
            writer.write(head + reply)
        else:
            await ended.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield SimpleNamespace(url=url, truth=iter(truths).__next__)
        finally:
            ended.set()


async def visit(script: str, *truths: Truth) -> Any:
    async with site_with(script, *truths) as site, chromium() as browser:
        return await first_picture._Visits(browser, site, "session")._visit()


def showing(names: Sequence[str]) -> str:
    return PICTURE % (json.dumps([f"vehicles.a {name}" for name in names]), json.dumps(OPENING.filter((1280, 800))))


def truth_with(names: Collection[str]) -> Truth:
    """Vehicles that are in view at the opening of the map."""
    relevances = {name: Relevance(name, point(12, 30), {"mode": "bus"}) for name in names}
    return {("vehicles.a", name): state_with("vehicles.a", 1, b"{}", relevances[name]) for name in names}


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
        timeout=300,
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


async def test_a_vehicle_that_comes_or_goes_during_a_visit_may_be_shown() -> None:
    """Redis has `gone` only before the visit, and `new` only after it."""
    found = await visit(showing(["a", "gone"]), truth_with(["a", "gone"]), truth_with(["a", "new"]))
    assert found.shown == 2


async def test_a_visit_that_shows_as_many_vehicles_but_others_fails() -> None:
    """The error names a vehicle that is missing and one that should not be there."""
    truth = truth_with(["a", "b"])
    with pytest.raises(BenchmarkError, match=r"without 1 \(vehicles.a b\) .* with 1 \(vehicles.a c\)"):
        await visit(showing(["a", "c"]), truth, truth)


async def test_a_page_that_fails_before_its_picture_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page reports is not lost because the picture does not come either."""
    monkeypatch.setattr(first_picture, "_PICTURE_MS", 1_000)
    with pytest.raises(BenchmarkError, match=r"(?s)no first picture.*the world is not loaded"):
        await visit('throw new Error("the world is not loaded")', {})


async def test_a_page_that_does_not_load_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback of Playwright."""
    monkeypatch.setattr(first_picture, "_PICTURE_MS", 1_000)
    async with site_with("") as site:
        with pytest.raises(BenchmarkError, match=r"the browser failed: .*Timeout 1000ms"):
            await first_picture._measure(site, "session", visits=1, shown=1)


def test_vehicles_in_a_view_are_counted_as_the_server_does() -> None:
    """They are in the view or in the ring of cells around it, and have a level and a mode that the page asks for."""
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
