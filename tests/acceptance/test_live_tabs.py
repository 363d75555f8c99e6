"""Two tabs with a map each on one connection: whatever they do, each has what brute force finds for its filter."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Error, Page

from realtime.live.places import area_of, level_limit, point
from tests.acceptance.deployed_site import ROOT, WEB, DeployedSite
from tests.support.browser import chromium
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.database_independent,
    pytest.mark.timeout(900),
]

# A killed server has started again, and clients have waited for their backoff.
RETURN_SECONDS = 40.0

type Truth = dict[str, tuple[int, float, float, int, str]]

# A page with a map that moves by itself while `isPanning`.
MAP = """
async (filter) => {
  const { connection } = await import("/static/notifications/bell.js");
  const live = connection.subscribe("vehicles.*", { filter });
  const map = (globalThis.map = { connection, live, isPanning: false, answers: 0, resets: 0, changes: 0, errors: [] });
  live.on("snapshot", ({ isReset }) => (map[isReset ? "resets" : "answers"] += 1));
  live.on("change", () => (map.changes += 1));
  live.on("error", (error) => map.errors.push(error));
  connection.on("error", (error) => map.errors.push(error));
  let angle = 0;
  setInterval(() => {
    if (!map.isPanning) return;
    angle += 0.13;
    const [x, y] = [8 + 2 * Math.cos(angle), 46.5 + Math.sin(1.7 * angle)];
    const size = 1 + 0.5 * Math.sin(0.31 * angle);
    const bbox = [x - size, y - size / 2, x + size, y + size / 2];
    live.setFilter({ ...filter, bbox, zoom: 8 + 2 * Math.cos(angle) });
  }, 40);
}
"""


TRAINS_AND_BUSES = ["rail", "bus"]
# Name → offset of each item.
OFFSETS = "Object.fromEntries([...map.live.items].map(([id, { offset }]) => [id, offset]))"


class LiveSite(DeployedSite):
    """A site that has vehicles."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"DJANGO_SETTINGS_MODULE": "tests.support.live_settings"}

    def environment(self) -> dict[str, str]:
        """For a process beside those of the site."""
        return self._environment()

    def kill_web(self) -> None:
        """End the web server as in a crash, and start it again."""
        process = self._processes.pop(WEB)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.start_web()


