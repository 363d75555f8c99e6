"""
People at browsers: each with a context of their own, whose bell is watched.

Owns logging in, what a bell shows, and what a page complains of.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.support.waiting import wait_until

__all__ = ["Person", "at_browser"]

PASSWORDS = {"alice": "demo", "bob": "demo", "admin": "admin"}
OPEN = "[data-signalbox-bell][data-signalbox-state=open]"
COUNT = "[data-signalbox-bell] [data-signalbox-count]"

# Reports each notification that appears in the bell of a page, and what the CSP blocked.
WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  complain(`CSP ${event.violatedDirective}: ${event.blockedURI} at ${event.sourceFile}:${event.lineNumber}`));
addEventListener("unhandledrejection", (event) => complain(`unhandled: ${event.reason}`));
const told = new Set();
new MutationObserver(() => {
  for (const item of document.querySelectorAll("[data-signalbox-list=bell] [data-notification-id]")) {
    const id = Number(item.dataset.notificationId);
    const message = item.querySelector("[data-signalbox-message]"), time = item.querySelector("time");
    // A page that is still being read may have the half of an item; its time comes last.
    if (told.has(id) || !message || !time) continue;
    told.add(id);
    saw(id, message.textContent);
  }
}).observe(document, { childList: true, subtree: true });
"""


class Person:
    """
    One user at one browser. Made by `at_browser`.

    Attributes:
        page: The page that is open; `new_page()` opens another, in a tab of its own.
        seen: Notification id → its message, in the order in which they turned up in a bell of this person.
        complaints: What went wrong in the browser: errors on the console, in scripts, and what the CSP stopped.
    """

    page: Page

    def __init__(self, name: str, url: str, context: BrowserContext) -> None:
        self.name = name
        self.seen: dict[int, str] = {}
        self.complaints: list[str] = []
        self._url = url
        self._context = context

    async def arrive(self) -> None:
        """Log in through the form; the bell is connected when this returns."""
        await self._context.expose_function("saw", self._saw)
        await self._context.expose_function("complain", lambda text: self.complaints.append(text))
        await self._context.add_init_script(WATCH)
        self.page = await self.new_page("/login/")
        await self.page.fill("[name=username]", self.name)
        await self.page.fill("[name=password]", PASSWORDS[self.name])
        await self.page.press("[name=password]", "Enter")
        await self.page.wait_for_selector(OPEN)

    async def new_page(self, path: str) -> Page:
        """Open another page, in a tab of its own."""
        page = await self._context.new_page()
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(self._url + path)
        return page

    async def reload(self) -> None:
        """Reload the page; the bell is connected when this returns."""
        await self.page.reload()
        await self.page.wait_for_selector(OPEN)

    async def user_id(self) -> int:
        """The user name that the page shows."""
        return int(await self.page.locator("[data-signalbox-bell]").get_attribute("data-signalbox-user") or "")

    async def count(self, page: Page | None = None) -> int:
        """The number on the bell; 0 if there is none."""
        shown = (page or self.page).locator(COUNT)
        return int(await shown.inner_text()) if await shown.is_visible() else 0

    async def has_count(self, count: int, page: Page | None = None) -> None:
        """Wait until the bell's number is this."""
        shown = (page or self.page).locator(COUNT)
        await expect(shown).to_be_visible(visible=count > 0)
        if count:
            await expect(shown).to_have_text(str(count))

    async def sees(self, message: str) -> None:
        """Wait until a notification with this message is in a bell of this person."""
        await wait_until(lambda: message in self.seen.values())

    def _saw(self, number: int, message: str) -> None:
        self.seen.setdefault(number, message)


@asynccontextmanager
async def at_browser(browser: Browser, url: str, name: str) -> AsyncIterator[Person]:
    """Log in at `url` as `name` ("alice", "bob" or "admin") with no other's cookies, and leave when done."""
    context = await browser.new_context()
    try:
        person = Person(name, url, context)
        await person.arrive()
        yield person
    finally:
        await context.close()
