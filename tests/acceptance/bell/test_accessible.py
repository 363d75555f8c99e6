"""What axe finds on the pages: nothing; and each button of an item says which item it is for."""

import pytest
from playwright.async_api import Page, expect

from tests.acceptance.bell.stage import PANEL, TOGGLE, Stage
from tests.page_libraries import library

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]
RUN = """async () => {
  const { violations } = await axe.run();
  return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 300))]);
}"""


async def _violations(page: Page) -> object:
    # By the debugger's way in: the page's own policy lets no foreign script in.
    await page.evaluate(library("axe").read_text() + ";0")
    return await page.evaluate(RUN)


async def test_the_inbox_is_clean(stage: Stage) -> None:
    """With the panel closed, and open."""
    await stage.commit("message", title="Title", url="/orders/")
    page = await stage.open("/notifications/")
    assert await _violations(page) == []
    await page.locator(TOGGLE).click()
    await expect(page.locator(PANEL)).to_be_visible()
    assert await _violations(page) == []


async def test_each_button_names_its_item(stage: Stage) -> None:
    """By title, or message; from the server and live."""
    await stage.commit("<first> message")
    page = await stage.open("/notifications/")
    stage.publish(await stage.commit("message", title="Second"))
    inbox = page.locator("[data-signalbox-list=inbox]")
    for name in (
        "Mark as read: <first> message",
        "Archive: <first> message",
        "Mark as read: Second",
        "Archive: Second",
    ):
        await expect(inbox.get_by_role("button", name=name, exact=True)).to_be_visible()
