"""The inbox while it is open: empty at first, on a narrow page, by keyboard; and a count beyond the badge's room."""

import pytest
from playwright.async_api import expect

from tests.acceptance.bell.stage import COUNT, LIST, TOGGLE, Stage

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]
INBOX = "/notifications/"
ITEMS = "[data-signalbox-list=inbox] [data-notification-id]"
READ_ALL = "[data-signalbox-inbox] [data-signalbox-action=read-all] button"


async def test_a_large_count_fits_the_badge(stage: Stage) -> None:
    """This holds for live updates and for the server's rendering; the label has the exact count."""
    for number in range(99):
        await stage.commit(f"message {number}")
    page = await stage.open()
    await expect(page.locator(COUNT)).to_have_text("99")
    stage.publish(await stage.commit("one more"))
    await expect(page.locator(COUNT)).to_have_text("99+")
    await expect(page.locator(TOGGLE)).to_have_attribute("aria-label", "Notifications, 100 unread")
    page = await stage.open()
    await expect(page.locator(COUNT)).to_have_text("99+")


async def test_an_empty_inbox_offers_to_mark_all_once_something_comes(stage: Stage) -> None:
    """The button also marks notifications that arrived after the page was rendered."""
    page = await stage.open(INBOX)
    await expect(page.locator(READ_ALL)).to_be_hidden()
    stage.publish(await stage.commit("first"))
    await page.locator(READ_ALL).click()
    await expect(page.locator(ITEMS)).to_have_attribute("data-signalbox-item-state", "read")
    await expect(page.locator(COUNT)).to_be_hidden()


async def test_it_is_readable_on_a_narrow_page(stage: Stage) -> None:
    """The text has most of the width, and nothing overflows the page."""
    await stage.commit("A message that is long enough to fill more than one line of a narrow page.", title="Title")
    page = await stage.open(INBOX)
    await page.set_viewport_size({"width": 360, "height": 640})
    box = await page.locator(f"{ITEMS} .signalbox-item__text").bounding_box()
    assert box is not None
    assert box["width"] >= 260
    for button in await page.locator(f"{ITEMS} button").all():
        place = await button.bounding_box()
        assert place is not None
        assert 0 <= place["x"] <= 360 - place["width"]
    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(("marked", "focused"), [(2, 3), (3, 2)])
async def test_the_focus_goes_to_the_next_item_when_one_is_read(stage: Stage, marked: int, focused: int) -> None:
    """An item without anything to focus passes the focus to the next item, the last one to the one before."""
    for text in ("one", "two", "three"):
        await stage.commit(text)
    page = await stage.open()
    await page.locator(TOGGLE).click()
    await page.locator(f"{LIST}:nth-child({marked}) button").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(f"{LIST}:nth-child({focused}) button").first).to_be_focused()


async def test_the_focus_stays_in_the_panel_when_all_are_read(stage: Stage) -> None:
    """The button that had the focus no longer exists."""
    await stage.commit("one")
    page = await stage.open()
    await page.locator(TOGGLE).click()
    await page.locator("[data-signalbox-panel] [data-signalbox-action=read-all] button").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(COUNT)).to_be_hidden()
    assert await page.evaluate("() => document.querySelector('[data-signalbox-panel]').matches(':focus-within')")
