"""The bell, its panel, toasts and notices, and the inbox in the site's language, which is not the browser's."""

import re
from typing import Any

import pytest
from django.utils import translation
from playwright.async_api import Page, expect

from notifications.inbox.bell_texts import unread_label
from tests.acceptance.bell.stage import COUNT, PANEL, TOGGLE, Stage
from tests.support.catalogs import read_po

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

NOTICE = "[data-signalbox-notice]"
READ_PATH = "**/notifications/read/"
ITEMS = "[data-signalbox-list=inbox] [data-notification-id]"
# Arabic letters have a writing direction; the "1" and the brackets do not.
ARABIC = "(1) تم شحن طلبك"
HEBREW = "שלום עולם"
# All texts of the bell, the inbox and the toasts: visible text, labels and tooltips.
WORDS = """() => {
  const found = [document.title];
  const roots = ["bell", "inbox", "toasts"].map((name) => `[data-signalbox-${name}]`).join();
  for (const root of document.querySelectorAll(roots)) {
    for (const element of [root, ...root.querySelectorAll("*")]) {
      found.push(element.ariaLabel ?? "", element.title ?? "");
      for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE) found.push(node.data.trim());
    }
  }
  return found.filter(Boolean);
}"""
DIRECTION = "(element) => getComputedStyle(element).direction"


@pytest.fixture
def language(request: pytest.FixtureRequest, settings: Any) -> str:
    """The site's language, set before the page is rendered; the browser's language is English."""
    settings.LANGUAGE_CODE = request.param
    # The inbox as a page of its own, without texts of the demo.
    (engine,) = settings.TEMPLATES
    own = settings.BASE_DIR / "notifications" / "templates"
    settings.TEMPLATES = [{**engine, "APP_DIRS": False, "DIRS": [own]}]
    return str(request.param)


def say(language: str, text: str) -> str:
    with translation.override(language):
        return translation.gettext(text)


async def has_no_english(page: Page, language: str) -> None:
    """No English text is shown if the language has a translation of it."""
    words = "\n".join(await page.evaluate(WORDS))
    catalog = read_po("notifications", language)
    english = [message[0] for message, said in catalog.items() if message != ("",) and message[0] not in said]
    assert len(english) > 20
    # Placeholders have become numbers.
    patterns = [re.sub(r"%\\?\(\w+\\?\)[sd]", r".*", re.escape(text)) for text in english]
    left = [text for text in patterns if re.search(rf"(?<!\w){text}(?!\w)", words)]
    assert not left, words
    assert not re.search(r"\bago\b|\bnow\b|\bunread\b", words), words


@pytest.mark.parametrize("language", ["de", "ar"], indirect=True)
async def test_no_english_is_left(stage: Stage, language: str) -> None:
    """Counts, times, states and notices, from the server and from the scripts."""
    await stage.commit("1")
    page = await stage.open("/notifications/")
    await has_no_english(page, language)
    await expect(page.locator("h1")).to_have_text(say(language, "Notifications"))

    stage.publish(await stage.commit("2", title="22"))
    await expect(page.locator(".signalbox-toast")).to_contain_text("2")
    await expect(page.locator(".signalbox-toast__close")).to_have_attribute("aria-label", say(language, "Close"))
    with translation.override(language):
        await expect(page.locator(TOGGLE)).to_have_attribute("aria-label", unread_label(2))
    now = await page.evaluate("(l) => new Intl.RelativeTimeFormat(l, {numeric: 'auto'}).format(0, 'second')", language)
    await expect(page.locator(f"{ITEMS} time").first).to_have_text(now)
    await has_no_english(page, language)

    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_visible()
    await expect(page.locator("[data-signalbox-status]")).to_have_text(say(language, "Live"))
    await has_no_english(page, language)

    await page.route(READ_PATH, lambda route: route.abort())
    await page.locator("[data-signalbox-bell] [data-signalbox-action=read-all] button").click()
    away = say(language, "Not saved yet: the server cannot be reached. Trying again…")
    await expect(page.locator(NOTICE)).to_contain_text(away)
    await has_no_english(page, language)
    await page.unroute(READ_PATH)
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(page.locator(NOTICE)).to_contain_text(say(language, "Saved."))
    await expect(page.locator(COUNT)).to_be_hidden()
    await has_no_english(page, language)


@pytest.mark.parametrize("language", ["de", "ar"], indirect=True)
async def test_the_empty_and_the_filtered_inbox(stage: Stage, language: str) -> None:
    for path, text in (
        ("", "No notifications yet. New ones appear here automatically."),
        ("?unread=1", "You have read everything."),
        ("?before=1", "Nothing older."),
    ):
        page = await stage.context.new_page()
        await page.goto(f"{stage.url}/notifications/{path}")
        await expect(page.locator("[data-signalbox-inbox] .signalbox-empty")).to_have_text(say(language, text))
        await has_no_english(page, language)


@pytest.mark.parametrize(("language", "direction"), [("de", "ltr"), ("ar", "rtl")], indirect=["language"])
async def test_the_page_has_the_direction_of_its_language(stage: Stage, language: str, direction: str) -> None:
    """The bell, its panel, a toast and the inbox; the panel stays inside the window."""
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit("1"))
    await page.locator(".signalbox-toast").wait_for()
    for selector in ("html", "[data-signalbox-bell]", "[data-signalbox-inbox]", ".signalbox-toast"):
        assert await page.locator(selector).evaluate(DIRECTION) == direction, selector
    for selector in ("html", "[data-signalbox-bell]", "[data-signalbox-toasts]"):
        assert await page.locator(selector).get_attribute("lang") == language
    await page.locator(TOGGLE).click()
    box = await page.locator(PANEL).bounding_box()
    width = await page.evaluate("document.documentElement.clientWidth")
    assert box is not None
    assert 0 <= box["x"] <= width - box["width"]
    # The mark of an unread item is at the side where its line begins.
    item = await page.locator(ITEMS).bounding_box()
    text = await page.locator(f"{ITEMS} .signalbox-item__text").bounding_box()
    assert item is not None and text is not None
    before, behind = text["x"] - item["x"], item["x"] + item["width"] - text["x"] - text["width"]
    assert (before < behind) == (direction == "ltr")


@pytest.mark.parametrize("language", ["en-us", "ar"], indirect=True)
@pytest.mark.parametrize(("message", "direction"), [(ARABIC, "rtl"), (HEBREW, "rtl"), ("Your order", "ltr")])
async def test_a_message_has_a_direction_of_its_own(stage: Stage, language: str, message: str, direction: str) -> None:
    """Rendered by the server or put in live: in the panel, in the inbox and in a toast."""
    await stage.commit(message, title=message)
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit(f"{message} 2", title=message))
    await page.locator(".signalbox-toast").wait_for()
    parts = page.locator(
        "[data-signalbox-bell] :is([data-signalbox-title], [data-signalbox-message]),"
        "[data-signalbox-inbox] :is([data-signalbox-title], [data-signalbox-message]),"
        ".signalbox-toast__text, .signalbox-toast__text strong"
    )
    found = await parts.evaluate_all(f"(parts) => parts.map({DIRECTION})")
    assert found == [direction] * 10
