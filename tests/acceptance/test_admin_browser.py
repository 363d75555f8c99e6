"""The admin in a real browser: its pages load only what the policy allows, and what is sent there reaches a bell."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.people import Person, at_browser
from tests.support.browser import chromium
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = [
    pytest.mark.acceptance,
    # The queries of its pages are shown on both databases by tests without a browser.
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="module"),
    # These tests do not depend on the web server.
    pytest.mark.parametrize("running_site", ["signalbox"], indirect=True),
]

PAGES = (
    "",
    "notifications/",
    "notifications/event/",
    "notifications/event/?q=office&state=published",
    "notifications/event/statistics/",
    "notifications/notification/?state=waiting",
    "notifications/delivery/",
    "notifications/delivery/dead-letters/",
    "notifications/digest/",
    "notifications/scheduled/",
    "notifications/destination/",
    "realtime/logpipeline/",
    "realtime/task/",
    "auth/user/",
    "auth/user/add/",
    "auth/group/add/",
    "demo/order/",
    "demo/order/add/",
    "password_change/",
)
PAGES_IN_BOTH_LOOKS = (
    *("", "notifications/event/", "notifications/event/statistics/", "notifications/delivery/"),
    "realtime/logpipeline/",
    "realtime/task/",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser; each person has separate cookies and tabs."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def admin(browser: Browser, site: DeployedSite) -> AsyncIterator[Person]:
    async with at_browser(browser, site.url, "admin") as person:
        yield person


async def choose(page: Page, name: str) -> None:
    """Type the beginning of a recipient's name, and choose the result."""
    await page.locator(".select2-selection").click()
    await page.keyboard.type(name[:-1])
    await page.locator(".select2-results__option", has_text=name).first.click()
    await expect(page.locator(".select2-selection__choice", has_text=name)).to_be_visible()


async def test_what_is_sent_in_the_admin_rings_the_bells_of_those_chosen(
    browser: Browser, site: DeployedSite, admin: Person
) -> None:
    """Recipients are found by typing, and an error keeps those chosen. Then bob sees it, and alice does not."""
    async with at_browser(browser, site.url, "alice") as alice, at_browser(browser, site.url, "bob") as bob:
        page = admin.page
        await page.goto(f"{site.url}/admin/notifications/event/send/")
        await choose(page, "bob")
        await page.fill("[name=message]", "The office closes at noon.")
        await page.fill("[name=url]", "javascript:alert(1)")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_text("Nothing was sent")).to_be_visible()
        await expect(page.locator(".select2-selection__choice", has_text="bob")).to_be_visible()
        await page.fill("[name=url]", "/orders/")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_text("is on its way to 1 recipient.")).to_be_visible()
        await bob.sees("The office closes at noon.")
        await page.get_by_role("link", name="The office closes at noon.").first.click()
        await expect(page.locator(".sb-table tbody tr")).to_have_count(1)
        await _ledger_is_complete(page)
        assert "The office closes at noon." not in alice.seen.values()
        assert admin.complaints == alice.complaints == bob.complaints == []


async def _ledger_is_complete(page: Page) -> None:
    """Open the page of the event's only notification: its ledger fits the window, and can be downloaded."""
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.locator(".sb-table tbody a").first.click()
    ledger = page.get_by_role("group", name="Ledger")
    # Relay and bot record their steps a moment after the bell has rung.
    for step in ("relayed", "deliveries planned"):
        while not await ledger.get_by_text(step, exact=True).count():
            await page.reload()
    for step in ("created", "published", "relayed", "deliveries planned"):
        await expect(ledger.locator("td", has=page.get_by_text(step, exact=True))).to_be_visible()
    assert await ledger.evaluate("table => table.scrollWidth <= table.clientWidth")
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="CSV").click()
    download = await downloading.value
    assert download.suggested_filename.startswith("notification-")


