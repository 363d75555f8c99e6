"""
`python -m benchmarks.map.first_picture`: how soon a real browser shows the vehicles of the demo's map.

Owns the visits, the check of what each has shown, and the figures. Does not own the site (demo) nor the time itself,
which the page measures: from its subscription to the first picture with all vehicles (figures.js).
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.map.demo import OPENING, DemoSite, Place, in_view, place_with
from benchmarks.processes import BenchmarkError
from benchmarks.stage import Stage

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

__all__ = ["main"]

BAR_MS = 300
_SCREEN = {"width": 1280, "height": 800}
_PICTURE_MS = 30_000
# Not more often, so that polling does not disturb the page. Polling once per frame would make the page draw.
_ASK_MS = 100
_PICTURE = """() => {
  const [measure] = performance.getEntriesByName("vehicles:first-picture");
  return measure && {
    ms: measure.duration,
    pageMs: measure.startTime + measure.duration,
    names: measure.detail.names,
    filter: liveMap.live.filter,
  };
}"""
_SIZE = "() => [liveMap.map.getSize().x, liveMap.map.getSize().y]"
_STATE = "() => document.querySelector('[data-live-map]')?.innerText ?? document.title"
EPILOG = """
A cold visit is the first to a server process that has just been started and has no vehicle in its memory. A warm visit
is to a process that already serves the same vehicles to another page. Each visit has a new browser profile, so the
browser's cache is empty, and the vehicles move meanwhile. The vehicles in the first picture are compared with those
that Redis has in the view before the visit and after it. Those that it has both times must be in the picture. Those
that it has neither time must not be.

The time begins with the subscription and ends when the page has drawn. It does not include what the screen needs after
that. The page connects while it loads its map. If the connection is not open by then, the rest of the handshake is
included. "Whole page" is the median time from the beginning of the navigation to the same picture.

The exit code is 1 if a visit showed no vehicles or others than Redis has, if the page reported an error, or if the
browser failed. The times do not change it. The command uses the loopback only, has its own Redis and database, and
removes them.

examples:
  python -m benchmarks.map.first_picture
  python -m benchmarks.map.first_picture --visits 5 --json
  python -m benchmarks.map.first_picture --feeds 20 --vehicles 600 --shown 50 --visits 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """
    Attributes:
        ms: From the subscription to the first picture.
        page_ms: From the beginning of the navigation to the same picture.
        shown: The number of vehicles in it.
    """

    ms: float
    page_ms: float
    shown: int


class _Visits:
    """
    Pages that are opened one after the other.

    Args:
        site: With moving vehicles.
        session: The cookie of a user.
    """

    def __init__(self, browser: "Browser", site: DemoSite, session: str) -> None:
        self._browser, self._site, self._session = browser, site, session
        self.place = OPENING

    async def find_place(self, shown: int) -> None:
        """Go to a place where about this many vehicles are on the screen."""
        async with self._page() as page:
            await _picture(page)
            width, height = await page.evaluate(_SIZE)
        self.place = await asyncio.to_thread(place_with, shown, self._site.truth(), (width, height))

    async def cold(self, count: int) -> list[_Visit]:
        """Visits, each the first to a server process."""
        visits = []
        for _ in range(count):
            await asyncio.to_thread(self._site.restart_server)
            visits.append(await self._visit())
        return visits

    async def warm(self, count: int) -> list[_Visit]:
        """Visits while another page shows the same place."""
        await asyncio.to_thread(self._site.restart_server)
        async with self._page() as other:
            await _picture(other)
            return [await self._visit() for _ in range(count)]

    async def _visit(self) -> _Visit:
        before = await asyncio.to_thread(self._site.truth)
        async with self._page() as page:
            found = await _picture(page)
            after = await asyncio.to_thread(self._site.truth)
        shown = set(found["names"])
        # A vehicle that moved in or out meanwhile may be in the picture or not.
        then, now = ({" ".join(name) for name in in_view(truth, found["filter"])} for truth in (before, after))
        missing, wrong = (then & now) - shown, shown - then - now
        if not shown or missing or wrong:
            raise BenchmarkError(
                f"a visit to {self.place} showed {len(shown)} vehicles, without {_some(missing)} that Redis had there "
                f"before and after it, and with {_some(wrong)} that Redis did not have there"
            )
        return _Visit(ms=found["ms"], page_ms=found["pageMs"], shown=len(shown))

    @asynccontextmanager
    async def _page(self) -> "AsyncIterator[Page]":
        """
        A page of a new profile that opens the map.

        Raises:
            BenchmarkError: The page reported an error.
        """
        from playwright.async_api import Error as BrowserError

        complaints: list[str] = []
        context = await self._browser.new_context(viewport=_SCREEN)  # type: ignore[arg-type]
        try:
            await context.add_cookies([{"name": "sessionid", "value": self._session, "url": self._site.url}])
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            await page.goto(f"{self._site.url}/map/#{self.place}", wait_until="commit", timeout=_PICTURE_MS)
            yield page
        except (BenchmarkError, BrowserError) as error:
            if complaints:
                raise BenchmarkError(f"{error}\nthe page reports: {complaints[:3]}") from error
            raise
        finally:
            await context.close()
        if complaints:
            raise BenchmarkError(f"the page reports: {complaints[:3]}")


