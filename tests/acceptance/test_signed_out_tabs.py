"""Signing out in one tab: every tab shows it and hides the data, with a SharedWorker and two web servers."""

import asyncio
import json
import time

import pytest
import redis
from playwright.async_api import Browser, BrowserContext, Page, expect

from realtime.protocol.close_codes import CloseCode
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.test_access import Ending
from tests.support.browser import chromium
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

COUNT = "[data-signalbox-count]"
ITEMS = "[data-notification-id]"
NOTICE = "[data-signalbox-notice]"
LOG_IN = """
from django.contrib.auth.models import User
from django.test import Client
for name, count in (("leaver", 2), ("next", 1)):
    user = User.objects.create_user(f"{{name}}-{number}")
    for _ in range(count):
        client = Client()
        client.force_login(user)
        print(user.pk, client.cookies["sessionid"].value)
"""


async def tell(site: DeployedSite, user_id: str, message: str) -> None:
    with redis.Redis.from_url(site.redis_url) as client:
        client.publish("notification", json.dumps({"user_id": int(user_id), "message": message}))


async def browser_with(browser: Browser, url: str, session: str) -> BrowserContext:
    context = await browser.new_context()
    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    return context


async def open_tab(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
    return page


async def test_logging_out_in_one_tab_signs_the_others_out(site: DeployedSite) -> None:
    """The user's other browser, on another web server, stays signed in. The next user sees only their own data."""
    said = await asyncio.to_thread(site.manage, "shell", "-v0", "-c", LOG_IN.format(number=time.monotonic_ns()))
    user_id, session, _, other_session, next_id, next_session = said.split()
    with site.another_web(site.server) as other_url:
        elsewhere = await Ending.open(other_url, session)
        async with chromium() as browser:
            here = await browser_with(browser, site.url, session)
            there = await browser_with(browser, other_url, other_session)
            first, second = await open_tab(here, site.url), await open_tab(here, f"{site.url}/notifications/")
            third = await open_tab(there, other_url)
            await tell(site, user_id, "a secret")
            for page in (first, second, third):
                await expect(page.locator(COUNT)).to_have_text("1")
            await first.get_by_role("button", name="Sign out").click()
            await expect(second.locator(NOTICE)).to_contain_text("You are signed out.")
            await expect(second.locator(ITEMS)).to_have_count(0)
            # The same session, on the other web server.
            await wait_until(elsewhere.task.done)
            assert elsewhere.code == CloseCode.SIGNED_OUT
            await here.add_cookies([{"name": "sessionid", "value": next_session, "url": site.url}])
            new = await open_tab(here, site.url)
            await tell(site, user_id, "another secret")
            await tell(site, next_id, "for the next")
            await expect(new.locator(COUNT)).to_have_text("1")
            await expect(third.locator(COUNT)).to_have_text("2")
            assert "for the next" in await new.locator("[data-signalbox-list=bell]").inner_html()
            assert await second.locator(ITEMS).count() == 0
            assert "secret" not in await second.content()
