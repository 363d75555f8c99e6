"""
The bell in a real browser, with a server that does what a real one does rarely: repeats, reorders, refuses.

The pages and the database are real; the other end of the WebSocket is this test.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from playwright.async_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    Route,
    WebSocketRoute,
    async_playwright,
    expect,
)

from notifications.models import Notification
from notifications.services import notify
from project.demo.models import Order, Product
from realtime.close_codes import CloseCode
from tests.browser import launch_options
from tests.domain import make_users

pytestmark = [
    pytest.mark.database_independent,
    pytest.mark.acceptance,
    # One browser for all of them: starting it takes longer than most of the tests.
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

LIST = "[data-signalbox-list=bell] [data-notification-id]"
TOGGLE = "[data-signalbox-toggle]"
COUNT = "[data-signalbox-count]"
PANEL = "[data-signalbox-panel]"
BELL_PATH = "**/notifications/bell/"


class Stage:
    """alice at a browser, and the server's end of her connections."""

    def __init__(self, context: BrowserContext, url: str, user: User) -> None:
        self.context = context
        self.url = url
        self.user = user
        self.sockets: list[WebSocketRoute] = []
        self.complaints: list[str] = []

    async def open(self, path: str = "/") -> Page:
        """Open a page in a tab of its own; its bell is live and has read the inbox when this returns."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # The inbox is its own rendering; any other page asks for the bell's.
        rendering = f"{self.url}{path if path == '/notifications/' else '/notifications/bell/'}"
        async with page.expect_event("requestfinished", lambda request: _is_fetch(request, rendering)):
            await page.goto(self.url + path)
        await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
        return page

    def connected(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        self.greet(socket, self.user.pk)

    def greet(self, socket: WebSocketRoute, user_id: int) -> None:
        """What the server says first: hello, and that nothing can be said of what was before."""
        hello = {"type": "hello", "user_id": user_id, "ping_seconds": 25}
        live = {"type": "subscribed", "topic": f"user.{user_id}", "offset": 0, "epoch": "e1", "recovered": False}
        socket.send(f"{json.dumps(hello)}\n{json.dumps(live)}")

    async def commit(self, message: str, **fields: Any) -> dict[str, Any]:
        """Write a notification for alice; returns what the relay would hand to her browsers."""
        return await sync_to_async(self._commit)(message, **fields)

    def publish(self, *envelopes: dict[str, Any], topic: str = "") -> None:
        """Send these to each tab, in one frame."""
        topic = topic or f"user.{self.user.pk}"
        frames = [json.dumps({"type": "message", "topic": topic, "data": envelope}) for envelope in envelopes]
        for socket in self.sockets:
            socket.send("\n".join(frames))

    def _commit(self, message: str, **fields: Any) -> dict[str, Any]:
        event = notify(self.user, message, **fields)
        notification = event.notifications.get()
        return {
            "id": notification.pk,
            **({} if notification.replaces is None else {"replaces": notification.replaces}),
            "event_id": event.pk,
            "kind": event.kind,
            "title": event.title,
            "message": event.message,
            "url": event.url,
            "data": event.data,
            "created_at": event.created_at.isoformat(),
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options())
        yield browser
        await browser.close()


@pytest.fixture
def alice() -> User:
    return make_users(1, prefix="alice")[0]


@pytest.fixture
def cookie(alice: User, live_server: Any) -> Any:
    """alice's session."""
    client = Client()
    client.force_login(alice)
    return {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, live_server: Any, alice: User, cookie: Any) -> AsyncIterator[Stage]:
    """No script on any page may have failed when the test ends."""
    context = await browser.new_context()
    await context.add_cookies([cookie])
    stage = Stage(context, live_server.url, alice)
    # A tab each, with a connection that the test can reach; test_tabs.py shows the shared one.
    await context.add_init_script("delete globalThis.SharedWorker")
    await context.route_web_socket(re.compile(r"/ws/"), stage.connected)
    yield stage
    await context.close()
    assert stage.complaints == []


def _is_fetch(request: Request, url: str) -> bool:
    return request.resource_type == "fetch" and request.url == url


async def texts(items: Locator) -> list[str]:
    return await items.locator("[data-signalbox-message]").all_text_contents()


async def is_seen(envelope: dict[str, Any]) -> bool:
    return (await Notification.objects.aget(pk=envelope["id"])).seen_at is not None


async def wait_for_focus(page: Page, selector: str) -> None:
    await expect(page.locator(selector).first).to_be_focused()