class Vehicles:
    """The process that moves them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin and process.stdout
        self._input, self._output = process.stdin, process.stdout

    def go(self) -> None:
        self._input.write(b"go\n")

    async def rest(self) -> Truth:
        """Stop them. Returns where they are."""
        self._input.write(b"rest\n")
        return await self.truth()

    async def truth(self) -> Truth:
        """What it prints next."""
        truth: Truth = json.loads(await self._output.readline())
        return truth


@pytest.fixture(scope="module")
def live_site() -> Iterator[LiveSite]:
    with LiveSite("signalbox") as site:
        yield site
        assert "Traceback" not in site.logs()[WEB], site.logs()[WEB]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vehicles(live_site: LiveSite) -> AsyncIterator[Vehicles]:
    """One process for all tests: it knows all that was ever published."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.vehicle_process"),
        **{"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "limit": 1 << 20},
        cwd=ROOT,
        env=live_site.environment(),
    )
    assert process.stdin
    try:
        vehicles = Vehicles(process)
        assert await vehicles.truth()
        yield vehicles
    finally:
        process.stdin.close()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """With the back/forward cache, which Playwright leaves out."""
    async with chromium(ignore_default_args=["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, live_site: LiveSite) -> AsyncIterator[BrowserContext]:
    """A browser in which somebody has signed in."""
    (session,) = (await asyncio.to_thread(live_site.sessions, 1)).values()
    context = await browser.new_context()
    await context.add_cookies([{"name": "sessionid", "value": session, "url": live_site.url}])
    yield context
    await context.close()


class Tab:
    """A page with a map."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        # WebSockets of the page itself; those of the worker are not among them.
        self.sockets: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("websocket", lambda socket: self.sockets.append(socket.url))

    async def get(self, expression: str) -> Any:
        return await self.page.evaluate(f"() => {expression}")

    async def reach(self, name: str, count: int) -> None:
        """Wait until a counter of the map is this high."""

        async def is_reached() -> bool:
            return bool(await self.get(f"map.{name} >= {count}"))

        try:
            await wait_until(is_reached, seconds=RETURN_SECONDS)
        except AssertionError as error:
            state = await self.get("({ ...map, live: map.live.items.size, connection: map.connection.state })")
            raise AssertionError(f"{error}: {state}, {self.complaints}") from None

    async def pan(self, is_panning: bool) -> None:
        await self.get(f"map.isPanning = {json.dumps(is_panning)}")

    async def shows(self, truth: Truth) -> None:
        """Wait until the items are those that brute force finds, with their newest offsets; there are some."""
        wanted = brute_force(truth, await self.get("map.live.filter"))
        assert wanted
        found: dict[str, int] = {}

        async def is_right() -> bool:
            found.clear()
            found.update(
                await self.get("Object.fromEntries([...map.live.items].map(([id, { offset }]) => [id, offset]))")
            )
            return found == wanted

        try:
            await wait_until(is_right, seconds=RETURN_SECONDS)
        except AssertionError:
            differences = {id: (found.get(id), wanted.get(id)) for id in found.keys() | wanted.keys()}
            raise AssertionError({id: both for id, both in differences.items() if both[0] != both[1]}) from None


def brute_force(truth: Truth, given: dict[str, Any]) -> dict[str, int]:
    """Name → offset of all vehicles that a filter lets through."""
    area, limit = area_of(given["bbox"]), level_limit(given["bbox"], given["zoom"])
    assert limit is not None
    found = {}
    for name, (offset, longitude, latitude, level, mode) in truth.items():
        x, y = point(longitude, latitude)
        is_inside = any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in area.rectangles)
        if is_inside and level <= limit and mode in given.get("tags", {}).get("mode", mode):
            found[name] = offset
    return found


async def open_tab(context: BrowserContext, site: LiveSite, given: dict[str, Any]) -> Tab:
    tab = Tab(await context.new_page())
    await tab.page.goto(site.url)
    await tab.page.evaluate(MAP, given)
    await tab.reach("resets", 1)
    return tab


async def test_two_maps_on_one_connection_survive_a_killed_server(
    live_site: LiveSite, context: BrowserContext, vehicles: Vehicles
) -> None:
    """They pan while vehicles move and the server is killed. At rest, another kill changes nothing on the pages."""
    vehicles.go()
    tabs = [
        await open_tab(context, live_site, {"bbox": [6, 45.5, 9, 47], "zoom": 8}),
        await open_tab(context, live_site, {"bbox": [7, 46, 10, 47], "zoom": 10, "tags": {"mode": ["rail", "bus"]}}),
    ]
    for tab in tabs:
        await tab.pan(True)
    for tab in tabs:
        await tab.reach("answers", 20)
    await asyncio.to_thread(live_site.kill_web)
    for tab in tabs:
        await tab.reach("resets", 2)
        await tab.reach("answers", await tab.get("map.answers") + 10)
        await tab.pan(False)
    truth = await vehicles.rest()
    for tab in tabs:
        await tab.shows(truth)

    changes = [await tab.get("map.changes") for tab in tabs]
    resets = [await tab.get("map.resets") for tab in tabs]
    await asyncio.to_thread(live_site.kill_web)
    for tab, count in zip(tabs, resets, strict=True):
        await tab.reach("resets", count + 1)
        await tab.shows(truth)
    assert [await tab.get("map.changes") for tab in tabs] == changes

    vehicles.go()
    for tab, count in zip(tabs, changes, strict=True):
        await tab.reach("changes", count + 5)
    truth = await vehicles.rest()
    for tab in tabs:
        await tab.shows(truth)
        assert (await tab.get("map.errors"), tab.complaints, tab.sockets) == ([], [], [])


async def test_a_map_that_is_kept_for_the_back_button_is_right_when_it_comes_back(
    live_site: LiveSite, context: BrowserContext, vehicles: Vehicles
) -> None:
    """It has no view while it is kept. Then it gets what has changed, and removes what has left."""
    given = {"bbox": [6, 45.5, 10, 47.5], "zoom": 9}
    vehicles.go()
    kept = await open_tab(context, live_site, given)
    other = await open_tab(context, live_site, given)
    await kept.page.evaluate("() => addEventListener('pageshow', (event) => (globalThis.isKept = event.persisted))")
    before = await kept.get("map.changes")
    await kept.page.goto(f"{live_site.url}/orders/")
    await other.reach("changes", await other.get("map.changes") + 5)
    truth = await vehicles.rest()
    # Playwright's go_back() waits for a page to load.
    devtools = await context.new_cdp_session(kept.page)
    entry = (await devtools.send("Page.getNavigationHistory"))["entries"][-2]
    await devtools.send("Page.navigateToHistoryEntry", {"entryId": entry["id"]})

    async def is_back() -> bool:
        # Until it is, the page that was there before may be asked, and be gone before it answers.
        with contextlib.suppress(Error):
            return bool(await kept.get("globalThis.isKept"))
        return False

    await wait_until(is_back, seconds=RETURN_SECONDS)
    await kept.reach("resets", 2)
    assert await kept.get("map.changes") > before
    for tab in (kept, other):
        await tab.shows(truth)
        assert (await tab.get("map.errors"), tab.complaints) == ([], [])


async def test_maps_go_on_alone_when_the_worker_is_killed(
    live_site: LiveSite, context: BrowserContext, browser: Browser, vehicles: Vehicles
) -> None:
    """Each tab subscribes its own view again, on a connection of its own, and redraws nothing that is still right."""
    vehicles.go()
    tabs = [
        await open_tab(context, live_site, {"bbox": [6, 45.5, 9, 47], "zoom": 8}),
        await open_tab(context, live_site, {"bbox": [7, 46, 10, 47], "zoom": 10}),
    ]
    truth = await vehicles.rest()
    for tab in tabs:
        await tab.shows(truth)
    changes = [await tab.get("map.changes") for tab in tabs]
    devtools = await browser.new_browser_cdp_session()
    targets = (await devtools.send("Target.getTargets", {}))["targetInfos"]
    (worker,) = [target for target in targets if target["type"] == "shared_worker"]
    await devtools.send("Target.closeTarget", {"targetId": worker["targetId"]})
    for tab in tabs:
        await tab.reach("resets", 2)
        await tab.shows(truth)
        assert len(tab.sockets) == 1
        assert [error["code"] for error in await tab.get("map.errors")] == ["not_shared"]
    assert [await tab.get("map.changes") for tab in tabs] == changes
    vehicles.go()
    for tab, count in zip(tabs, changes, strict=True):
        await tab.reach("changes", count + 5)
    truth = await vehicles.rest()
    for tab in tabs:
        await tab.shows(truth)
