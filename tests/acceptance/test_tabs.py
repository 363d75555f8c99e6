"""
One connection for all tabs of a user, which resumes without loss: real pages, a real server, and a proxy that cuts the
connection.
"""

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio
from playwright.async_api import Browser, BrowserContext, Error, Page, expect

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.tcp_proxy import TcpProxy
from tests.support.browser import chromium
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.database_independent]

COUNT = "[data-signalbox-count]"
ITEMS = "[data-signalbox-list=bell] [data-notification-id] [data-signalbox-message]"
# Backoff, and after a resync the bell's own wait.
RETURN_MS = 60_000

# Each test has its own user, who has no notifications of other tests.
_user_numbers = itertools.count(40)

# What a page receives from a topic, in order: offsets, and "resync".
HEAR = """
async (topic) => {
  const { connection } = await import("/static/notifications/bell.js");
  globalThis.heard = [];
  globalThis.subscription = connection.subscribe(topic);
  subscription.on("message", ({ offset }) => heard.push(offset));
  await new Promise((resolve) => subscription.on("resync", () => resolve(heard.push("resync"))));
}
"""


class Wire(TcpProxy):
    """A TCP proxy in front of the site, which recognises WebSockets."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target_port = port
        # Both ends of each WebSocket that is open now.
        self._open: dict[int, list[asyncio.StreamWriter]] = {}
        # The request target of each WebSocket that was ever asked for.
        self.targets: list[str] = []
        # While cleared, the requests for a WebSocket wait.
        self.lets_in = asyncio.Event()
        self.lets_in.set()

    @property
    def open_count(self) -> int:
        """The number of open WebSockets."""
        return len(self._open)

    async def asked(self, count: int) -> None:
        """Wait until this many WebSockets have been requested."""
        await wait_until(lambda: len(self.targets) == count, seconds=RETURN_MS / 1000)

    def cut(self) -> None:
        """Break every WebSocket, without a close frame."""
        for ends in self._open.values():
            for end in ends:
                end.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self._connect(reader, writer, ends)
        finally:
            self._open.pop(id(writer), None)
            for end in ends:
                end.transport.abort()

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        first = await reader.readline()
        if is_socket := first.startswith(b"GET /ws/"):
            self.targets.append(first.split()[1].decode())
            await self.lets_in.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        ends.append(far_writer)
        far_writer.write(first)
        if is_socket:
            self._open[id(writer)] = ends
        await self.copy_both_ways((reader, writer), (far_reader, far_writer))


class Alice:
    """A user of the test's own at a browser with several tabs."""

    def __init__(self, context: BrowserContext, wire: Wire, site: DeployedSite, client: Any, user_id: int) -> None:
        self.context, self.wire, self.site, self.user_id = context, wire, site, user_id
        self._redis = client
        self.complaints: list[str] = []
        # The bell's requests for its rendering.
        self.fetches: list[str] = []

    async def open(self, path: str = "/") -> Page:
        """Open a tab; its bell is live and has read the inbox when this returns."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if "Security Policy" in said.text else None)
        async with page.expect_response("**/notifications/bell/"):
            await page.goto(self.wire.url + path)
        await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
        page.on("request", lambda request: self.fetches.append(request.url) if "bell/" in request.url else None)
        return page

    async def tell(self, *messages: str) -> None:
        """Send her these notifications from a foreign program."""
        for message in messages:
            await self._redis.publish("notification", json.dumps({"user_id": self.user_id, "message": message}))

    async def publish(self, topic: str, count: int = 1) -> None:
        await asyncio.to_thread(self.site.manage, "publish", topic, '{"headline": "News"}', f"--repeat={count}")

    async def has(self, page: Page, *messages: str) -> None:
        """Each of these is counted once, the last ten are in the bell once, and nothing else is."""
        await expect(page.locator(COUNT)).to_have_text(str(len(messages)), timeout=RETURN_MS)
        assert sorted(await page.locator(ITEMS).all_text_contents()) == sorted(messages[-10:])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """With the back/forward cache, which Playwright leaves out."""
    async with chromium(ignore_default_args=["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def alice(browser: Browser, site: DeployedSite) -> AsyncIterator[Alice]:
    """When the test ends, nothing may have failed on her pages."""
    user_id, session = list((await asyncio.to_thread(site.sessions, next(_user_numbers))).items())[-1]
    async with Wire(site.port) as wire, redis.asyncio.Redis.from_url(site.redis_url) as client:
        context = await browser.new_context()
        await context.add_cookies([{"name": "sessionid", "value": session, "url": wire.url}])
        alice = Alice(context, wire, site, client, user_id)
        yield alice
        await context.close()
        assert alice.complaints == []


async def heard(page: Page, *, up_to: Any) -> list[Any]:
    """Wait until the page has received `up_to`; returns all that it has received, in order."""
    found: list[Any] = []

    async def is_there() -> bool:
        found[:] = await page.evaluate("heard")
        return up_to in found

    await until(is_there)
    return found


async def until(fact: Callable[[], Any]) -> None:
    """Wait for a fact. Not by a function of Playwright's: those use eval(), which the pages' CSP forbids."""
    await wait_until(fact, seconds=RETURN_MS / 1000)


async def test_tabs_share_one_connection_and_closing_one_loses_nothing(alice: Alice) -> None:
    """The server sees one WebSocket; each bell rings once for each notification, also while a tab is being closed."""
    first, second = await alice.open(), await alice.open("/orders/")
    await alice.tell("one", "two")
    for page in (first, second):
        await alice.has(page, "one", "two")
    burst = [f"three {number:02}" for number in range(30)]
    telling = asyncio.create_task(alice.tell(*burst))
    await first.close()
    await telling
    await alice.has(second, "one", "two", *burst)
    third = await alice.open()
    await alice.tell("four")
    for page in (second, third):
        await expect(page.locator(COUNT)).to_have_text("33")
    assert (alice.wire.targets, alice.wire.open_count) == (["/ws/"], 1)
    await second.close()
    await third.close()
    await wait_until(lambda: alice.wire.open_count == 0)


async def test_a_connection_that_is_cut_comes_back_to_where_it_was(alice: Alice) -> None:
    """Messages of the meantime come from history, once in each tab, and no page is fetched again."""
    first, second = await alice.open(), await alice.open()
    await alice.tell("before")
    for page in (first, second):
        await alice.has(page, "before")
    alice.fetches.clear()
    for number in range(3):
        alice.wire.lets_in.clear()
        alice.wire.cut()
        await alice.tell(f"meanwhile {number}")
        await alice.wire.asked(number + 2)
        alice.wire.lets_in.set()
        await alice.tell(f"after {number}")
        for page in (first, second):
            await expect(page.locator(COUNT)).to_have_text(str(2 * number + 3), timeout=RETURN_MS)
    assert [target.partition("&")[0] for target in alice.wire.targets[1:]] == [
        f"/ws/?offset={number}" for number in (1, 3, 5)
    ]
    assert alice.fetches == []


async def test_a_topic_is_heard_without_a_gap_over_cuts(alice: Alice) -> None:
    """Both tabs receive every publication of a topic once and in order, while the connection is cut under load."""
    pages = [await alice.open(), await alice.open()]
    topic = f"news.tabs-{alice.user_id}"
    for page in pages:
        await page.evaluate(HEAR, topic)
    publishing = asyncio.create_task(
        asyncio.to_thread(alice.site.manage, "publish", topic, '{"headline": "News"}', "--repeat=60", "--rate=20")
    )
    for turn in range(1, 4):
        await until(functools.partial(pages[0].evaluate, f"heard.length > {turn * 12}"))
        await until(lambda: alice.wire.open_count == 1)
        alice.wire.cut()
        # Otherwise the next cut might come before there is a connection again.
        await alice.wire.asked(turn + 1)
    await publishing
    for page in pages:
        assert await heard(page, up_to=60) == ["resync", *range(1, 61)]
    assert len(alice.wire.targets) == 4


async def test_a_position_that_history_does_not_reach_is_told(alice: Alice) -> None:
    """More was published meanwhile than the history holds: one resync, then the history, then new messages."""
    page = await alice.open()
    topic = f"news.gone-{alice.user_id}"
    await page.evaluate(HEAR, topic)
    await alice.publish(topic)
    assert await heard(page, up_to=1) == ["resync", 1]
    alice.wire.lets_in.clear()
    alice.wire.cut()
    await alice.publish(topic, 500)
    alice.wire.lets_in.set()
    await until(lambda: page.evaluate("heard.length === 103"))
    await alice.publish(topic)
    assert await heard(page, up_to=502) == ["resync", 1, "resync", *range(402, 503)]


async def test_a_refused_topic_is_told_and_harms_nothing(alice: Alice) -> None:
    """Another user's topic, and one that no app declares."""
    page = await alice.open()
    for topic, code in ((f"user.{alice.user_id + 1}", "forbidden"), ("fireworks.1", "unknown_topic")):
        refusal = await page.evaluate(
            """async (topic) => {
              const { connection } = await import("/static/notifications/bell.js");
              const subscription = connection.subscribe(topic);
              return await new Promise((resolve) => subscription.on("error", resolve));
            }""",
            topic,
        )
        assert (refusal["code"], refusal["topic"]) == (code, topic)
    await alice.tell("still here")
    await alice.has(page, "still here")


