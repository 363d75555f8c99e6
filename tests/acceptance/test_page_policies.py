"""Pages with the strictest Content Security Policies, and with scripts of another origin."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.utils.csp import CSP
from playwright.async_api import Browser, Page, Route, expect

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.people import OPEN, Person, at_browser
from tests.support.browser import chromium
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.database_independent]

STRICT = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC],
    "style-src": [CSP.NONCE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
    "require-trusted-types-for": ["'script'"],
}
POLICIES = {
    "nonce, strict-dynamic, trusted types": {**STRICT, "trusted-types": ["signalbox"]},
    "trusted types of any name": STRICT,
    "a nonce for scripts, and workers named": {**STRICT, "script-src": [CSP.NONCE], "worker-src": [CSP.SELF]},
}


@pytest.fixture(scope="module")
def page_site() -> Iterator[DeployedSite]:
    with DeployedSite("signalbox") as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def policy(values: dict[str, Any]) -> dict[str, str]:
    """The environment of a web server whose pages have this policy."""
    return {"DJANGO_SETTINGS_MODULE": "tests.support.page_settings", "SECURE_CSP": json.dumps(values)}


async def use_everything(site: DeployedSite, alice: Person, url: str) -> None:
    """Order something, read it, and open each page with a bell; all of them are live."""
    count = await alice.count()
    tab = await alice.new_page("/orders/")
    await tab.wait_for_selector(OPEN)
    await alice.page.locator("[data-place-order] button").first.click()
    await alice.has_count(count + 1)
    await alice.has_count(count + 1, tab)
    # Fetched again by the page's script, as the server renders it.
    await expect(tab.locator("[data-order]").first).to_be_visible()
    text = f"Notified at {url}"
    await asyncio.to_thread(site.manage, "notify", "alice", text)
    await alice.sees(text)
    await alice.page.locator("[data-signalbox-toggle]").click()
    await alice.page.locator("[data-signalbox-action=read-all] button").click()
    await alice.has_count(0)
    await alice.has_count(0, tab)
    await tab.goto(f"{url}/notifications/")
    await tab.wait_for_selector(OPEN)
    await tab.locator("[data-signalbox-list=inbox] [data-signalbox-action=archive] button").first.click()
    await expect(tab.locator("[data-signalbox-list=inbox] [data-notification-id]").first).not_to_contain_text(text)
    await tab.close()


@pytest.mark.parametrize("values", [pytest.param(values, id=name) for name, values in POLICIES.items()])
async def test_everything_works_under_a_strict_policy(
    page_site: DeployedSite, browser: Browser, values: dict[str, Any]
) -> None:
    """No page violates its policy, and all tabs share one connection. A tab that does not would report this."""
    with page_site.another_web("signalbox", **policy(values)) as url:
        async with at_browser(browser, url, "alice") as alice:
            response = await alice.page.reload()
            assert response is not None
            assert "nonce-" in response.headers["content-security-policy"]
            await alice.page.wait_for_selector(OPEN)
            await use_everything(page_site, alice, url)
            assert alice.complaints == [], "\n".join(alice.complaints)


async def test_a_policy_that_does_not_allow_the_name_is_told(page_site: DeployedSite, browser: Browser) -> None:
    """The bell has a connection of its own, the console says what to add to the policy, and no request is repeated."""
    with page_site.another_web("signalbox", **policy({**STRICT, "trusted-types": ["others"]})) as url:
        async with at_browser(browser, url, "alice") as alice:
            asked: list[str] = []
            alice.page.on("request", lambda request: asked.append(request.url) if "/bell/" in request.url else None)
            await asyncio.to_thread(page_site.manage, "notify", "alice", "Told all the same")
            await alice.sees("Told all the same")
            assert [said for said in alice.complaints if "add signalbox to trusted-types" in said]
            assert [said for said in alice.complaints if "not_shared" in said]
            assert not [said for said in alice.complaints if "unhandled" in said]
            await alice.page.clock.install()
            asked.clear()
            await alice.page.clock.run_for(60_000)
            assert asked == []


@pytest.mark.parametrize("has_cors", [True, False], ids=["with CORS", "without"])
async def test_scripts_of_another_origin(page_site: DeployedSite, browser: Browser, has_cors: bool) -> None:
    """With CORS, each tab has a live bell of its own and reports why; without, the bell is a link to the inbox."""

    async def serve(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, headers={**response.headers, "access-control-allow-origin": "*"})

    environment = {**policy({"script-src": ["*"], "style-src": ["*"]}), "STATIC_URL": f"{page_site.url}/static/"}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(page_site.another_web("signalbox", **environment))
        context = await browser.new_context()
        if has_cors:
            await context.route(f"{page_site.url}/static/**", serve)
        said: list[str] = []
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text))
        await log_in(page, url)
        if has_cors:
            await page.wait_for_selector(OPEN)
            await wait_until(lambda: any("not_shared" in text and "SharedWorker" in text for text in said))
        else:
            await wait_until(lambda: any("CORS" in text and "bell.js" in text for text in said))
            await page.locator("[data-signalbox-toggle]").click()
            await page.wait_for_url(f"{url}/notifications/")
        await context.close()


async def log_in(page: Page, url: str) -> None:
    await page.goto(f"{url}/login/")
    await page.fill("[name=username]", "alice")
    await page.fill("[name=password]", "demo")
    await page.press("[name=password]", "Enter")
    await page.wait_for_url(f"{url}/")
