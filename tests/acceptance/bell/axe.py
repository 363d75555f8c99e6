"""Runs axe on a page. Owns how axe is called. Does not own which pages it checks (the tests)."""

from playwright.async_api import Page

from tests.support.page_libraries import library

__all__ = ["violations"]

# With one rule that axe has as experimental: who speaks to the page says what stands on a button.
RUN = """async () => {
  const { violations } = await axe.run({ rules: { "label-content-name-mismatch": { enabled: true } } });
  const shown = (id) => ({ html, target }) => [id, target.join(" "), html.slice(0, 200)];
  return violations.flatMap(({ id, nodes }) => nodes.map(shown(id)));
}"""


# Scripts of the admin do their work when jQuery says that the page is ready, which may be after its load.
READY = "new Promise((resolve) => window.django?.jQuery ? django.jQuery(() => setTimeout(resolve)) : resolve())"


async def violations(page: Page) -> list[list[str]]:
    """For each violation that axe finds: the rule, and the selector and the beginning of the element."""
    await page.evaluate(READY)
    # By the debugger's way in: the page's own policy lets no foreign script in.
    await page.evaluate(library("axe").read_text() + ";0")
    found: list[list[str]] = await page.evaluate(RUN)
    return found
