"""A page whose user is signed out says so and hides the user's data, until the user is signed in again."""

from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from playwright.async_api import Page, expect

from notifications.services import notify
from realtime.protocol.close_codes import CloseCode
from tests.acceptance.bell.stage import COUNT, LIST, TOGGLE, Stage, texts
from tests.support.domain import make_users

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.database_independent,
    pytest.mark.usefixtures("signalbox"),
]

NOTICE = "[data-signalbox-notice]"
ITEMS = "[data-notification-id]"


async def shows_nothing(page: Page, words: str) -> None:
    """Nothing in the bell, the inbox or a toast; and no text that the inbox is empty."""
    await expect(page.locator(NOTICE)).to_contain_text(words)
    await expect(page.locator("[data-signalbox-status]")).to_contain_text(words)
    await expect(page.locator(ITEMS)).to_have_count(0)
    await expect(page.locator(COUNT)).to_be_hidden()
    await page.locator(TOGGLE).click()
    for empty in await page.locator(".signalbox-empty").all():
        await expect(empty).to_be_hidden()
    assert "secret" not in await page.locator("body").inner_text()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (CloseCode.SIGNED_OUT, "You are signed out."),
        (CloseCode.UNAUTHORISED, "You are signed out."),
        (CloseCode.DEACTIVATED, "Your account is deactivated."),
    ],
)
@pytest.mark.parametrize("path", ["/", "/notifications/"])
async def test_signed_out_is_said_and_nothing_is_shown(stage: Stage, code: CloseCode, words: str, path: str) -> None:
    """Messages that arrive later are not shown either."""
    await stage.commit("a secret")
    page = await stage.open(path)
    heard = "globalThis.heard = 0; document.addEventListener('signalbox:signedout', () => (heard += 1))"
    await page.evaluate(heard)
    stage.publish(await stage.commit("a new secret"))
    await expect(page.locator(LIST)).to_have_count(2)
    await stage.sockets[0].close(code=code)
    await shows_nothing(page, words)
    assert await page.evaluate("heard") == 1
    assert len(stage.sockets) == 1


async def test_who_signs_in_again_has_the_page_back(stage: Stage) -> None:
    """The tab finds out when the user looks at it."""
    await stage.commit("one")
    page = await stage.open()
    await stage.sockets[0].close(code=CloseCode.SIGNED_OUT)
    await shows_nothing(page, "You are signed out.")
    await stage.commit("two")
    # The event that the browser fires when the user returns to this tab.
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator(COUNT)).to_have_text("2")
    assert await texts(page.locator(LIST)) == ["two", "one"]
    await expect(page.locator(NOTICE)).to_have_count(0)
    await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
    stage.publish(await stage.commit("three"))
    await expect(page.locator(COUNT)).to_have_text("3")


async def test_the_page_of_who_was_here_before_shows_nothing_of_either(stage: Stage) -> None:
    """bob has signed in in the same browser: alice's page connects again and learns that the session is his."""
    await stage.commit("alice's secret")
    page = await stage.open()
    bob = (await sync_to_async(make_users)(1, prefix="bob"))[0]
    await sync_to_async(notify)(bob, "bob's secret")
    stage.user = bob
    await stage.sockets[0].close(code=CloseCode.SESSION_ENDED, reason="retry_after=0.10")
    await shows_nothing(page, "Somebody else has signed in.")
    assert len(stage.sockets) == 2


async def test_who_is_signed_out_finds_the_way_to_sign_in_and_back(stage: Stage) -> None:
    """They return to the page that they were on."""
    page = await stage.open("/orders/?from=mail")
    await stage.sockets[0].close(code=CloseCode.SIGNED_OUT)
    await stage.context.clear_cookies()
    await page.locator(NOTICE).get_by_role("link", name="Sign in").click()
    await expect(page).to_have_url(f"{stage.url}/login/?next=%2Forders%2F%3Ffrom%3Dmail")


async def test_whose_account_is_deactivated_is_not_asked_to_sign_in(stage: Stage) -> None:
    """Even if the page later finds that nobody is signed in. When the account is active again, the page recovers."""
    page = await stage.open()
    await User.objects.filter(pk=stage.user.pk).aupdate(is_active=False)
    await stage.sockets[0].close(code=CloseCode.DEACTIVATED)
    await shows_nothing(page, "Your account is deactivated.")
    async with page.expect_request_finished(lambda request: request.url.endswith("/notifications/bell/")):
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await shows_nothing(page, "Your account is deactivated.")
    await expect(page.get_by_role("link", name="Sign in")).to_have_count(0)
    await User.objects.filter(pk=stage.user.pk).aupdate(is_active=True)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator(NOTICE)).to_have_count(0)


@pytest.mark.parametrize(
    ("login_url", "href"),
    [
        ("no_such_view", None),
        ("javascript:alert(1)", None),
        ("https://accounts.example/sign-in?site=7", "https://accounts.example/sign-in?site=7&next={page}"),
    ],
)
async def test_there_is_no_link_where_nobody_knows_the_way(
    stage: Stage, settings: Any, login_url: str, href: str | None
) -> None:
    """An invalid LOGIN_URL makes no link either. A login page on another site gets the full address of this page."""
    settings.LOGIN_URL = login_url
    page = await stage.open()
    await stage.sockets[0].close(code=CloseCode.SIGNED_OUT)
    await shows_nothing(page, "You are signed out.")
    links = page.locator(NOTICE).get_by_role("link")
    if href is None:
        await expect(links).to_have_count(0)
    else:
        await expect(links).to_have_attribute("href", href.format(page=quote(f"{stage.url}/", safe="")))
