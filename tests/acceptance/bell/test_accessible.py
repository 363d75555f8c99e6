"""Axe finds no violations on the pages, and each button of an item names its item."""

import pytest
from playwright.async_api import expect

from project.demo.models import Product
from tests.acceptance.bell.axe import violations
from tests.acceptance.bell.stage import PANEL, TOGGLE, Stage

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]


async def test_the_inbox_is_clean(stage: Stage) -> None:
    """With the panel closed and with the panel open."""
    await stage.commit("message", title="Title", url="/orders/")
    page = await stage.open("/notifications/")
    assert await violations(page) == []
    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_visible()
    assert await violations(page) == []


async def test_the_shop_is_clean(stage: Stage) -> None:
    """Before and after an order, and on the page of the order."""
    await Product.objects.acreate(name="Lantern", description="For the way home", price=20, drawing="lantern")
    page = await stage.open()
    assert await violations(page) == []
    await page.get_by_role("button", name="Place order: Lantern").first.click()
    await expect(page.get_by_role("button", name="Ordered: Lantern")).to_be_visible()
    assert await violations(page) == []
    await stage.commit("We have your order.", title="Order 1")
    assert await violations(await stage.open("/orders/")) == []


async def test_each_button_names_its_item(stage: Stage) -> None:
    """An item is named by its title or message, whether it was rendered by the server or arrived live."""
    await stage.commit("<first> message")
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit("message", title="Second"))
    inbox = page.locator("[data-signalbox-list=inbox]")
    for name in (
        "Mark as read: <first> message",
        "Archive: <first> message",
        "Mark as read: Second",
        "Archive: Second",
    ):
        await expect(inbox.get_by_role("button", name=name, exact=True)).to_be_visible()
