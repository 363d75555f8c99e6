"""The dashboard's tables show all of their figures, on wide and narrow screens, in Django's look and in unfold's."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.support.browser import chromium
from tests.support.redis_server import RedisServer

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="module"),
]

ROOT = Path(__file__).resolve().parents[2]
# The names of the tables that are wider than their box, and of those boxes that are outside the window.
TOO_WIDE = """() => [...document.querySelectorAll("#sb-part .sb-table")]
  .filter((table) => {
    const box = table.parentElement, card = table.closest("section").getBoundingClientRect();
    return box.scrollWidth > box.clientWidth || card.right > document.documentElement.clientWidth || card.left < 0;
  })
  .map((table) => table.parentElement.getAttribute("aria-label"))"""


@pytest.fixture(scope="module", params=["plain", "unfold"])
def admin_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An admin with rows in each section: its URL, and the session of a superuser."""
    with RedisServer() as server:
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        environment |= {"VAR_DIR": str(tmp_path_factory.mktemp("site")), "REDIS_URL": server.url, "TEST_PREFIX": ""}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.filled_admin", request.param],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                url, session = process.stdout.readline().split()
                yield url, session
            finally:
                process.kill()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, admin_site: tuple[str, str]) -> AsyncIterator[Page]:
    url, session = admin_site
    context = await browser.new_context(base_url=url)
    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    yield await context.new_page()
    await context.close()


async def test_without_javascript_there_is_no_button_to_pause(browser: Browser, admin_site: tuple[str, str]) -> None:
    """The figures are there all the same; unfold shows no page without JavaScript, so the styles are asked."""
    url, session = admin_site
    context = await browser.new_context(base_url=url, java_script_enabled=False)
    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    page = await context.new_page()
    await page.goto("/admin/")
    assert await page.locator("#sb-pause").evaluate("element => getComputedStyle(element).display") == "none"
    await expect(page.locator("[data-live=outbox]")).not_to_be_empty()
    await context.close()


@pytest.mark.parametrize("width", [1280, 1024, 768, 360])
async def test_no_figure_is_cut_off(page: Page, width: int) -> None:
    """No table is wider than its box: texts have several lines, and on narrow screens each figure has its own line."""
    await page.set_viewport_size({"width": width, "height": 900})
    await page.goto("/admin/")
    sections = page.locator("#sb-part section")
    await expect(page.locator("#sb-part section.sb-card:has(table)")).to_have_count(await sections.count() - 1)
    for details in await page.locator("#sb-part details").all():
        await details.locator("summary").click()
    assert await page.evaluate(TOO_WIDE) == []
    heading = page.locator("section[aria-labelledby=sb-balances] thead")
    is_stacked = await heading.evaluate("element => getComputedStyle(element).position") == "absolute"
    assert is_stacked == (width == 360)
