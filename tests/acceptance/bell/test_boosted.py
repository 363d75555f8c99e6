"""Pages whose content htmx's hx-boost or Turbo replaces without loading a page."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from notifications.models import Notification
from tests.acceptance.bell.stage import COUNT, LIST, PANEL, TOGGLE, Stage
from tests.support.page_libraries import library
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

ROOT = Path(__file__).resolve().parents[3]
SCRIPT_PATH = "/static/libraries/{}.js"
# The style sheet of htmx is inline, which the site's policy forbids, and is not needed here.
HEAD = (
    '<meta name="htmx-config" content=\'{{"includeIndicatorStyles": false}}\'><script src="{}" defer></script></head>'
)
TOASTS = "[data-signalbox-toasts]"
# Requests of the page's own scripts; the count is gone after the browser has loaded a page.
COUNT_REQUESTS = """
() => {
  Object.assign(globalThis, { asked: 0, ended: 0 });
  const real = fetch;
  globalThis.fetch = (...args) => {
    asked += 1;
    return real(...args).finally(() => (ended += 1));
  };
}
"""
IS_QUIET = """
(before) => new Promise((resolve) => setTimeout(
  // Turbo's and htmx's words for being on the way.
  () => resolve(!document.querySelector("html[aria-busy], .htmx-request") && asked > before && asked === ended), 1
))
"""
# Clicks that lead to another page, there and back.
TOUR = ("My orders", "Shop")


@pytest_asyncio.fixture(loop_scope="package", params=["htmx", "turbo"])
async def page(request: pytest.FixtureRequest, stage: Stage, tmp_path: Path, settings: Any) -> Page:
    """The shop with boosted links and forms: after this, the browser must not load a page."""
    script = SCRIPT_PATH.format(request.param)
    base = (ROOT / "project/demo/templates/base.html").read_text()
    base = base.replace("</head>", HEAD.format(script)).replace("<body>", '<body hx-boost="true">')
    (tmp_path / "base.html").write_text(base)
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    await stage.context.route(f"**{script}", lambda route: route.fulfill(path=library(request.param)))
    page = await stage.open()
    await page.evaluate(COUNT_REQUESTS)
    return page


async def go(page: Page, link: str) -> None:
    """Follow a link of the header; the new page's bell has read the inbox when this returns."""
    before = await page.evaluate("asked")
    await page.locator(f".site-nav a:text-is('{link}')").click()
    await is_there(page, link, before)


async def is_there(page: Page, link: str, before: int) -> None:
    """Wait until the page is shown and its bell has fetched. Turbo may first show a copy, whose bell fetches too."""
    await expect(page.locator(f".site-nav a[aria-current=page]:text-is('{link}')")).to_be_visible()
    await expect(page.locator("[data-signalbox-bell][data-signalbox-state=open]")).to_have_count(1)
    await wait_until(functools.partial(page.evaluate, IS_QUIET, before))


async def test_the_new_pages_bell_is_live_on_the_same_connection(stage: Stage, page: Page) -> None:
    """The second bell works like the first one, and announces each notification once."""
    stage.publish(await stage.commit("on the first page"))
    await expect(page.locator(COUNT)).to_have_text("1")
    for number, link in enumerate(TOUR * 3, 2):
        await go(page, link)
        stage.publish(await stage.commit(f"on page {number}"))
        await expect(page.locator(COUNT)).to_have_text(str(number))
        await expect(page.locator(".signalbox-toast")).to_have_text([f"on page {number}×"])
        await expect(page.locator(TOASTS)).to_have_count(1)
    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_visible()
    assert len(stage.sockets) == 1


async def test_a_form_of_the_bell_is_sent_once_and_the_page_stays(stage: Stage, page: Page) -> None:
    """Neither library sends the form again or replaces the page with the answer."""
    for text in ("one", "two"):
        await stage.commit(text)
    await go(page, "My orders")
    posted: list[str] = []
    page.on("request", lambda request: posted.append(request.url) if request.method == "POST" else None)
    await page.evaluate("document.querySelector('main').append(document.createElement('textarea'))")
    await page.locator("textarea").fill("half-written")
    await page.locator(TOGGLE).click()
    await expect(page.locator(LIST)).to_have_count(2)
    await page.locator(f"{LIST} [data-signalbox-action=read] button").first.click()
    await expect(page.locator(COUNT)).to_have_text("1")
    await page.locator("[data-signalbox-bell] [data-signalbox-action=read-all] button").click()
    await expect(page.locator(COUNT)).to_be_hidden()
    assert await Notification.objects.filter(read_at=None).acount() == 0
    assert sorted(url.rsplit("/", 2)[1] for url in posted) == ["read", "read", "seen"]
    assert await page.locator("textarea").input_value() == "half-written"


async def test_the_back_button_brings_back_a_live_bell(stage: Stage, page: Page) -> None:
    """Both libraries keep a copy of the old page, with its button, open panel and announcements."""
    await stage.commit("before")
    await go(page, "My orders")
    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_visible()
    await go(page, "Shop")
    stage.publish(await stage.commit("meanwhile"))
    await expect(page.locator(COUNT)).to_have_text("2")
    asked = await page.evaluate("asked")
    await page.evaluate("history.back()")
    await is_there(page, "My orders", asked)
    await expect(page.locator(COUNT)).to_have_text("2")
    await expect(page.locator(TOASTS)).to_have_count(1)
    stage.publish(await stage.commit("after"))
    await expect(page.locator(COUNT)).to_have_text("3")
    await expect(page.locator(".signalbox-toast")).to_have_text(["after×"])
    await expect(page.locator(PANEL)).to_be_hidden()
    await page.locator(TOGGLE).click()
    await expect(page.locator(f"{LIST} [data-signalbox-message]")).to_have_text(["after", "meanwhile", "before"])
    assert len(stage.sockets) == 1


async def test_a_page_without_a_bell_ends_the_connection(stage: Stage, page: Page) -> None:
    """For example after a boosted form has signed the user out."""
    closed: list[Any] = []
    stage.sockets[0].on_close(lambda code, reason: closed.append(code))
    await page.locator("text=Sign out").click()
    await expect(page.locator("text=Sign in").first).to_be_visible()
    assert await page.evaluate("typeof asked") == "number"
    await wait_until(lambda: closed)
    assert len(stage.sockets) == 1
    assert await page.evaluate("import('/static/notifications/bell.js').then(({ connection }) => connection)") is None


async def test_nothing_is_left_of_a_bell_that_is_gone(stage: Stage, page: Page) -> None:
    """The number of event listeners does not grow with the number of pages."""
    devtools = await stage.context.new_cdp_session(page)

    async def listeners() -> int:
        await devtools.send("HeapProfiler.collectGarbage")
        return int((await devtools.send("Memory.getDOMCounters"))["jsEventListeners"])

    for link in TOUR * 3:
        await go(page, link)
    before = await listeners()
    for link in TOUR * 6:
        await go(page, link)
    # A bell has about ten listeners. A library may not have released its last pages yet.
    await wait_until(functools.partial(is_at_most, listeners, before + 10))
    assert len(stage.sockets) == 1


async def is_at_most(measure: Callable[[], Awaitable[int]], limit: int) -> bool:
    return await measure() <= limit