class TestMessages:
    async def test_a_message_rings(self, stage: Stage) -> None:
        """Counted, on top of the list, and said in a toast that is read out."""
        page = await stage.open()
        await expect(page.locator(COUNT)).to_be_hidden()
        stage.publish(await stage.commit("First"))
        stage.publish(await stage.commit("Your parcel is here", title="Order 7", url="/orders/"))
        await expect(page.locator(COUNT)).to_have_text("2")
        await expect(page.locator(TOGGLE)).to_have_attribute("aria-label", "Notifications, 2 unread")
        assert await texts(page.locator(LIST)) == ["Your parcel is here", "First"]
        toast = page.locator("[data-signalbox-toasts][aria-live=polite] .signalbox-toast").last
        await expect(toast).to_have_text("Order 7 Your parcel is here×")
        await expect(toast.locator("a")).to_have_attribute("href", "/orders/")

    async def test_a_repeated_message_counts_once(self, stage: Stage) -> None:
        """Also when it is no longer in the list, and when the page was rendered with it."""
        old = await stage.commit("Old")
        page = await stage.open()
        stage.publish(old, *[await stage.commit(f"{number}") for number in range(11)])
        await expect(page.locator(COUNT)).to_have_text("12")
        assert await page.locator(LIST).count() == 10
        async with page.expect_response(BELL_PATH):
            stage.publish(old, old, old)
        stage.publish(await stage.commit("Last"))
        await expect(page.locator(COUNT)).to_have_text("13")

    async def test_a_newer_one_takes_the_place_of_what_it_replaces(self, stage: Stage) -> None:
        """In the list and in the count, whether the page showed the older one or not."""
        page = await stage.open()
        stage.publish(await stage.commit("Building", collapse_key="build-7"), await stage.commit("Other"))
        await expect(page.locator(COUNT)).to_have_text("2")
        stage.publish(await stage.commit("Built", collapse_key="build-7"))
        await expect(page.locator(LIST).locator("[data-signalbox-message]")).to_have_text(["Built", "Other"])
        await expect(page.locator(COUNT)).to_have_text("2")
        await stage.commit("Unheard of", collapse_key="build-8")
        async with page.expect_response(BELL_PATH):
            stage.publish(await stage.commit("Heard of", collapse_key="build-8"))
        await expect(page.locator(COUNT)).to_have_text("3")
        assert await texts(page.locator(LIST)) == ["Heard of", "Built", "Other"]

    async def test_messages_out_of_order_are_put_in_order(self, stage: Stage) -> None:
        """Two transactions may commit the other way round."""
        page = await stage.open()
        one, two, three = [await stage.commit(text) for text in ("one", "two", "three")]
        stage.publish(two)
        stage.publish(three, one)
        await expect(page.locator(COUNT)).to_have_text("3")
        assert await texts(page.locator(LIST)) == ["three", "two", "one"]

    async def test_a_burst_is_counted_exactly(self, stage: Stage) -> None:
        """More than is remembered or shown; three toasts at most."""
        page = await stage.open()
        envelope = await stage.commit("first of many")
        burst = [{**envelope, "id": envelope["id"] + number, "message": f"{number}"} for number in range(1500)]
        for start in range(0, 1500, 100):
            stage.publish(*burst[start : start + 100])
        await expect(page.locator(COUNT)).to_have_text("1500")
        assert await texts(page.locator(LIST)) == [f"{number}" for number in range(1499, 1489, -1)]
        assert await page.locator(".signalbox-toast").count() == 3

    async def test_a_message_that_overtakes_the_rendering_is_not_lost(self, stage: Stage) -> None:
        """It comes while a rendering from before it is on its way, and stays when that arrives."""
        page = await stage.open()
        arrived = asyncio.Event()

        async def slow(route: Route) -> None:
            response = await route.fetch()
            stage.publish(await stage.commit("Overtook"))
            await expect(page.locator(COUNT)).to_have_text("1")
            await route.fulfill(response=response)
            arrived.set()

        await page.route(BELL_PATH, slow, times=1)
        stage.greet(stage.sockets[0], stage.user.pk)
        async with page.expect_response(BELL_PATH):
            await asyncio.wait_for(arrived.wait(), 10)
        stage.publish(await stage.commit("After"))
        await expect(page.locator(COUNT)).to_have_text("2")
        assert await texts(page.locator(LIST)) == ["After", "Overtook"]

    async def test_a_message_between_the_two_lists_of_a_rendering_is_in_both(self, stage: Stage) -> None:
        """The server reads the inbox, then the bell; what is committed between the two is in the bell only."""
        await stage.commit("one")
        page = await stage.open("/notifications/")
        two: dict[str, Any] = {}

        async def torn(route: Route) -> None:
            before = await (await route.fetch()).text()
            two.update(await stage.commit("two"))
            after = await (await route.fetch()).text()
            stage.publish(two)
            await expect(page.locator(COUNT)).to_have_text("2")
            head, tail = after.partition("<main")[0], before.partition("<main")[2]
            await route.fulfill(body=f"{head}<main{tail}", content_type="text/html")

        await page.route("**/notifications/", torn, times=1)
        async with page.expect_response("**/notifications/"):
            stage.greet(stage.sockets[0], stage.user.pk)
        stage.publish(await stage.commit("three"))
        for name in ("inbox", "bell"):
            items = page.locator(f"[data-signalbox-list={name}] [data-notification-id]")
            await expect(items).to_have_count(3)
            assert await texts(items) == ["three", "two", "one"]
        await expect(page.locator(COUNT)).to_have_text("3")

    async def test_what_was_missed_comes_after_the_next_hello(self, stage: Stage) -> None:
        """The connection was lost; nothing is said twice."""
        page = await stage.open()
        await stage.commit("Missed")
        await expect(page.locator(COUNT)).to_be_hidden()
        await stage.sockets[0].close(code=CloseCode.RESTART)
        await expect(page.locator(COUNT)).to_have_text("1")
        assert await texts(page.locator(LIST)) == ["Missed"]

    async def test_messages_of_others_are_not_shown(self, stage: Stage) -> None:
        """A page that is still open after somebody else has logged in shows nothing of theirs."""
        page = await stage.open()
        mine = await stage.commit("Mine")
        stage.publish({**mine, "id": mine["id"] + 1, "message": "Not mine"}, topic=f"user.{stage.user.pk + 1}")
        stage.publish(mine)
        await expect(page.locator(COUNT)).to_have_text("1")
        assert await texts(page.locator(LIST)) == ["Mine"]

    async def test_a_page_of_a_former_user_is_not_live(self, stage: Stage) -> None:
        """Somebody else has logged in meanwhile: the page says that it has to be loaded anew."""
        page = await stage.open()
        stage.greet(stage.sockets[0], stage.user.pk + 1)
        await expect(page.locator("[data-signalbox-state=closed]")).to_be_attached()

    async def test_what_many_pages_missed_each_reads_at_its_own_moment(self, stage: Stage) -> None:
        """And once, however often it was told within that time."""
        page = await stage.open()
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url) if request.resource_type == "fetch" else None)
        await stage.commit("Missed")
        for _ in range(10):
            stage.greet(stage.sockets[0], stage.user.pk)
        await expect(page.locator(COUNT)).to_have_text("1")
        assert len(fetched) == 1

    async def test_what_a_message_says_is_text(self, stage: Stage) -> None:
        """Markup is shown, and an address that would run a script is no link."""
        page = await stage.open()
        envelope = await stage.commit("harmless")
        attack = "<img src=x onerror=document.body.remove()>"
        stage.publish({**envelope, "title": attack, "message": attack, "url": "javascript:document.body.remove()"})
        await expect(page.locator(f"{LIST} [data-signalbox-message]")).to_have_text(attack)
        assert await page.locator(f"{LIST} a[href]").count() == 0
        assert await page.locator(".signalbox-toast a").count() == 0
        assert await page.locator("img").count() == 0

    async def test_a_final_refusal_is_said(self, stage: Stage) -> None:
        """It does not knock again."""
        page = await stage.open()
        await stage.sockets[0].close(code=CloseCode.UNAUTHORISED)
        await expect(page.locator("[data-signalbox-state=closed]")).to_be_attached()
        await page.locator(TOGGLE).click()
        await expect(page.locator("[data-signalbox-status]")).to_have_text("Not connected. Reload the page.")
        assert len(stage.sockets) == 1


