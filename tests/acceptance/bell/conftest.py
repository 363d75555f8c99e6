"""Fixtures of the tests of the bell: pages and database are real, the server's end of the WebSocket is simulated."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from playwright.async_api import Browser, Page

from tests.acceptance.bell.stage import Stage
from tests.support.browser import chromium
from tests.support.domain import make_users


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests, because starting it takes longer than most of them."""
    async with chromium() as browser:
        yield browser


@pytest.fixture
def alice() -> User:
    return make_users(1, prefix="alice")[0]


@pytest.fixture
def cookie(alice: User, live_server: Any) -> Any:
    """alice's session."""
    client = Client()
    client.force_login(alice)
    return {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}


@pytest_asyncio.fixture(loop_scope="package")
async def stage(browser: Browser, live_server: Any, alice: User, cookie: Any) -> AsyncIterator[Stage]:
    """When the test ends, no script may have failed on any page."""
    context = await browser.new_context()
    await context.add_cookies([cookie])
    stage = Stage(context, live_server.url, alice)
    # A tab each, with a connection that the test can reach; test_tabs.py shows the shared one.
    await context.add_init_script("delete globalThis.SharedWorker")
    await context.route_web_socket(re.compile(r"/ws/"), stage.connected)
    yield stage
    await context.close()
    assert stage.complaints == []


@pytest_asyncio.fixture(loop_scope="package")
async def admin(browser: Browser, live_server: Any) -> AsyncIterator[Page]:
    """A browser page of a superuser."""
    session = await sync_to_async(_sign_in)()
    context = await browser.new_context(base_url=f"{live_server.url}/admin/")
    await context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    yield await context.new_page()
    await context.close()


def _sign_in() -> str:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client.cookies["sessionid"].value