@pytest.mark.database_independent
async def test_no_page_of_the_admin_asks_for_what_the_policy_forbids(site: DeployedSite, admin: Person) -> None:
    """The console stays empty in both looks, also on pages whose scripts build calendars, filters and charts."""
    page, user_id = admin.page, await admin.user_id()
    for scheme, paths in (("light", PAGES), ("dark", PAGES_IN_BOTH_LOOKS)):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for path in paths:
            await page.goto(f"{site.url}/admin/{path}")
            is_dark = await page.evaluate("document.documentElement.classList.contains('dark')")
            assert is_dark == (scheme == "dark")
            assert admin.complaints == [], path

    await page.goto(f"{site.url}/admin/notifications/event/")
    await page.locator(".filter-open-button").click()
    await expect(page.get_by_text("in the outbox").last).to_be_visible()
    await page.goto(f"{site.url}/admin/auth/user/{user_id}/change/")
    await page.locator("[id^=calendarlink]").first.click()
    await expect(page.locator(".calendarbox").first).to_be_visible()
    await page.goto(f"{site.url}/admin/demo/order/add/")
    await page.locator(".related-widget-wrapper span", has_text="more_vert").first.click()
    await page.locator("a.add-related:visible").first.click()
    await expect(page.frame_locator("iframe.related-modal-frame").locator("[name=username]")).to_be_visible()
    await page.goto(f"{site.url}/admin/")
    shown = page.locator("section[aria-labelledby=sb-notifications]")
    await expect(shown.locator("svg.sb-chart .sb-chart-column")).to_have_count(24)
    await shown.get_by_text("Show as a table").press("Enter")
    await expect(shown.locator("details tbody tr").first).to_be_visible()
    await expect(shown.locator("details tbody tr")).to_have_count(24)
    assert admin.complaints == []


def created(page: Page) -> Locator:
    """The number of created notifications on the dashboard."""
    return page.locator(".sb-figure", has_text="created").locator("strong").first


async def test_the_dashboard_follows_what_happens(site: DeployedSite, admin: Person) -> None:
    """
    A notification changes its figures without a reload, and what the reader does with the page meanwhile stays: the
    focus, an opened table, the scroll position. While it is paused, it stands still.
    """
    page = admin.page
    await page.goto(f"{site.url}/admin/")
    await expect(page.locator("#sb-live")).not_to_be_empty()
    before = int((await created(page).inner_text()).replace(",", ""))
    await page.evaluate("globalThis.isTheSamePage = true")
    table = page.locator("section[aria-labelledby=sb-notifications] details")
    await table.locator("summary").click()
    link, latest = created(page).locator("a"), table.locator("tbody tr").first.locator("td").first
    await link.focus()
    await page.evaluate("scrollTo(0, 300)")
    site.manage("notify", "alice", "It works")
    await expect(created(page)).to_have_text(str(before + 1))
    await expect(latest).to_have_text(re.compile(r"[1-9]\d*"))
    await expect(link).to_be_focused()
    await expect(table).to_have_attribute("open", "")
    assert await page.evaluate("[globalThis.isTheSamePage, scrollY]") == [True, 300]

    pause = page.locator("#sb-pause")
    await expect(pause).to_have_text("Pause")
    await pause.press("Enter")
    await expect(pause).to_have_text("Resume")
    await expect(page.locator("#sb-live")).to_have_text("Paused")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    site.manage("notify", "alice", "It works again")
    site.manage("shell", "-v0", "-c", "from notifications.statistics.live import publish_live; publish_live()")
    # More than the three seconds after which a message makes the page read its figures.
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 3500))")
    assert asked == []
    await pause.press("Enter")
    await expect(pause).to_have_text("Pause")
    await expect(created(page)).to_have_text(str(before + 2))
    assert admin.complaints == []


async def test_the_dashboard_is_live_over_its_topic(site: DeployedSite, admin: Person) -> None:
    """A message on the topic is shown at once, and the figures are read again within seconds."""
    page = admin.page
    await page.goto(f"{site.url}/admin/")
    at = await page.locator("#sb-at").get_attribute("datetime")
    data = b'{"at": "2026-01-01T00:00:00Z", "outbox": 12345, "lag": null, "pending": 7, "delayed": 0}'
    # Until the page has subscribed, nobody gets it.
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await page.locator("[data-live=outbox]").inner_text() != "12,345":
            site.publish("signalbox.statistics", data)
    await expect(page.locator("#sb-live")).to_have_text("Live")
    await expect(page.locator("#sb-at")).not_to_have_attribute("datetime", str(at))
    await expect(page.locator("[data-live=outbox]")).to_have_text("0")
    assert admin.complaints == []


async def test_a_dashboard_asks_a_slow_server_less_often(site: DeployedSite, admin: Person) -> None:
    """The pause is four times as long as reading took, however many messages come meanwhile."""
    page, answer_seconds = admin.page, 1.5
    asked_at: list[float] = []

    async def answer_late(route: Route) -> None:
        asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(answer_seconds)
        await route.continue_()

    await page.route("**/statistics/?format=part*", answer_late)
    await page.goto(f"{site.url}/admin/")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(asked_at) < 2:
            site.publish("signalbox.statistics", b'{"outbox": 0}')
            await asyncio.sleep(0.1)
    assert asked_at[1] - asked_at[0] > 4.5 * answer_seconds
    await page.unroute_all(behavior="wait")


