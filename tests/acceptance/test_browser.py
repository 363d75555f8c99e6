"""What users see in a real browser, from each of the four sources of a notification to the bell and back."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, expect

from tests.acceptance.deployed_site import WEB, DeployedSite
from tests.acceptance.people import OPEN, Person, at_browser
from tests.support.browser import chromium

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser; each person has separate cookies and tabs."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def alice(browser: Browser, site: DeployedSite) -> AsyncIterator[Person]:
    async with at_browser(browser, site.url, "alice") as person:
        yield person


@pytest_asyncio.fixture(loop_scope="module")
async def bob(browser: Browser, site: DeployedSite) -> AsyncIterator[Person]:
    async with at_browser(browser, site.url, "bob") as person:
        yield person


@pytest_asyncio.fixture(loop_scope="module")
async def admin(browser: Browser, site: DeployedSite) -> AsyncIterator[Person]:
    async with at_browser(browser, site.url, "admin") as person:
        yield person


@pytest.fixture
def foreign_program(site: DeployedSite) -> Iterator[redis.Redis]:
    """A program in any language: it knows the address of Redis and nothing else."""
    with redis.Redis.from_url(site.redis_url) as client:
        yield client


def tell(foreign_program: redis.Redis, user_id: int, message: str) -> None:
    assert foreign_program.publish("notification", json.dumps({"user_id": user_id, "message": message})) == 1


async def test_each_cause_reaches_the_right_bell(
    site: DeployedSite,
    alice: Person,
    bob: Person,
    admin: Person,
    foreign_program: redis.Redis,
) -> None:
    """A view, a signal through the admin, a command and a foreign program. Alice sees hers; bob sees only his own."""
    count = await alice.count()
    hers, his = set(alice.seen), set(bob.seen)

    product = await alice.page.locator(".good h3").first.inner_text()
    await alice.page.locator("[data-place-order] button").first.click()
    await alice.sees(f"Thank you! We have your order: {product}.")

    await admin.page.goto(f"{site.url}/admin/demo/order/")
    await admin.page.locator("#result_list tbody th a, #result_list tbody a").first.click()
    await admin.page.select_option("[name=status]", "packed")
    await admin.page.locator("[name=_save]").click()
    await alice.sees(f"Packed and labelled: {product}.")

    await asyncio.to_thread(site.manage, "notify", "alice", "From the command line")
    await alice.sees("From the command line")
    tell(foreign_program, await alice.user_id(), "From a foreign program")
    await alice.sees("From a foreign program")
    # A misdirected notification would have arrived before these two.
    tell(foreign_program, await bob.user_id(), "For bob")
    await bob.sees("For bob")
    tell(foreign_program, await alice.user_id(), "The end")
    await alice.sees("The end")
    assert [bob.seen[number] for number in bob.seen if number not in his] == ["For bob"]
    assert [alice.seen[number] for number in alice.seen if number not in hers] == [
        f"Thank you! We have your order: {product}.",
        f"Packed and labelled: {product}.",
        "From the command line",
        "From a foreign program",
        "The end",
    ]

    await alice.has_count(count + 5)
    await alice.reload()
    await alice.has_count(count + 5)
    assert alice.complaints == bob.complaints == admin.complaints == []


async def test_a_task_makes_the_receipt_as_soon_as_a_worker_runs(site: DeployedSite, alice: Person) -> None:
    """The order waits for none. Then the bell rings, the open page gets a link, and the link leads to the receipt."""
    product = await alice.page.locator(".good h3").last.inner_text()
    await alice.page.locator("[data-place-order] button").last.click()
    await alice.sees(f"Thank you! We have your order: {product}.")
    tab = await alice.new_page("/orders/")
    await tab.wait_for_selector(OPEN)
    newest = tab.locator("[data-order]").first
    await expect(newest.locator("[data-receipt]")).to_have_count(0)

    with site.task_worker():
        await alice.sees(f"Your receipt is ready: {product}.")
        address = await newest.locator("[data-receipt]").get_attribute("href")
    # Not by a click: the browser would ask for an icon of that text.
    receipt = await tab.request.get(f"{site.url}{address}")
    assert receipt.status == 200
    text = await receipt.text()
    assert text.startswith("SIGNALBOX SHOP")
    assert product in text
    assert alice.complaints == []


async def test_the_count_stays_right_as_notifications_are_read(
    alice: Person, bob: Person, foreign_program: redis.Redis
) -> None:
    """One or all are marked as read in the bell. The other tab follows at once, and a reload shows the same."""
    await alice.page.locator("[data-signalbox-toggle]").click()
    if await alice.count():
        # From earlier tests.
        await alice.page.locator("[data-signalbox-action=read-all] button").click()
        await alice.has_count(0)
    others = await bob.count()
    for number in range(3):
        tell(foreign_program, await alice.user_id(), f"Number {number}")
        await alice.sees(f"Number {number}")
    await alice.has_count(3)
    tab = await alice.new_page("/orders/")
    await tab.wait_for_selector(OPEN)
    await alice.has_count(3, tab)

    newest = alice.page.locator("[data-signalbox-list=bell] [data-notification-id]").first
    await expect(newest).to_contain_text("Number 2")
    await newest.locator("[data-signalbox-action=read] button").click()
    await expect(newest).to_have_attribute("data-signalbox-item-state", "read")
    await alice.has_count(2)
    await alice.has_count(2, tab)
    await alice.reload()
    await alice.has_count(2)

    await tab.locator("[data-signalbox-toggle]").click()
    await tab.locator("[data-signalbox-action=read-all] button").click()
    for page in (tab, alice.page):
        await alice.has_count(0, page)
    await alice.reload()
    await alice.has_count(0)
    assert await bob.count() == others
    assert alice.complaints == bob.complaints == []


async def test_a_bell_returns_after_the_web_server_was_away(
    site: DeployedSite, alice: Person, foreign_program: redis.Redis
) -> None:
    """Messages of the meantime appear once each, without any action on the page."""
    count = await alice.count()
    await asyncio.to_thread(site.stop, WEB)
    try:
        await expect(alice.page.locator("[data-signalbox-bell]")).not_to_have_attribute("data-signalbox-state", "open")
        tell(foreign_program, await alice.user_id(), "While you were away")
    finally:
        await asyncio.to_thread(site.start_web)
    await alice.sees("While you were away")
    await alice.page.wait_for_selector(OPEN)
    tell(foreign_program, await alice.user_id(), "Back again")
    await alice.sees("Back again")
    await alice.has_count(count + 2)
    assert not [said for said in alice.complaints if said.startswith("CSP")]


async def test_what_is_done_while_the_web_server_is_away_is_done_when_it_is_back(
    site: DeployedSite, alice: Person, foreign_program: redis.Redis
) -> None:
    """The page stays, keeps the text that is being typed, and shows the problem."""
    tell(foreign_program, await alice.user_id(), "Read while nobody serves")
    await alice.sees("Read while nobody serves")
    page, notice = alice.page, alice.page.locator("[data-signalbox-toasts] [data-signalbox-notice]")
    await page.evaluate("document.querySelector('main').append(document.createElement('textarea'))")
    await page.locator("textarea").fill("half-written")
    await page.locator("[data-signalbox-toggle]").click()
    await asyncio.to_thread(site.stop, WEB)
    try:
        await page.locator("[data-signalbox-bell] [data-signalbox-action=read-all] button").click()
        await expect(notice).to_contain_text("Trying again…")
    finally:
        await asyncio.to_thread(site.start_web)
    await expect(page.locator("[data-signalbox-count]")).to_be_hidden()
    await expect(notice).to_contain_text("Saved.")
    assert await page.locator("textarea").input_value() == "half-written"
    await alice.reload()
    await alice.has_count(0)


async def test_a_page_that_connects_for_nobody_is_told_why(browser: Browser, site: DeployedSite) -> None:
    """An error event with the reason, and then it is closed."""
    page = await browser.new_page()
    await page.goto(f"{site.url}/login/")
    heard = await page.evaluate("""
      async () => {
        const { connect } = await import("/static/realtime/client.js");
        const connection = connect();
        const heard = [];
        connection.on("error", ({ code, detail }) => heard.push(`${code}: ${detail}`));
        await new Promise((resolve) => connection.on("state", (state) => state === "closed" && resolve()));
        return [...heard, connection.state];
      }
    """)
    # Daphne passes on only the code; the client explains it.
    reason = "nobody is signed in, or the account is inactive" if site.server == "daphne" else "sign in first"
    assert heard == [f"unauthorised: {reason}", "closed"]
    await page.close()


async def test_who_is_not_logged_in_has_no_bell(browser: Browser, site: DeployedSite) -> None:
    """The shop and the login page open no connection and log nothing on the console."""
    page = await browser.new_page()
    complaints: list[str] = []
    opened: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("websocket", lambda socket: opened.append(socket.url))
    for path in ("/", "/login/"):
        await page.goto(site.url + path, wait_until="networkidle")
        assert await page.locator("[data-signalbox-bell]").count() == 0
    assert complaints == opened == []