async def test_when_the_worker_is_killed_the_tabs_go_on_alone(alice: Alice, browser: Browser) -> None:
    """Each has its own connection, and gets the messages of the meantime once."""
    first, second = await alice.open(), await alice.open()
    await alice.tell("before")
    for page in (first, second):
        await alice.has(page, "before")
    devtools = await browser.new_browser_cdp_session()
    targets = (await devtools.send("Target.getTargets", {}))["targetInfos"]
    (worker,) = [target for target in targets if target["type"] == "shared_worker"]
    await devtools.send("Target.closeTarget", {"targetId": worker["targetId"]})
    await alice.tell("meanwhile")
    for page in (first, second):
        await alice.has(page, "before", "meanwhile")
    await wait_until(lambda: alice.wire.open_count == 2, seconds=DEADLINE_SECONDS)
    await alice.tell("after")
    for page in (first, second):
        await alice.has(page, "before", "meanwhile", "after")


async def test_a_browser_without_shared_workers_has_a_connection_for_each_tab(alice: Alice) -> None:
    """And the same bells."""
    await alice.context.add_init_script("delete globalThis.SharedWorker")
    first, second = await alice.open(), await alice.open()
    await alice.tell("one")
    for page in (first, second):
        await alice.has(page, "one")
    assert alice.wire.open_count == 2


async def test_a_page_that_is_kept_for_the_back_button_comes_back_live(alice: Alice) -> None:
    """The next page is live. The kept page, when shown again, is live too and has what it missed."""
    page = await alice.open()
    await page.evaluate("() => addEventListener('pageshow', (event) => (globalThis.isKept = event.persisted))")
    await alice.tell("one")
    await alice.has(page, "one")
    await page.goto(f"{alice.wire.url}/orders/")
    await alice.tell("two")
    await alice.has(page, "one", "two")
    assert alice.wire.open_count == 1
    # Playwright's go_back() waits for a page to load.
    devtools = await alice.context.new_cdp_session(page)
    before = (await devtools.send("Page.getNavigationHistory"))["entries"][-2]
    await devtools.send("Page.navigateToHistoryEntry", {"entryId": before["id"]})

    async def is_back() -> bool:
        # Until it is, the page that was there before may be asked, and go in mid-question.
        with contextlib.suppress(Error):
            return bool(await page.evaluate("globalThis.isKept"))
        return False

    await until(is_back)
    await alice.has(page, "one", "two")
    await alice.tell("three")
    await alice.has(page, "one", "two", "three")
    assert alice.wire.open_count == 1
