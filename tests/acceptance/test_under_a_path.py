"""A site that is not at the root of its host: the pages, the bell and its WebSocket, on each web server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.path_proxy import PathProxy
from tests.acceptance.people import at_browser
from tests.support.browser import chromium

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.database_independent]

# Django's handler for static files in development knows no root path; behind a real proxy, that serves them.
STATIC = {"STATIC_URL": "/app/static/"}


@pytest.fixture(scope="module")
def path_site() -> Iterator[DeployedSite]:
    with DeployedSite("signalbox") as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.mark.parametrize(
    ("server", "arguments", "environment", "is_taken_off"),
    [
        pytest.param("signalbox", ["--root-path=/app"], STATIC, True, id="signalbox, root path, taken off by a proxy"),
        pytest.param("uvicorn", ["--root-path=/app"], STATIC, True, id="uvicorn, root path, taken off by a proxy"),
        pytest.param("daphne", ["--root-path=/app"], STATIC, False, id="daphne, root path"),
        pytest.param("signalbox", [], {"FORCE_SCRIPT_NAME": "/app"}, False, id="signalbox, FORCE_SCRIPT_NAME"),
    ],
)
async def test_the_bell_is_live_under_a_path(
    path_site: DeployedSite,
    browser: Browser,
    server: str,
    arguments: list[str],
    environment: dict[str, str],
    is_taken_off: bool,
) -> None:
    """A notification is shown and marked as read, and no request goes outside the path."""
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(path_site.another_web(server, *arguments, **environment))
        if is_taken_off:
            url = (await stack.enter_async_context(PathProxy("/app", url))).url
        alice = await stack.enter_async_context(at_browser(browser, f"{url}/app", "alice"))
        assert alice.page.url == f"{url}/app/"
        count = await alice.count()
        text = f"Under a path: {server} {arguments}"
        await asyncio.to_thread(path_site.manage, "notify", "alice", text)
        await alice.sees(text)
        await alice.has_count(count + 1)
        await alice.page.locator("[data-signalbox-toggle]").click()
        await alice.page.locator("[data-signalbox-action=read-all] button").click()
        await alice.has_count(0)
        await alice.page.locator("[data-signalbox-bell] footer a").click()
        await alice.page.wait_for_url(f"{url}/app/notifications/")
        await alice.page.locator("text=Sign out").click()
        await alice.page.wait_for_url(f"{url}/app/")
        assert alice.complaints == []