class TestPanel:
    async def test_the_keyboard_is_enough(self, stage: Stage) -> None:
        """Enter opens, arrows walk, Escape closes and gives the focus back."""
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

    async def test_it_closes_when_the_focus_or_a_click_goes_elsewhere(self, stage: Stage) -> None:
        """And stays open for what happens in it."""
        page = await stage.open()
        await page.locator(TOGGLE).click()
        await page.locator(PANEL).click(position={"x": 20, "y": 20})
        await expect(page.locator(PANEL)).to_be_visible()
        await page.locator("h1").click()
        await expect(page.locator(PANEL)).to_be_hidden()
        await page.locator(TOGGLE).click()
        await page.locator(".quiet-button").focus()
        await expect(page.locator(PANEL)).to_be_hidden()

    async def test_opening_it_marks_seen_and_keeps_the_count(self, stage: Stage) -> None:
        """Also what comes while it is open."""
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

    async def test_marking_read_keeps_the_focus_near(self, stage: Stage) -> None:
        """Whoever reads by keyboard does not start over at each item."""
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

    async def test_following_a_notification_reads_it(self, stage: Stage) -> None:
        """The page it leads to counts one less."""
        await stage.commit("left")
        await stage.commit("followed", url="/orders/")
        page = await stage.open()
        await page.locator(TOGGLE).click()
        await page.locator(f"{LIST} a[href]").click()
        await page.wait_for_url("**/orders/")
        await expect(page.locator(COUNT)).to_have_text("1")

    async def test_other_tabs_follow(self, stage: Stage) -> None:
        """What is read, put away or all read in one is so in each."""
        for text in ("one", "two", "three"):
            await stage.commit(text)
        first, second = await stage.open(), await stage.open("/notifications/")
        archive = "[data-signalbox-list=inbox] [data-signalbox-action=archive] button"
        await second.locator(archive).first.click()
        await expect(first.locator(COUNT)).to_have_text("2")
        await expect(first.locator(LIST)).to_have_count(2)
        # A page in the background draws rarely, and nobody clicks there.
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

    async def test_mark_all_leaves_what_comes_a_moment_later(self, stage: Stage) -> None:
        """It was not on the page when the button was pressed."""
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

    async def test_who_was_logged_out_elsewhere_is_led_to_the_login_page(self, stage: Stage) -> None:
        """And no form seems to work."""
        await stage.commit("one")
        page = await stage.open()
        await page.locator(TOGGLE).click()
        await stage.context.clear_cookies(name="sessionid")
        await page.locator(f"{LIST} [data-signalbox-action=read] button").click()
        await page.wait_for_url("**/login/**")
        assert await Notification.objects.filter(read_at=None).acount() == 1


