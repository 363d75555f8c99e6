"""morph.js in a real browser: a part of the page gets new content, and what the reader does with it stays."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

# Makes the content of #old that of `html`, as the dashboard does, and returns it without blanks.
MORPH = """async (html) => {
  const { morph } = await import("/static/notifications/morph.js");
  const fresh = new DOMParser().parseFromString(html, "text/html");
  morph(document.getElementById("old"), document.adoptNode(fresh.body));
  return document.getElementById("old").innerHTML.replace(/\\s+/g, " ").replace(/> </g, "><").trim();
}"""
ROW = '<tr data-key="{0}"><td><a href="#" id="{0}">{1}</a></td></tr>'


@pytest_asyncio.fixture(loop_scope="package")
async def page(browser: Browser, live_server: Any) -> AsyncIterator[Page]:
    """An empty page with an element for content."""
    page = await browser.new_page()
    await page.goto(f"{live_server.url}/login/")
    yield page
    await page.close()


async def start(page: Page, content: str) -> None:
    await page.evaluate("(html) => { document.body.innerHTML = `<div id=old>\\n  ${html}\\n</div>`; }", content)


def table(*rows: tuple[str, str]) -> str:
    return f"<table><tbody>{''.join(ROW.format(*row) for row in rows)}</tbody></table>"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<p>1</p>", "<p>2</p>"),
        ("<p>1</p>", "<p>1</p><p>2</p>"),
        ("<p>1</p><h2>2</h2>", "<h2>2</h2>"),
        ('<p class="a" hidden="">1</p>', '<p class="b" title="t">1</p>'),
        ("<div><p>1</p></div>", "text"),
        ("text", '<div data-key="a"><p>1</p></div>'),
        (table(("a", "1"), ("b", "2"), ("c", "3")), table(("c", "4"), ("a", "1"), ("d", "5"))),
        (table(("a", "1"), ("a", "2")), table(("a", "3"), ("b", "1"), ("a", "2"))),
        ("<p>1</p>", ""),
    ],
)
async def test_the_content_becomes_the_new_one(page: Page, old: str, new: str) -> None:
    """Whatever it was before."""
    await start(page, old)
    assert await page.evaluate(MORPH, f"\n  {new}\n") == new


async def test_an_element_that_stays_is_the_same_one(page: Page) -> None:
    """With its focus, also if it moves among others; an opened <details> stays open."""
    await start(page, f"<p>1</p><details><summary>s</summary>{table(('a', '1'), ('b', '2'))}</details>")
    await page.locator("summary").click()
    await page.locator("#b").focus()
    await page.evaluate("globalThis.kept = document.activeElement")
    await page.evaluate(MORPH, f"<p>2</p><details><summary>s</summary>{table(('b', '3'), ('a', '1'))}</details>")
    assert await page.evaluate("document.activeElement === kept && kept.textContent") == "3"
    assert await page.evaluate("document.querySelector('details').open")
    assert await page.locator("tr").evaluate_all("(rows) => rows.map((row) => row.textContent)") == ["3", "1"]


async def test_what_is_unchanged_is_not_touched(page: Page) -> None:
    """So that screen readers do not repeat an alert, and selected text stays selected."""
    await start(page, '<p role="alert">Redis is unavailable.</p><p>1</p>')
    await page.evaluate("""() => {
      globalThis.changes = [];
      const observer = new MutationObserver((found) => changes.push(...found.map(({ target }) => target.textContent)));
      observer.observe(document.getElementById("old"), { subtree: true, childList: true, characterData: true });
    }""")
    await page.evaluate(MORPH, '<p role="alert">Redis is unavailable.</p><p>2</p>')
    assert await page.evaluate("changes") == ["2"]
