"""The server is unavailable, or the session has ended or is another user's: the page stays, says so, and recovers."""

import functools
import secrets
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from playwright.async_api import Page, Route, expect

from notifications.models import Notification
from notifications.services import notify
from tests.acceptance.bell.stage import BELL_PATH, COUNT, LIST, TOGGLE, Stage
from tests.support.domain import make_users
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

NOTICE = "[data-signalbox-toasts][aria-live=polite] [data-signalbox-notice]"
READ_PATH = "**/notifications/read/"
HALF_WRITTEN = "Dear Sir or Madam, I"
# Ten times the usual duration: the waits between attempts grow.
RETURN_MS = 30_000


# Requests of the page, and how many have ended.
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


async def open_with_a_form(stage: Stage) -> Page:
    """A page with a half-written text and the panel open."""
    page = await stage.open()
    await page.evaluate("document.querySelector('main').append(document.createElement('textarea'))")
    await page.locator("textarea").fill(HALF_WRITTEN)
    await page.locator(TOGGLE).click()
    return page


async def has_stayed(stage: Stage, page: Page) -> None:
    assert page.url == f"{stage.url}/"
    assert await page.locator("textarea").input_value() == HALF_WRITTEN


async def mark_all(page: Page) -> None:
    await page.locator("[data-signalbox-bell] [data-signalbox-action=read-all] button").click()


async def unread_count(**of: Any) -> int:
    return await Notification.objects.filter(read_at=None, **of).acount()


@pytest.mark.parametrize(
    "status", [None, 502, 503, 200], ids=["no answer", "502", "503", "a page of the network's own"]
)
async def test_what_the_server_does_not_answer_is_sent_again(stage: Stage, status: int | None) -> None:
    """The server restarts. The page shows this until the action is done, and keeps what was typed."""
    await stage.commit("one")
    page = await open_with_a_form(stage)
    tries: list[str] = []

    async def fail(route: Route) -> None:
        tries.append(route.request.url)
        await (route.abort() if status is None else route.fulfill(status=status, body="<h1>Bad</h1>"))

    await page.route(READ_PATH, fail, times=2)
    await mark_all(page)
    await expect(page.locator(NOTICE)).to_contain_text("cannot be reached. Trying again…")
    await expect(page.locator("[data-signalbox-status]")).to_contain_text("Trying again…")
    await expect(page.locator(COUNT)).to_be_hidden(timeout=RETURN_MS)
    await expect(page.locator(NOTICE)).to_contain_text("Saved.")
    assert (len(tries), await unread_count()) == (2, 0)
    await has_stayed(stage, page)


async def test_what_is_done_offline_is_done_when_the_network_is_back(stage: Stage) -> None:
    """At once, because the browser reports that it is online."""
    await stage.commit("one")
    page = await open_with_a_form(stage)
    await stage.context.set_offline(True)
    await page.locator(f"{LIST} [data-signalbox-action=read] button").click()
    await expect(page.locator(NOTICE)).to_contain_text("Trying again…")
    await stage.context.set_offline(False)
    await expect(page.locator(COUNT)).to_be_hidden(timeout=RETURN_MS)
    assert await unread_count() == 0
    await has_stayed(stage, page)


async def test_a_token_of_before_the_last_sign_in_is_renewed(stage: Stage) -> None:
    """The user has signed in again in another tab, which made a new token."""
    await stage.commit("one")
    page = await open_with_a_form(stage)
    cookie = {"name": "csrftoken", "value": secrets.token_hex(16), "url": stage.url}
    await stage.context.add_cookies([cookie])  # type: ignore[list-item]
    async with page.expect_response(lambda response: response.url.endswith("/read/") and response.status == 403):
        await mark_all(page)
    await expect(page.locator(COUNT)).to_be_hidden()
    assert await unread_count() == 0
    await has_stayed(stage, page)


@pytest.mark.parametrize("login_url", ["login", "https://accounts.example/sign-in/"])
async def test_who_was_signed_out_elsewhere_is_told(stage: Stage, settings: Any, cookie: Any, login_url: str) -> None:
    """The page says so and stays; after the next sign-in it continues. The login page may be on another site."""
    settings.LOGIN_URL = login_url
    await stage.commit("one")
    page = await open_with_a_form(stage)
    await stage.context.clear_cookies(name="sessionid")
    await page.locator(f"{LIST} [data-signalbox-action=read] button").click()
    await expect(page.locator(NOTICE)).to_contain_text("You are signed out.")
    await expect(page.locator("[data-signalbox-status]")).to_contain_text("You are signed out.")
    assert await unread_count() == 1
    await has_stayed(stage, page)
    await stage.context.add_cookies([cookie])
    # The event that the browser fires when the user returns to this tab.
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator(NOTICE)).to_have_count(0)
    await mark_all(page)
    await expect(page.locator(COUNT)).to_be_hidden()
    await has_stayed(stage, page)


async def test_a_form_of_a_page_of_somebody_else_does_nothing(stage: Stage) -> None:
    """bob has signed in in another tab: nothing that alice's page shows is marked for either of them."""
    await stage.commit("alice's")
    page = await open_with_a_form(stage)
    bob = (await sync_to_async(make_users)(1, prefix="bob"))[0]
    await sync_to_async(notify)(bob, "bob's")
    session = {"name": "sessionid", "value": await sync_to_async(session_of)(bob), "url": stage.url}
    token = {"name": "csrftoken", "value": secrets.token_hex(16), "url": stage.url}
    await stage.context.add_cookies([session, token])  # type: ignore[list-item]
    await mark_all(page)
    await expect(page.locator(NOTICE)).to_contain_text("Somebody else has signed in.")
    assert await unread_count() == 2
    await has_stayed(stage, page)


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_what_the_server_refuses_is_told_once(stage: Stage, status: int) -> None:
    """The error page does not replace this page, and the request is not repeated."""
    await stage.commit("one")
    page = await open_with_a_form(stage)
    tries: list[str] = []

    async def refuse(route: Route) -> None:
        tries.append(route.request.url)
        await route.fulfill(status=status, body="<h1>No</h1>")

    await page.route(READ_PATH, refuse)
    await mark_all(page)
    await expect(page.locator(NOTICE)).to_contain_text("The server refused this.")
    # A refusal may mean an old token, so it is tried once more.
    assert len(tries) == (2 if status == 403 else 1)
    await has_stayed(stage, page)


async def test_a_refresh_that_fails_has_one_timer(stage: Stage) -> None:
    """This holds however many messages cause a refresh while the server is unavailable. The waits grow."""
    envelopes = [await stage.commit(f"{number}") for number in range(15)]
    page = await stage.open()
    await page.clock.install()
    await page.route(BELL_PATH, lambda route: route.abort())
    await page.evaluate(COUNT_REQUESTS)
    for number, envelope in enumerate(envelopes[:5], 1):
        # No longer in the bell's list, so that it asks the server whether it is counted.
        stage.publish(envelope)
        await wait_until(functools.partial(page.evaluate, f"ended === {number}"))
    for _ in range(300):
        await page.clock.run_for(200)
        await wait_until(lambda: page.evaluate("asked === ended"))
    # After 1 to 2, 2 to 4, 4 to 8, 8 to 16 and 16 to 32 s; with a timer for each message it would be 30 and more.
    assert 2 <= await page.evaluate("asked - 5") <= 6


def session_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value
