"""Axe finds no violations on the admin's pages; charts and search fields can be seen and read by screen readers."""

import datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.async_api import Page, expect

from notifications.models import Delivery, Destination, Digest
from notifications.services import notify
from project.demo.models import Order, Product
from tests.acceptance.bell.axe import violations

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

PAGES = (
    "",
    "notifications/event/",
    "notifications/event/send/",
    "notifications/event/statistics/",
    "notifications/event/{event}/change/",
    "notifications/event/{waiting}/change/",
    "notifications/event/{event}/history/",
    "notifications/event/{event}/delete/",
    "notifications/notification/",
    "notifications/notification/{notification}/change/",
    "notifications/delivery/",
    "notifications/delivery/{delivery}/change/",
    "notifications/delivery/dead-letters/",
    "notifications/scheduled/",
    "notifications/digest/",
    "notifications/destination/",
    "notifications/preference/",
    "notifications/quiethours/",
    "notifications/pushsubscription/",
    # The violations in Django's form of a user come from Django's own scripts.
    "auth/user/",
    "auth/user/{user}/delete/",
    "realtime/logpipeline/",
    "realtime/task/",
    "demo/order/",
    "demo/order/add/",
    "demo/order/{order}/change/",
)
PAGES_IN_BOTH_LOOKS = (
    "",
    "notifications/event/",
    "notifications/event/send/",
    "notifications/event/statistics/",
    "notifications/delivery/",
    "realtime/logpipeline/",
    "realtime/task/",
    "demo/order/",
)


def _make_rows(user: User) -> dict[str, int]:
    """Rows for each list; returns a name for each row → its key."""
    event = notify(user, "It is at your door.", title="Parcel", url="/orders/", data={"order": 7})
    waiting = notify(user, "It was at your door.", deliver_after=datetime.timedelta(days=1))
    notification = event.notifications.get()
    sent = Delivery.objects.create(notification=notification, transport="email", state="sent", answer="250 OK")
    Destination.objects.create(user=user, transport="webhook", address="https://hooks.example/1")
    Digest.objects.create(recipient=user, kind="info", transport="email", ends_at=sent.created_at)
    product = Product.objects.create(name="Lantern", price=20, drawing="lantern")
    order = Order.objects.create(customer=user, product=product, price=20)
    return {
        **{"event": event.pk, "waiting": waiting.pk, "notification": notification.pk, "delivery": sent.pk},
        **{"user": user.pk, "order": order.pk},
    }


def _make_failures(user: User) -> None:
    """A failed delivery, and one that nobody handles."""
    notification = user.notifications.latest("pk")  # type: ignore[attr-defined]
    now = timezone.now()
    Delivery.objects.create(
        notification=notification, transport="webhook", state="failed", answer="500", due_at=None, finished_at=now
    )
    Delivery.objects.create(notification=notification, transport="sms", state="pending", due_at=None)


async def _faults(page: Page, paths: tuple[str, ...], keys: dict[str, int]) -> dict[str, Any]:
    """The violations on each page that has any."""
    found: dict[str, Any] = {}
    for path in paths:
        response = await page.goto(path.format(**keys))
        assert response is not None and response.status == 200, path
        found[path] = await violations(page)
    return {path: faults for path, faults in found.items() if faults}


async def test_each_page_is_clean(admin: Page, alice: User) -> None:
    """Lists, rows, forms, statistics and the login page."""
    keys = await sync_to_async(_make_rows)(alice)
    assert await _faults(admin, PAGES, keys) == {}
    await admin.context.clear_cookies()
    assert await _faults(admin, ("login/",), keys) == {}


async def test_the_dashboard_is_clean_with_everything_on_it(admin: Page, alice: User) -> None:
    """Notices, failures, opened tables and counters; in each period, light and dark, wide and narrow."""
    await sync_to_async(_make_rows)(alice)
    await sync_to_async(_make_failures)(alice)
    for scheme, width in (("light", 1280), ("dark", 360)):
        await admin.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await admin.set_viewport_size({"width": width, "height": 800})
        for period in ("hour", "day", "month"):
            await admin.goto(f"?period={period}")
            for details in await admin.locator("#sb-part details > summary").all():
                await details.click()
            assert await violations(admin) == []


async def test_each_page_is_clean_on_a_dark_and_narrow_screen(admin: Page, alice: User) -> None:
    """The colours differ, and the menu is folded."""
    keys = await sync_to_async(_make_rows)(alice)
    await admin.emulate_media(color_scheme="dark")
    await admin.set_viewport_size({"width": 400, "height": 800})
    assert await _faults(admin, PAGES_IN_BOTH_LOOKS, keys) == {}


async def test_what_is_filled_by_searching_has_the_name_of_its_label(admin: Page, alice: User) -> None:
    """With several choices or one; also the search field that appears when it opens."""
    await admin.goto("notifications/event/send/")
    await admin.get_by_role("searchbox", name="Recipients").fill("alice")
    await admin.get_by_role("option", name="alice1").click()
    await expect(admin.locator("select[name=recipients]")).to_have_values([str(alice.pk)])
    await admin.goto("demo/order/add/")
    await admin.get_by_role("combobox", name="Customer").click()
    await admin.get_by_role("searchbox", name="Customer").fill("alice")
    await admin.get_by_role("option", name="alice1").click()
    await expect(admin.locator("select[name=customer]")).to_have_value(str(alice.pk))


async def test_each_status_in_the_list_of_orders_says_whose_it_is(admin: Page, alice: User) -> None:
    """A screen reader can tell the fields apart."""
    keys = await sync_to_async(_make_rows)(alice)
    await admin.goto("demo/order/")
    status = admin.get_by_role("combobox", name=f"Status: Order {keys['order']}", exact=True)
    assert await status.select_option("packed") == ["packed"]


@pytest.mark.parametrize("width", [360, 600, 1280])
async def test_the_numbers_of_a_chart_stand_beside_its_columns(admin: Page, alice: User, width: int) -> None:
    """At the height of their lines; where the columns have no room, the latest are seen and the others scrolled to."""
    await sync_to_async(_make_rows)(alice)
    await admin.set_viewport_size({"width": width, "height": 800})
    await admin.goto("")
    for name in ("notifications", "deliveries"):
        section = admin.locator(f"section[aria-labelledby=sb-{name}]")
        await section.scroll_into_view_if_needed()
        numbers, lines = section.locator(".sb-chart-number"), section.locator(".sb-chart-line")
        await expect(section.locator(".sb-chart-hit").last).to_be_in_viewport(ratio=0.9)
        assert await numbers.count() == await lines.count() > 1
        for number, line in zip(await numbers.all(), await lines.all(), strict=True):
            await expect(number).to_be_in_viewport(ratio=0.9)
            text, stroke = await number.bounding_box(), await line.bounding_box()
            assert text is not None and stroke is not None
            assert abs(text["y"] + text["height"] / 2 - stroke["y"]) < 3
