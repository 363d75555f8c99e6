"""The list that the bell opens: by keyboard and by click, in several tabs, until it is read."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from notifications.models import Notification
from tests.acceptance.bell.stage import COUNT, LIST, PANEL, TOGGLE, Stage, is_seen, wait_for_focus

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]


async def test_the_keyboard_is_enough(stage: Stage) -> None:
    """Enter opens the panel, arrow keys move in it, Escape closes it and returns the focus."""
    for text in ("one", "two"):
        await stage.commit(text, url="/orders/")
    page = await stage.open()
    await page.locator(TOGGLE).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(TOGGLE)).to_have_attribute("aria-expanded", "true")
    await wait_for_focus(page, PANEL)
    await page.keyboard.press("ArrowDown")
    await wait_for_focus(page, f"{LIST}:nth-child(1) a")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await wait_for_focus(page, f"{LIST}:nth-child(2) a")
    await page.keyboard.press("ArrowUp")
    await wait_for_focus(page, f"{LIST}:nth-child(1) a")
    await page.keyboard.press("Escape")
    await expect(page.locator(PANEL)).to_be_hidden()
    await wait_for_focus(page, TOGGLE)
    await expect(page.locator(TOGGLE)).to_have_attribute("aria-expanded", "false")


async def test_it_closes_when_the_focus_or_a_click_goes_elsewhere(stage: Stage) -> None:
    """A click inside the panel leaves it open."""
    page = await stage.open()
    await page.locator(TOGGLE).click()
    await page.locator(PANEL).click(position={"x": 20, "y": 20})
    await expect(page.locator(PANEL)).to_be_visible()
    await page.locator("h1").click()
    await expect(page.locator(PANEL)).to_be_hidden()
    await page.locator(TOGGLE).click()
    await page.locator(".quiet-button").focus()
    await expect(page.locator(PANEL)).to_be_hidden()


async def test_opening_it_marks_seen_and_keeps_the_count(stage: Stage) -> None:
    """This includes notifications that arrive while it is open."""
    first = await stage.commit("first")
    page = await stage.open()
    root = page.locator("[data-signalbox-bell]")
    await expect(root).to_have_attribute("data-signalbox-unseen", "1")
    async with page.expect_response("**/notifications/seen/"):
        await page.locator(TOGGLE).click()
    assert await is_seen(first)
    second = await stage.commit("second")
    async with page.expect_response("**/notifications/seen/"):
        stage.publish(second)
    assert await is_seen(second)
    await expect(root).to_have_attribute("data-signalbox-unseen", "0")
    await expect(page.locator(COUNT)).to_have_text("2")


async def test_marking_read_keeps_the_focus_near(stage: Stage) -> None:
    """Keyboard users do not have to start over at each item."""
    for text in ("one", "two", "three"):
        await stage.commit(text)
    page = await stage.open()
    await page.locator(TOGGLE).click()
    await page.locator(f"{LIST}:nth-child(2) button").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(COUNT)).to_have_text("2")
    await expect(page.locator(f"{LIST}:nth-child(2)")).to_have_attribute("data-signalbox-item-state", "read")
    assert await page.evaluate("() => document.querySelector('[data-signalbox-panel]').matches(':focus-within')")
    assert await Notification.objects.filter(read_at=None).acount() == 2


async def test_following_a_notification_reads_it(stage: Stage) -> None:
    """The next page's count is lower by one."""
    await stage.commit("left")
    await stage.commit("followed", url="/orders/")
    page = await stage.open()
    await page.locator(TOGGLE).click()
    await page.locator(f"{LIST} a[href]").click()
    await page.wait_for_url("**/orders/")
    await expect(page.locator(COUNT)).to_have_text("1")


async def test_a_page_that_is_there_before_the_notification_is_read_counts_it_soon(stage: Stage) -> None:
    """The request of the old page takes longer than loading the next page, which does not know of it."""
    await stage.commit("left")
    await stage.commit("followed", url="/orders/")
    page = await stage.open()
    arrived = asyncio.Event()

    async def hold(route: Route) -> None:
        await arrived.wait()
        await route.continue_()

    await page.context.route("**/read/**", hold)
    await page.locator(TOGGLE).click()
    await page.locator(f"{LIST} a[href]").click()
    await page.wait_for_url("**/orders/")
    await expect(page.locator("[data-signalbox-state=open]")).to_have_count(1)
    arrived.set()
    await expect(page.locator(COUNT)).to_have_text("1")


async def test_other_tabs_follow(stage: Stage) -> None:
    """What is read or archived in one tab is so in each tab."""
    for text in ("one", "two", "three"):
        await stage.commit(text)
    first, second = await stage.open(), await stage.open("/notifications/")
    archive = "[data-signalbox-list=inbox] [data-signalbox-action=archive] button"
    await second.locator(archive).first.click()
    await expect(first.locator(COUNT)).to_have_text("2")
    await expect(first.locator(LIST)).to_have_count(2)
    # A page in the background is rarely drawn, and gets no clicks.
    await first.bring_to_front()
    await first.locator(TOGGLE).click()
    await first.locator(f"{LIST} [data-signalbox-action=read] button").first.click()
    await expect(second.locator(COUNT)).to_have_text("1")
    await first.locator("[data-signalbox-action=read-all] button").click()
    for page in (first, second):
        await expect(page.locator(COUNT)).to_be_hidden()
        await expect(
            page.locator("[data-signalbox-item-state=unseen], [data-signalbox-item-state=seen]")
        ).to_have_count(0)


async def test_mark_all_leaves_what_comes_a_moment_later(stage: Stage) -> None:
    """The notification was not on the page when the button was pressed."""
    await stage.commit("shown")
    page = await stage.open()

    async def late(route: Route) -> None:
        await stage.commit("late")
        await route.continue_()

    await page.route("**/notifications/read/", late, times=1)
    await page.locator(TOGGLE).click()
    await page.locator("[data-signalbox-action=read-all] button").click()
    unread = page.locator(f"{LIST}:not([data-signalbox-item-state=read]) [data-signalbox-message]")
    await expect(unread).to_have_text("late")
    await expect(page.locator(COUNT)).to_have_text("1")
