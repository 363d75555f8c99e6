"""The admin in a real browser: its pages load only what the policy allows, and what is sent there reaches a bell."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, Page, expect

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.people import Person, at_browser
from tests.support.browser import chromium

pytestmark = [
    pytest.mark.acceptance,
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
        assert "The office closes at noon." not in [sight.message for sight in alice.seen.values()]
        assert admin.complaints == alice.complaints == bob.complaints == []


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
    await page.goto(f"{site.url}/admin/notifications/event/statistics/")
    for section in ("hours", "delivery-hours"):
        shown = page.locator(f"section[aria-labelledby={section}]")
        await expect(shown.locator("svg.sb-chart .sb-chart-column")).to_have_count(24)
        await shown.get_by_text("Show as a table").press("Enter")
        await expect(shown.locator("details tbody tr").first).to_be_visible()
        await expect(shown.locator("details tbody tr")).to_have_count(24)
    assert admin.complaints == []


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
