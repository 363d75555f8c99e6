"""How the dashboard is read again: what is announced, how long it waits, and what it says if it cannot be read."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect

from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

# Counts the requests and the answers that were read, and notes the times of the figures that the page has shown since.
WATCH = """() => {
  globalThis.asked = 0;
  globalThis.answered = 0;
  globalThis.shown = [];
  const plain = globalThis.fetch;
  globalThis.fetch = (...values) => {
    asked += 1;
    return plain(...values);
  };
  const plainText = Response.prototype.text;
  Response.prototype.text = async function () {
    const text = await plainText.call(this);
    answered += 1;
    return text;
  };
  const observer = new MutationObserver(() => shown.push(document.getElementById("sb-at").dateTime));
  observer.observe(document.getElementById("sb-part"), { subtree: true, childList: true, attributes: true });
}"""
FIGURES = '<div id="sb-notices">{notices}</div><time id="sb-at" datetime="{at}"></time>'


class Refreshes:
    """A dashboard that gets no messages. Its clock stands still, and the test answers when it reads its figures."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.state = page.locator("#sb-live")
        self.announced = page.locator("#sb-announced")
        self._asked: asyncio.Queue[Route] = asyncio.Queue()

    async def open(self) -> None:
        await self.page.clock.install(time=0)
        await self.page.clock.pause_at(1000)
        await self.page.route("**/statistics/?format=part*", self._asked.put)
        await self.page.goto("")
        await expect(self.state).to_have_text("Every 10 seconds")
        await self.page.evaluate(WATCH)

    async def wait(self, seconds: float) -> int:
        """Let this time pass on the page. Returns how often it has read its figures until then."""
        await self.page.clock.run_for(int(seconds * 1000))
        return int(await self.page.evaluate("asked"))

    async def asked(self) -> Route:
        """The request for figures that waits for its answer."""
        return await asyncio.wait_for(self._asked.get(), 30)

    async def show(self, at: str, *notices: str) -> None:
        """Let the page read these figures, and wait until it shows them."""
        await self.wait(10)
        await answer(await self.asked(), at, *notices)
        await expect(self.page.locator("#sb-at")).to_have_attribute("datetime", at)


async def answer(route: Route, at: str, *notices: str) -> None:
    body = FIGURES.format(at=at, notices="".join(notices))
    await route.fulfill(content_type="text/html; charset=utf-8", body=body)


def notice(key: str, text: str, *, is_urgent: bool = True) -> str:
    return f'<p data-key="{key}"{" data-urgent" if is_urgent else ""}>\n  {text}\n</p>'


@pytest_asyncio.fixture(loop_scope="package")
async def refreshes(admin: Page) -> AsyncIterator[Refreshes]:
    refreshes = Refreshes(admin)
    await refreshes.open()
    yield refreshes
    await admin.unroute_all(behavior="ignoreErrors")


async def test_an_urgent_notice_is_announced_once(refreshes: Refreshes) -> None:
    """When it appears; not when a number in it changes. Another one is, also if only what it is about differs."""
    advice = notice("not_counted ", "The figures are too low.", is_urgent=False)
    await refreshes.show("1", notice("transport_fails email", "email: 5 have failed."), advice)
    await expect(refreshes.announced).to_have_text("email: 5 have failed.")
    await refreshes.show("2", notice("transport_fails email", "email: 6 have failed."), advice)
    await expect(refreshes.announced).to_be_empty()
    sms = notice("transport_fails sms", "sms: 7 have failed.")
    await refreshes.show("3", sms, notice("transport_fails email", "email: 8 have failed."))
    await expect(refreshes.announced).to_have_text("sms: 7 have failed.")
    await refreshes.show("4", sms)
    await refreshes.show("5", sms, notice("transport_fails email", "email: 9 have failed."))
    await expect(refreshes.announced).to_have_text("email: 9 have failed.")


@pytest.mark.parametrize("status", [403, 500])
async def test_it_says_that_the_figures_cannot_be_read(refreshes: Refreshes, status: int) -> None:
    """The server has answered, so it does not say otherwise."""
    await refreshes.wait(10)
    await (await refreshes.asked()).fulfill(status=status, body="no")
    await expect(refreshes.state).to_have_text("The figures could not be read: trying again")
    await refreshes.show("1")
    await expect(refreshes.state).to_have_text("Every 10 seconds")


async def test_a_reader_who_was_signed_out_learns_what_to_do(refreshes: Refreshes) -> None:
    """The server redirects the request to the login page. It goes on after the reader has signed in elsewhere."""
    cookies = await refreshes.page.context.cookies()
    await refreshes.page.context.clear_cookies()
    await refreshes.wait(10)
    await (await refreshes.asked()).continue_()
    await expect(refreshes.state).to_have_text("Signed out: reload the page")
    await refreshes.page.context.add_cookies(cookies)  # type: ignore[arg-type]
    await refreshes.show("1")
    await expect(refreshes.state).to_have_text("Every 10 seconds")


async def test_a_server_that_is_too_slow_to_answer_is_asked_less_often(refreshes: Refreshes) -> None:
    """The pause is four times as long as the attempt has taken, but at most a minute."""
    for attempt, (took_seconds, pause_seconds) in enumerate(((12, 48), (25, 60)), 1):
        request = await refreshes.asked() if await refreshes.wait(10 if attempt == 1 else 2) == attempt else None
        assert request is not None
        assert await refreshes.wait(took_seconds) == attempt
        await request.abort()
        await expect(refreshes.state).to_have_text("The figures could not be read: trying again")
        assert await refreshes.wait(pause_seconds - 1) == attempt


async def test_a_page_that_is_paused_while_it_reads_stands_still(refreshes: Refreshes) -> None:
    """The answer that comes later is not shown."""
    await refreshes.wait(10)
    request = await refreshes.asked()
    await refreshes.page.locator("#sb-pause").press("Enter")
    await expect(refreshes.state).to_have_text("Paused")
    await answer(request, "late")
    await wait_until(lambda: refreshes.page.evaluate("answered === 1"))
    await refreshes.page.locator("#sb-pause").press("Enter")
    await refreshes.show("new")
    assert await refreshes.page.evaluate("[...new Set(shown)]") == ["new"]
