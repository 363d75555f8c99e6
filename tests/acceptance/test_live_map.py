"""The demo's live map: its dots are what the server has, whatever is done to the map; and its switch."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, BrowserContext, Page, expect

from realtime.broker.publication import parse
from realtime.live.places import area_of, level_limit
from tests.acceptance.bell.axe import violations
from tests.acceptance.deployed_site import ROOT, DeployedSite
from tests.acceptance.site import Site
from tests.acceptance.test_page_policies import STRICT, log_in, policy
from tests.support.browser import chromium
from tests.support.relevances import decode_relevance
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.database_independent]

FEEDS, VEHICLES = 60, 1_200
BERLIN = "#11/52.5200/13.4050"
GERMANY = "#7/51.0000/10.0000"
SLOW_SECONDS = 90.0
IDS = "() => [...liveMap.live.items.keys()].sort()"
DOTS = "() => [...liveMap.vehicles.dots.keys()].sort()"
# For each dot on the screen, whether the canvas has the colour of its mode there. The edge of a dot is paler.
PAINTED = """
() => {
  const { map, vehicles } = liveMap;
  const { modes } = vehicles.colours();
  vehicles.setCalm(true);
  vehicles.draw(performance.now());
  const size = map.getSize();
  const seen = [];
  for (const { mode, item: { data } } of vehicles.dots.values()) {
    const { x, y } = map.latLngToContainerPoint([data.lat, data.lon]);
    if (x < 9 || y < 9 || x > size.x - 9 || y > size.y - 9) continue;
    const wanted = modes[mode].match(/\\d+/g).map(Number);
    const { data: pixels } = vehicles.context.getImageData(x - 1, y - 1, 3, 3);
    const isPainted = (at) => pixels[at + 3] > 127 && wanted.every((part, i) => Math.abs(pixels[at + i] - part) < 24);
    seen.push([0, 4, 8, 12, 16, 20, 24, 28, 32].some(isPainted));
  }
  return seen;
}
"""


class LiveSite(DeployedSite):
    """A site whose vehicles move until `rest` is called."""

    def __enter__(self) -> "LiveSite":
        super().__enter__()
        size = (f"--feeds={FEEDS}", f"--vehicles={VEHICLES}")
        with (self.directory / "simulation.log").open("wb") as log:
            self.simulation = subprocess.Popen(
                [sys.executable, "manage.py", "simulate_vehicles", *size, "--rate=2", "--time-lapse=10"],
                cwd=ROOT,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        wait_until_sync(lambda: len(self.truth()) == VEHICLES, seconds=SLOW_SECONDS)
        return self

    def __exit__(self, *error: Any) -> None:
        self.simulation.send_signal(signal.SIGCONT)
        # Not SIGINT: a shell without job control lets its background processes ignore that.
        self.simulation.terminate()
        code = self.simulation.wait(120)
        left = len(self.truth())
        log = (self.directory / "simulation.log").read_text()
        super().__exit__(*error)
        assert (code, left) == (0, 0), log

    def truth(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Name → relevance and data of all vehicles, from Redis."""
        found = {}
        with redis.Redis.from_url(self.redis_url) as client:
            for key in client.scan_iter(match="*{vehicles.*}:snapshot", count=1_000):
                topic = key.decode().partition("{")[2].partition("}")[0]
                for payload in client.hgetall(key).values():
                    publication = parse(payload)
                    assert publication is not None
                    relevance = decode_relevance(publication.relevance)
                    data = json.loads(publication.frame)["data"]
                    found[f"{topic} {relevance.key}"] = (relevance, data)
        return found

    @contextlib.contextmanager
    def resting(self) -> Iterator[dict[str, tuple[Any, dict[str, Any]]]]:
        """The vehicles stand still, as if time had stopped."""
        self.simulation.send_signal(signal.SIGSTOP)
        try:
            yield self.truth()
        finally:
            self.simulation.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def live_site() -> Iterator[LiveSite]:
    with LiveSite("signalbox") as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


