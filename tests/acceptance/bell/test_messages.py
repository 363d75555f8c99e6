"""Messages that arrive repeatedly, out of order or late, or are missed: each is counted once."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Route, expect

from realtime.protocol.close_codes import CloseCode
from tests.acceptance.bell.stage import BELL_PATH, COUNT, LIST, TOGGLE, Stage, texts

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]


async def test_a_message_rings(stage: Stage) -> None:
    """It is counted, is first in the list, and appears in a toast that screen readers announce."""
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


async def test_a_repeated_message_counts_once(stage: Stage) -> None:
    """Even if it is no longer in the list, or the page was rendered with it."""
    old = await stage.commit("Old")
    page = await stage.open()
    stage.publish(old, *[await stage.commit(f"{number}") for number in range(11)])
    await expect(page.locator(COUNT)).to_have_text("12")
    assert await page.locator(LIST).count() == 10
    async with page.expect_response(BELL_PATH):
        stage.publish(old, old, old)
    stage.publish(await stage.commit("Last"))
    await expect(page.locator(COUNT)).to_have_text("13")


async def test_a_newer_one_takes_the_place_of_what_it_replaces(stage: Stage) -> None:
    """In the list and in the count, whether or not the page showed the older one."""
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


async def test_messages_out_of_order_are_put_in_order(stage: Stage) -> None:
    """Two transactions may commit in the other order."""
    page = await stage.open()
    one, two, three = [await stage.commit(text) for text in ("one", "two", "three")]
    stage.publish(two)
    stage.publish(three, one)
    await expect(page.locator(COUNT)).to_have_text("3")
    assert await texts(page.locator(LIST)) == ["three", "two", "one"]


async def test_a_burst_is_counted_exactly(stage: Stage) -> None:
    """More notifications than the page remembers or shows; at most three toasts."""
    page = await stage.open()
    envelope = await stage.commit("first of many")
    burst = [{**envelope, "id": envelope["id"] + number, "message": f"{number}"} for number in range(1500)]
    for start in range(0, 1500, 100):
        stage.publish(*burst[start : start + 100])
    await expect(page.locator("[data-signalbox-bell]")).to_have_attribute("data-signalbox-unread", "1500")
    assert await texts(page.locator(LIST)) == [f"{number}" for number in range(1499, 1489, -1)]
    assert await page.locator(".signalbox-toast").count() == 3


async def test_a_message_that_overtakes_the_rendering_is_not_lost(stage: Stage) -> None:
    """If it arrives while an older rendering is being fetched, it is still there after that rendering arrives."""
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
        await asyncio.wait_for(arrived.wait(), 60)
    stage.publish(await stage.commit("After"))
    await expect(page.locator(COUNT)).to_have_text("2")
    assert await texts(page.locator(LIST)) == ["After", "Overtook"]


@pytest.mark.parametrize("is_late", [False, True], ids=["before the rendering", "after it"])
async def test_a_message_between_the_two_lists_of_a_rendering_is_in_both(stage: Stage, is_late: bool) -> None:
    """The server reads the inbox before the bell. A notification committed in between is only in the bell."""
    await stage.commit("one")
    page = await stage.open("/notifications/")
    two: dict[str, Any] = {}

    async def torn(route: Route) -> None:
        before = await (await route.fetch()).text()
        two.update(await stage.commit("two"))
        after = await (await route.fetch()).text()
        if not is_late:
            stage.publish(two)
            await expect(page.locator(COUNT)).to_have_text("2")
        head, tail = after.partition("<main")[0], before.partition("<main")[2]
        await route.fulfill(body=f"{head}<main{tail}", content_type="text/html")

    await page.route("**/notifications/", torn, times=1)
    async with page.expect_response("**/notifications/"):
        stage.greet(stage.sockets[0], stage.user.pk)
    if is_late:
        await expect(page.locator(COUNT)).to_have_text("2")
        stage.publish(two)
    stage.publish(await stage.commit("three"))
    for name in ("inbox", "bell"):
        items = page.locator(f"[data-signalbox-list={name}] [data-notification-id]")
        await expect(items).to_have_count(3)
        assert await texts(items) == ["three", "two", "one"]
    await expect(page.locator(COUNT)).to_have_text("3")


async def test_what_was_missed_comes_after_the_next_hello(stage: Stage) -> None:
    """After a lost connection, nothing is announced twice."""
    page = await stage.open()
    await stage.commit("Missed")
    await expect(page.locator(COUNT)).to_be_hidden()
    await stage.sockets[0].close(code=CloseCode.RESTART)
    await expect(page.locator(COUNT)).to_have_text("1")
    assert await texts(page.locator(LIST)) == ["Missed"]


async def test_messages_of_others_are_not_shown(stage: Stage) -> None:
    """A page that is still open after another user has logged in shows nothing of that user."""
    page = await stage.open()
    mine = await stage.commit("Mine")
    stage.publish({**mine, "id": mine["id"] + 1, "message": "Not mine"}, topic=f"user.{stage.user.pk + 1}")
    stage.publish(mine)
    await expect(page.locator(COUNT)).to_have_text("1")
    assert await texts(page.locator(LIST)) == ["Mine"]


async def test_what_is_no_notification_is_not_shown(stage: Stage) -> None:
    """Any program that reaches Redis can publish on a user's topic; the page's own scripts still get the message."""
    page = await stage.open()
    await page.evaluate(
        "document.addEventListener('signalbox:message', ({ detail }) => (window.heard ??= []).push(detail.data))"
    )
    mine = await stage.commit("Mine")
    others: list[Any] = [None, 7, "Hello", [], {"a": 1}, {"id": mine["id"] + 1}, {**mine, "id": "7"}]
    stage.publish(*others, mine)
    await expect(page.locator(COUNT)).to_have_text("1")
    assert await texts(page.locator(LIST)) == ["Mine"]
    await expect(page.locator("[data-signalbox-toasts] > *")).to_have_count(1)
    assert await page.evaluate("window.heard") == [*others, mine]


async def test_a_page_of_a_former_user_is_not_live(stage: Stage) -> None:
    """Another user has logged in meanwhile: the page asks to be reloaded."""
    page = await stage.open()
    stage.greet(stage.sockets[0], stage.user.pk + 1)
    await expect(page.locator("[data-signalbox-state=closed]")).to_be_attached()


async def test_what_many_pages_missed_each_reads_at_its_own_moment(stage: Stage) -> None:
    """And only once, however many messages caused it in that time."""
    page = await stage.open()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url) if request.resource_type == "fetch" else None)
    await stage.commit("Missed")
    for _ in range(10):
        stage.greet(stage.sockets[0], stage.user.pk)
    await expect(page.locator(COUNT)).to_have_text("1")
    assert len(fetched) == 1


async def test_what_a_message_says_is_text(stage: Stage) -> None:
    """Markup is shown as text, and a script URL does not become a link."""
    page = await stage.open()
    envelope = await stage.commit("harmless")
    attack = "<img src=x onerror=document.body.remove()>"
    stage.publish({**envelope, "title": attack, "message": attack, "url": "javascript:document.body.remove()"})
    await expect(page.locator(f"{LIST} [data-signalbox-message]")).to_have_text(attack)
    assert await page.locator(f"{LIST} a[href]").count() == 0
    assert await page.locator(".signalbox-toast a").count() == 0
    assert await page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (CloseCode.UNAUTHORISED, "You are signed out."),
        (CloseCode.TOO_MANY_CONNECTIONS, "Not connected. Reload the page."),
    ],
)
async def test_a_final_refusal_is_said(stage: Stage, code: CloseCode, text: str) -> None:
    """The client does not connect again."""
    page = await stage.open()
    await stage.sockets[0].close(code=code)
    await expect(page.locator("[data-signalbox-state=closed]")).to_be_attached()
    await page.locator(TOGGLE).click()
    await expect(page.locator("[data-signalbox-status]")).to_contain_text(text)
    assert len(stage.sockets) == 1
