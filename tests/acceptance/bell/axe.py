"""Runs axe on a page. Owns how axe is called. Does not own which pages it checks (the tests)."""

from playwright.async_api import Page

from tests.support.page_libraries import library

__all__ = ["violations"]

# With one rule that axe calls experimental: speech input users say the visible label of a button.
RUN = """async () => {
  const { violations } = await axe.run({ rules: { "label-content-name-mismatch": { enabled: true } } });
  const shown = (id) => ({ html, target }) => [id, target.join(" "), html.slice(0, 200)];
  return violations.flatMap(({ id, nodes }) => nodes.map(shown(id)));
}"""


# Scripts of the admin run at jQuery's `ready`, which may come after the page's `load` event.
READY = "new Promise((resolve) => window.django?.jQuery ? django.jQuery(() => setTimeout(resolve)) : resolve())"


async def violations(page: Page) -> list[list[str]]:
    """For each violation that axe finds: the rule, and the selector and the beginning of the element."""
    await page.evaluate(READY)
    # Through the debugger, because the page's policy blocks foreign scripts.
    await page.evaluate(library("axe").read_text() + ";0")
    found: list[list[str]] = await page.evaluate(RUN)
    return found