class Visitor:
    """A page with the map, and what it complains of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    async def open(self, url: str, place: str = "") -> None:
        await self.page.goto(f"{url}/map/{place}")
        await self.page.wait_for_selector("[data-figure=state]:has-text('live')")

    async def shows(self, truth: dict[str, tuple[Any, dict[str, Any]]]) -> set[str]:
        """Wait until the page has and draws what brute force finds for its filter."""
        wanted: list[str] = []
        found: list[list[str]] = []

        async def is_right() -> bool:
            wanted[:] = brute_force(truth, await self.page.evaluate("() => liveMap.live.filter"))
            found[:] = [await self.page.evaluate(IDS), await self.page.evaluate(DOTS)]
            return found == [wanted, wanted]

        try:
            await wait_until(is_right, seconds=SLOW_SECONDS)
        except AssertionError:
            differences = [set(each) ^ set(wanted) for each in found]
            raise AssertionError(f"{differences} of {len(wanted)}, {self.complaints}") from None
        return set(wanted)


def brute_force(truth: dict[str, tuple[Any, dict[str, Any]]], given: dict[str, Any]) -> list[str]:
    area, limit = area_of(given["bbox"]), level_limit(given["bbox"], given["zoom"])
    assert limit is not None
    least = given["tags"].get("delay", {}).get("gte", 0)
    return sorted(
        name
        for name, (relevance, data) in truth.items()
        if relevance.level <= limit and data["mode"] in given["tags"]["mode"] and data["delay"] >= least
        if any(x0 <= relevance.place[0] <= x1 and y0 <= relevance.place[1] <= y1 for x0, y0, x1, y1 in area.rectangles)
    )


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, live_site: LiveSite) -> AsyncIterator[BrowserContext]:
    context = await signed_in(browser, live_site, viewport={"width": 1_200, "height": 800})
    yield context
    await context.close()


async def signed_in(browser: Browser, site: LiveSite, **options: Any) -> BrowserContext:
    (session,) = (await asyncio.to_thread(site.sessions, 1)).values()
    context = await browser.new_context(**options)
    await context.add_cookies([{"name": "sessionid", "value": session, "url": site.url}])
    return context


async def test_dots_are_what_the_server_has(live_site: LiveSite, context: BrowserContext) -> None:
    """On the whole world, after zooming in and panning by keyboard, and after choosing modes; each is drawn."""
    visitor = Visitor(await context.new_page())
    page = visitor.page
    await visitor.open(live_site.url)
    await expect(page.locator("[data-figure=first]")).to_contain_text("ms")
    await expect(page.locator("[data-summary]")).to_contain_text("trains")
    with live_site.resting() as truth:
        world = await visitor.shows(truth)
        assert {truth[name][1]["mode"] for name in world} == {"rail"}
        painted = await page.evaluate(PAINTED)
        # All dots have one colour here, so it does not matter which of two is above.
        assert len(painted) > len(world) / 2
        assert all(painted)

    await page.evaluate(f"() => {{ location.hash = {json.dumps(GERMANY)}; location.reload(); }}")
    await page.wait_for_selector("[data-figure=state]:has-text('live')")
    await page.locator("[data-map]").focus()
    for key in ("ArrowRight", "ArrowDown", "+", "ArrowLeft"):
        before = await page.evaluate("() => location.hash")
        await page.keyboard.press(key)
        await wait_until(lambda before=before: _has_moved(page, before))
    with live_site.resting() as truth:
        await visitor.shows(truth)

    await visitor.open(live_site.url, BERLIN)
    await page.reload()
    with live_site.resting() as truth:
        city = await visitor.shows(truth)
        assert {"metro", "tram", "bus"} <= {truth[name][1]["mode"] for name in city}
        await page.get_by_label("Buses").uncheck()
        fewer = await visitor.shows(truth)
        assert fewer == {name for name in city if truth[name][1]["mode"] != "bus"}
        await page.get_by_label("Only those at least 2 minutes late").check()
        late = await visitor.shows(truth)
        assert late == {name for name in fewer if truth[name][1]["delay"] >= 120}
        await page.get_by_role("button", name="Whole world").click()
        await visitor.shows(truth)
    assert visitor.complaints == []


async def _has_moved(page: Page, before: str) -> bool:
    return bool(await page.evaluate("() => location.hash") != before)


async def test_dragging_never_empties_the_map(live_site: LiveSite, context: BrowserContext) -> None:
    """While it is dragged, what stays in view stays on the canvas."""
    visitor = Visitor(await context.new_page())
    page = visitor.page
    await visitor.open(live_site.url, "#5/50.0000/10.0000")
    with live_site.resting() as truth:
        before = await visitor.shows(truth)
        await page.evaluate(
            """() => {
              globalThis.least = Infinity;
              const { vehicles } = liveMap;
              const draw = vehicles.draw.bind(vehicles);
              vehicles.draw = (now) => { draw(now); least = Math.min(least, vehicles.dots.size); };
            }"""
        )
        box = await page.locator("[data-map]").bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await page.mouse.move(x, y)
        await page.mouse.down()
        for step in range(1, 11):
            await page.mouse.move(x - 12 * step, y - 4 * step)
        await page.mouse.up()
        after = await visitor.shows(truth)
        least = await page.evaluate("() => least")
        assert len(before & after) <= least < float("inf")
    assert visitor.complaints == []


async def test_a_phone_has_no_horizontal_scroll(live_site: LiveSite, browser: Browser) -> None:
    """At 320 pixels, from left to right and from right to left, light and dark; axe finds nothing."""
    for scheme, direction in (("light", "ltr"), ("dark", "rtl")):
        context = await signed_in(
            browser,
            live_site,
            viewport={"width": 320, "height": 640},
            has_touch=True,
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        visitor = Visitor(await context.new_page())
        await visitor.open(live_site.url, GERMANY)
        await visitor.page.evaluate(f"() => {{ document.documentElement.dir = '{direction}'; }}")
        assert await visitor.page.evaluate("() => document.documentElement.scrollWidth") <= 320
        assert await violations(visitor.page) == []
        with live_site.resting() as truth:
            await visitor.shows(truth)
        await visitor.page.get_by_role("button", name="Zoom in").tap()
        await expect(visitor.page.locator("[data-figure=zoom]")).to_have_text("8")
        assert visitor.complaints == []
        await context.close()


async def test_a_vehicle_says_where_it_goes(live_site: LiveSite, context: BrowserContext) -> None:
    """A click on its dot shows its line, its key and its delay."""
    visitor = Visitor(await context.new_page())
    await visitor.open(live_site.url)
    with live_site.resting() as truth:
        assert await visitor.shows(truth)
        place = await visitor.page.evaluate(
            """() => {
              const { map, vehicles } = liveMap;
              vehicles.setCalm(true);
              const size = map.getSize();
              for (const { item } of vehicles.dots.values()) {
                const { x, y } = map.latLngToContainerPoint([item.data.lat, item.data.lon]);
                if (x > 80 && y > 80 && x < size.x - 80 && y < size.y - 80) return { x, y };
              }
            }"""
        )
        assert place
        await visitor.page.locator("[data-map]").click(position=place)
        await expect(visitor.page.locator("[data-card]")).to_contain_text("vehicles.")
        await expect(visitor.page.locator("[data-card] strong")).to_contain_text(" to ")


async def test_the_strictest_policy_is_enough(live_site: LiveSite, browser: Browser) -> None:
    """A nonce for scripts and styles, and Trusted Types with the one policy that the bell needs."""
    values = {**STRICT, "trusted-types": ["signalbox"]}
    with live_site.another_web("signalbox", **policy(values)) as url:
        context = await browser.new_context()
        visitor = Visitor(await context.new_page())
        await log_in(visitor.page, url)
        await visitor.open(url, GERMANY)
        with live_site.resting() as truth:
            await visitor.shows(truth)
        assert visitor.complaints == []
        await context.close()


async def test_the_switch_starts_and_stops_the_vehicles(tmp_path: Path, browser: Browser) -> None:
    """Off by default. It moves them, removes them, starts again after that; and no process outlives `make run`."""
    with Site(tmp_path / "var", environment={"DEMO_VEHICLES": "300"}) as site:
        await asyncio.to_thread(site.wait_until_ready)
        context = await browser.new_context()
        visitor = Visitor(await context.new_page())
        page = visitor.page
        await log_in(page, site.url.rstrip("/"))
        await page.get_by_role("link", name="Live map").click()
        start = page.get_by_role("button", name="Start the simulation")
        stop = page.get_by_role("button", name="Stop the simulation")
        await expect(page.locator("[data-empty]")).to_contain_text("Is the simulation running?")
        for _ in range(2):
            await start.click()
            await expect(stop).to_be_visible(timeout=SLOW_SECONDS * 1_000)
            await wait_until(lambda: page.evaluate("() => liveMap.live.items.size > 0"), seconds=SLOW_SECONDS)
            assert sum("simulate_vehicles" in command for command in site.processes().values()) == 1
            await page.reload()
            await expect(stop).to_be_visible()
            await stop.click()
            await expect(start).to_be_enabled(timeout=SLOW_SECONDS * 1_000)
            await wait_until(lambda: page.evaluate("() => liveMap.live.items.size === 0"), seconds=SLOW_SECONDS)
            await wait_until(lambda: not any("simulate_vehicles" in each for each in site.processes().values()))
        await start.click()
        await expect(stop).to_be_visible(timeout=SLOW_SECONDS * 1_000)
        await context.close()
        site.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(site.process.wait, 120)
        await wait_until(lambda: not site.processes())
        assert visitor.complaints == []