class TestPages:
    async def test_the_inbox_is_live_too(self, stage: Stage) -> None:
        """What arrives is put on top of its first page."""
        await stage.commit("one")
        page = await stage.open("/notifications/")
        stage.publish(await stage.commit("two"))
        items = page.locator("[data-signalbox-list=inbox] [data-notification-id]")
        await expect(items).to_have_count(2)
        assert await texts(items) == ["two", "one"]
        await items.first.locator("[data-signalbox-action=archive] button").click()
        await expect(items).to_have_count(1)
        await expect(page.locator(COUNT)).to_have_text("1")

    async def test_all_of_it_works_without_a_script(self, browser: Browser, stage: Stage, cookie: Any) -> None:
        """The bell is a link, its forms are forms."""
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

    async def test_orders_follow_and_do_not_go_back(self, stage: Stage) -> None:
        """The status comes with the message; a repeated older one changes nothing, an unknown order is fetched."""
        order = await self.place_order(stage)
        page = await stage.open("/orders/")
        status = page.locator(f"[data-order='{order.pk}'] [data-order-status]")
        packed = await self.change(stage, order, "packed")
        stage.publish(packed)
        await expect(status).to_have_text("Packed")
        stage.publish(await self.change(stage, order, "on_its_way"), packed)
        await expect(status).to_have_text("On its way")
        await expect(page.locator(f"[data-order='{order.pk}'] [aria-current=step]")).to_have_text("On its way")
        stage.publish(packed, await stage.commit("a message of another kind"))
        await expect(page.locator(COUNT)).to_have_text("3")
        await expect(status).to_have_text("On its way")
        other = await self.place_order(stage)
        stage.publish(await self.change(stage, other, "packed"))
        await expect(page.locator(f"[data-order='{other.pk}'] [data-order-status]")).to_have_text("Packed")

    async def test_no_page_is_wider_than_a_small_telephone(self, stage: Stage) -> None:
        """From 360 pixels, with the panel open and long words in it."""
        await stage.commit("w" * 300, title="t" * 200)
        await self.place_order(stage)
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

    async def place_order(self, stage: Stage) -> Order:
        product = await Product.objects.acreate(name="Lamp", price=1, drawing="lamp")
        return await Order.objects.acreate(customer=stage.user, product=product, price=1)

    async def change(self, stage: Stage, order: Order, status: str) -> dict[str, Any]:
        label = Order.Status(status).label
        await Order.objects.filter(pk=order.pk).aupdate(status=status)
        data = {"order": order.pk, "status": status, "label": label}
        return await stage.commit(label, kind=f"order.{status}", data=data)
