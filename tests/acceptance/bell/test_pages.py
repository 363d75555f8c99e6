"""The pages around the bell: the inbox, the orders, without a script, and on a small telephone."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from project.demo.models import Order, Product
from tests.acceptance.bell.stage import COUNT, PANEL, TOGGLE, Stage, texts

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]


async def test_the_inbox_is_live_too(stage: Stage) -> None:
    """New notifications are added at the top of the first page."""
    await stage.commit("one")
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit("two"))
    items = page.locator("[data-signalbox-list=inbox] [data-notification-id]")
    await expect(items).to_have_count(2)
    assert await texts(items) == ["two", "one"]
    await items.first.locator("[data-signalbox-action=archive] button").click()
    await expect(items).to_have_count(1)
    await expect(page.locator(COUNT)).to_have_text("1")


async def test_the_inbox_is_live_in_a_project_without_a_page_of_its_own(
    stage: Stage, tmp_path: Path, settings: Any
) -> None:
    """The inbox's own page has the bell, and its panel fits on the page."""
    (tmp_path / "notifications").mkdir()
    (tmp_path / "notifications/base.html").write_text('{% extends "notifications/page.html" %}')
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit("one"))
    assert await page.title() == "Notifications"
    await expect(page.locator("[data-signalbox-list=inbox] [data-signalbox-message]")).to_have_text("one")
    await expect(page.locator(COUNT)).to_have_text("1")
    await page.set_viewport_size({"width": 360, "height": 640})
    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_in_viewport(ratio=1)


async def test_all_of_it_works_without_a_script(browser: Browser, stage: Stage, cookie: Any) -> None:
    """The bell is a link, and its forms work without scripts."""
    for text in ("one", "two", "three"):
        await stage.commit(text)
    context = await browser.new_context(java_script_enabled=False)
    await context.add_cookies([cookie])
    page = await context.new_page()
    await page.goto(stage.url)
    await expect(page.locator(COUNT)).to_have_text("3")
    await page.locator(TOGGLE).click()
    await page.wait_for_url("**/notifications/")
    inbox = page.locator("[data-signalbox-list=inbox] [data-notification-id]")
    await inbox.first.locator("[data-signalbox-action=read] button").click()
    await expect(page.locator(COUNT)).to_have_text("2")
    await inbox.first.locator("[data-signalbox-action=archive] button").click()
    await expect(inbox).to_have_count(2)
    await page.locator(".signalbox-inbox [data-signalbox-action=read-all] button").click()
    await expect(page.locator(COUNT)).to_be_hidden()
    assert page.url == f"{stage.url}/notifications/"
    await context.close()


async def test_orders_follow_and_do_not_go_back(stage: Stage) -> None:
    """The status comes with the message; a repeated older one changes nothing, an unknown order is fetched."""
    order = await place_order(stage)
    page = await stage.open("/orders/")
    status = page.locator(f"[data-order='{order.pk}'] [data-order-status]")
    packed = await change(stage, order, "packed")
    stage.publish(packed)
    await expect(status).to_have_text("Packed")
    stage.publish(await change(stage, order, "on_its_way"), packed)
    await expect(status).to_have_text("On its way")
    await expect(page.locator(f"[data-order='{order.pk}'] [aria-current=step]")).to_have_text("On its way")
    stage.publish(packed, await stage.commit("a message of another kind"))
    await expect(page.locator(COUNT)).to_have_text("3")
    await expect(status).to_have_text("On its way")
    other = await place_order(stage)
    stage.publish(await change(stage, other, "packed"))
    await expect(page.locator(f"[data-order='{other.pk}'] [data-order-status]")).to_have_text("Packed")


async def test_no_page_is_wider_than_a_small_telephone(stage: Stage) -> None:
    """At a width of 360 pixels, with the panel open and long words in it."""
    await stage.commit("w" * 300, title="t" * 200)
    await place_order(stage)
    page = await stage.open()
    await page.set_viewport_size({"width": 360, "height": 640})
    for path in ("/", "/orders/", "/notifications/"):
        await page.goto(stage.url + path)
        await page.locator(TOGGLE).click()
        assert await page.evaluate("() => document.documentElement.scrollWidth") == 360, path
        panel = await page.locator(PANEL).bounding_box()
        assert panel is not None
        assert panel["x"] >= 0
        assert panel["x"] + panel["width"] <= 360


async def place_order(stage: Stage) -> Order:
    product = await Product.objects.acreate(name="Lamp", price=1, drawing="lamp")
    return await Order.objects.acreate(customer=stage.user, product=product, price=1)


async def change(stage: Stage, order: Order, status: str) -> dict[str, Any]:
    label = Order.Status(status).label
    await Order.objects.filter(pk=order.pk).aupdate(status=status)
    data = {"order": order.pk, "status": status, "label": label}
    return await stage.commit(label, kind=f"order.{status}", data=data)
