"""A page whose user is signed out says so and hides the user's data, until the user is signed in again."""

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Page, expect

from notifications.services import notify
from realtime.close_codes import CloseCode
from tests.acceptance.bell.stage import COUNT, LIST, TOGGLE, Stage, texts
from tests.domain import make_users

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
    """Neither in the bell, nor in the inbox, nor as a toast; and it does not say that there is nothing."""
    await expect(page.locator(NOTICE)).to_contain_text(words)
    await expect(page.locator("[data-signalbox-status]")).to_contain_text(words)
    await expect(page.locator(ITEMS)).to_have_count(0)
    await expect(page.locator(COUNT)).to_be_hidden()
    await page.locator(TOGGLE).click()
    for empty in await page.locator(".signalbox-empty").all():
        await expect(empty).to_be_hidden()
    assert "secret" not in await page.locator("body").inner_text()


@pytest.mark.parametrize("code", [CloseCode.SIGNED_OUT, CloseCode.DEACTIVATED, CloseCode.UNAUTHORISED])
@pytest.mark.parametrize("path", ["/", "/notifications/"])
async def test_signed_out_is_said_and_nothing_is_shown(stage: Stage, code: CloseCode, path: str) -> None:
    """What comes after it is not shown either."""
    await stage.commit("a secret")
    page = await stage.open(path)
    heard = "globalThis.heard = 0; document.addEventListener('signalbox:signedout', () => (heard += 1))"
    await page.evaluate(heard)
    stage.publish(await stage.commit("a new secret"))
    await expect(page.locator(LIST)).to_have_count(2)
    await stage.sockets[0].close(code=code)
    await shows_nothing(page, "You are signed out.")
    assert await page.evaluate("heard") == 1
    assert len(stage.sockets) == 1


async def test_who_signs_in_again_has_the_page_back(stage: Stage) -> None:
    """In this tab's own time: when it is looked at."""
    await stage.commit("one")
    page = await stage.open()
    await stage.sockets[0].close(code=CloseCode.SIGNED_OUT)
    await shows_nothing(page, "You are signed out.")
    await stage.commit("two")
    # As the browser says it when the reader comes back to this tab.
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