async def _picture(page: "Page") -> dict[str, Any]:
    """Wait for the first picture. Returns its times, the names of its vehicles, and the page's filter."""
    from playwright.async_api import TimeoutError as TooLate

    try:
        handle = await page.wait_for_function(_PICTURE, polling=_ASK_MS, timeout=_PICTURE_MS)
    except TooLate:
        raise BenchmarkError(f"no first picture; the page says: {await page.evaluate(_STATE)}") from None
    found: dict[str, Any] = await handle.json_value()
    return found


def _some(names: set[str]) -> str:
    """The number of these vehicles, and a few of their names."""
    return f"{len(names)} ({', '.join(sorted(names)[:3])})" if names else "0"


async def _measure(site: DemoSite, session: str, *, visits: int, shown: int) -> tuple[Place, dict[str, list[_Visit]]]:
    from playwright.async_api import Error as BrowserError

    from tests.support.browser import chromium

    try:
        async with chromium() as browser:
            pages = _Visits(browser, site, session)
            await pages.find_place(shown)
            return pages.place, {"cold": await pages.cold(visits), "warm": await pages.warm(visits)}
    except BrowserError as error:
        raise BenchmarkError(f"the browser failed: {error}") from error


def _figures(visits: Sequence[_Visit]) -> dict[str, Any]:
    times = [visit.ms for visit in visits]
    median = statistics.median(times)
    p95 = statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else median
    return {
        "visits": len(visits),
        "median_ms": round(median, 1),
        "p95_ms": round(p95, 1),
        "max_ms": round(max(times), 1),
        "page_median_ms": round(statistics.median(visit.page_ms for visit in visits), 1),
        "shown": [min(visit.shown for visit in visits), max(visit.shown for visit in visits)],
        "is_within_bar": max(median, p95) <= BAR_MS,
    }


def _text(run: dict[str, Any]) -> str:
    names = ("median_ms", "p95_ms", "max_ms", "page_median_ms")
    lines = [
        f"{run['machine']}; load {run['load']}; commit {run['commit']}",
        f"{run['vehicles']:,} vehicles in {run['feeds']} feeds; a page of 1280x800 at {run['place']}",
        "",
        "         visits    median       p95       max  whole page  vehicles shown",
    ]
    for name, found in run["figures"].items():
        *times, page = (f"{found[each]:.0f} ms" for each in names)
        is_met = found["is_within_bar"]
        words = f"median and p95 are at most {BAR_MS} ms" if is_met else f"median or p95 is more than {BAR_MS} ms"
        least, most = found["shown"]
        line = f"{name:<8}{found['visits']:>7}" + "".join(f"{each:>10}" for each in times)
        lines.append(f"{line}{page:>12}  {least:,} to {most:,}: {words}")
    return "\n".join(lines) + "\n"


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.map.first_picture",
        description="Measure how soon a real browser shows the vehicles of the demo's map.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--visits", type=int, default=20, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--feeds", type=int, default=500, metavar="N", help="cities (default: %(default)s)")
    parser.add_argument(
        "--vehicles", type=int, default=20_000, metavar="N", help="in all cities (default: %(default)s)"
    )
    parser.add_argument(
        "--shown", type=int, default=2_000, metavar="N", help="about how many on the screen (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    options = parser.parse_args(words)
    if min(options.visits, options.shown) < 1:
        parser.error("--visits and --shown must be at least 1")
    return options


def _run(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from tests.support.browser import NoBrowser, chromium_path
    except ModuleNotFoundError as error:
        raise BenchmarkError(f"{error.name} is not installed: pip install -r requirements-dev.txt") from None
    try:
        chromium_path()
    except NoBrowser as error:
        raise BenchmarkError(str(error)) from None
    load = machine.load_average()
    with Stage(users=1) as stage, DemoSite(stage, feeds=options.feeds, vehicles=options.vehicles) as site:
        (line,) = stage.cookies.read_text().splitlines()
        session = line.split("\t")[1]
        place, visits = asyncio.run(_measure(site, session, visits=options.visits, shown=options.shown))
    return {
        "machine": machine.describe(),
        "commit": machine.commit(),
        "load": round(load, 2),
        "feeds": options.feeds,
        "vehicles": options.vehicles,
        "place": str(place),
        "bar_ms": BAR_MS,
        "figures": {name: _figures(each) for name, each in visits.items()},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for. Returns 1 if a visit or the browser failed."""
    options = _options(words)
    try:
        run = _run(options)
    except BenchmarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(run) + "\n" if options.json else _text(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