async def test_nobody_else_gets_the_live_numbers(browser: Browser, site: DeployedSite) -> None:
    """The server refuses the topic to customers."""
    async with at_browser(browser, site.url, "alice") as alice:
        answer = await alice.page.evaluate(
            """async () => {
              const { connect } = await import("/static/realtime/client.js");
              const subscription = connect().subscribe("signalbox.statistics");
              return await new Promise((resolve) => subscription.on("error", ({ code }) => resolve(code)));
            }"""
        )
        assert answer == "forbidden"


@pytest.mark.parametrize(("width", "is_open"), [(1279, False), (1280, True), (1920, True), (3840, True)])
async def test_the_navigation_is_seen_where_there_is_room(
    site: DeployedSite, admin: Person, width: int, is_open: bool
) -> None:
    """From 1280 pixels on, our pages first; the page itself does not scroll sideways."""
    page = admin.page
    await page.set_viewport_size({"width": width, "height": 800})
    await page.goto(f"{site.url}/admin/")
    await expect(page.locator("#sb-dashboard")).to_be_visible()
    await expect(page.locator("#nav-sidebar")).to_be_visible(visible=is_open)
    first = page.locator("#nav-sidebar-apps h2").first
    assert (await first.text_content() or "").strip() == "Notifications"
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    # A reader may close it, and it stays closed.
    await page.keyboard.press("[")
    await expect(page.locator("#nav-sidebar")).to_be_visible(visible=not is_open)
    await page.reload()
    await expect(page.locator("#sb-dashboard")).to_be_visible()
    await expect(page.locator("#nav-sidebar")).not_to_be_visible()
    assert admin.complaints == []


@pytest.mark.parametrize("width", [320, 768])
async def test_the_dashboard_fits_a_narrow_screen(site: DeployedSite, admin: Person, width: int) -> None:
    """Wide tables and the chart scroll; the page does not."""
    page = admin.page
    await page.set_viewport_size({"width": width, "height": 640})
    for period in ("hour", "day", "month"):
        await page.goto(f"{site.url}/admin/?period={period}")
        await expect(page.locator("#sb-dashboard")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture
def log_stream(site: DeployedSite) -> Iterator[None]:
    """Nothing of log records and games is left in Redis: the next tests have the same site."""
    yield
    with redis.Redis.from_url(site.redis_url) as client:
        client.delete("logs", *client.scan_iter("demo:*"))


@pytest.mark.database_independent
@pytest.mark.usefixtures("log_stream")
async def test_the_log_pipeline_is_seen_at_work(site: DeployedSite, admin: Person) -> None:
    """The page follows the records without a reload, draws their rate, and stands still while it is paused."""
    page = admin.page
    await page.goto(f"{site.url}/admin/realtime/logpipeline/")
    await expect(page.get_by_text("No worker of Games is running.")).to_be_visible()
    site.manage("simulate_games", "--games=1", "--players=2", "--seed=1", "--pause=0")
    latest = page.locator("#rt-latest")
    await expect(latest.get_by_text("Cleaning Game Records")).to_be_visible()
    chart = page.get_by_role("img", name="Records a second")
    await expect(chart).to_be_visible()
    # In two and more points: something was appended between two questions.
    await expect(page.locator("#rt-line-added")).to_have_attribute("points", re.compile(r"\S+ \S+"))
    # Both sinks wait for a worker: the slowest is the first of them.
    await expect(page.locator("#rt-slowest")).to_have_text("Games")

    size = page.viewport_size
    assert size is not None
    await page.set_viewport_size({"width": 400, "height": 800})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
    await page.set_viewport_size(size)

    pause = page.get_by_role("button", name="Pause")
    await pause.focus()
    await page.keyboard.press("Enter")
    await expect(pause).to_have_attribute("aria-pressed", "true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    shown = await page.locator("#rt-at").text_content()
    # More than the two seconds after which it would ask again.
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 2500))")
    assert asked == []
    await page.keyboard.press("Enter")
    await expect(page.locator("#rt-at")).not_to_have_text(str(shown))
    assert admin.complaints == []
