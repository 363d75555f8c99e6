"""Ordering in the demo shop if the answer is lost or the session has ended."""

import secrets

import pytest
from playwright.async_api import Page, Route, expect

from project.demo.models import Order, Product
from tests.acceptance.bell.stage import Stage
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

BUTTON = "[data-place-order] button"
SAID = "[data-place-order] [data-said][role=status]"
PLACE = "**/orders/place/**"


@pytest.fixture(autouse=True)
def _without_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker would make them."""
    monkeypatch.setattr("project.demo.views.ask_for_receipt", lambda order_id: None)


async def open_shop(stage: Stage) -> Page:
    await Product.objects.all().adelete()
    await Product.objects.acreate(name="Lamp", price=1, drawing="lamp")
    return await stage.open()


async def test_an_order_whose_answer_is_lost_is_placed_once(stage: Stage) -> None:
    """The page repeats the request with the same key. The next click is another order."""
    page = await open_shop(stage)

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route(PLACE, lose, times=2)
    await page.locator(BUTTON).click()
    await expect(page.locator(SAID)).to_have_text("The shop cannot be reached. Trying again…")
    assert await Order.objects.acount() == 1
    # As an impatient user does.
    await page.locator(BUTTON).click()
    await expect(page.locator(BUTTON)).to_have_text("Ordered", timeout=30_000)
    await expect(page.locator(SAID)).to_have_text("")
    assert await Order.objects.acount() == 1
    async with page.expect_response(PLACE):
        await page.locator(BUTTON).click()
    await wait_until(lambda: count_is(2))
    assert page.url == f"{stage.url}/"


async def test_an_order_is_placed_with_a_token_of_before_the_last_sign_in(stage: Stage) -> None:
    """The token is renewed."""
    page = await open_shop(stage)
    token = {"name": "csrftoken", "value": secrets.token_hex(16), "url": stage.url}
    await stage.context.add_cookies([token])  # type: ignore[list-item]
    await page.locator(BUTTON).click()
    await expect(page.locator(BUTTON)).to_have_text("Ordered")
    assert await Order.objects.acount() == 1


async def test_who_is_logged_out_is_told_and_orders_nothing(stage: Stage) -> None:
    """The page is not left."""
    page = await open_shop(stage)
    await stage.context.clear_cookies(name="sessionid")
    await page.locator(BUTTON).click()
    await expect(page.locator(SAID)).to_contain_text("You are signed out.")
    assert await Order.objects.acount() == 0
    assert page.url == f"{stage.url}/"


async def count_is(number: int) -> bool:
    return await Order.objects.acount() == number
