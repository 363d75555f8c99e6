"""The panel opens at the bell and inside the window, wherever the bell is on the page."""

from typing import Any

import pytest
from playwright.async_api import expect

from tests.acceptance.bell.stage import PANEL, TOGGLE, Stage

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
]

# The styles of a header that contains only the bell.
HEADERS: dict[str, dict[str, str]] = {
    "plain": {},
    "flex, bell first": {"display": "flex"},
    "flex, bell last": {"display": "flex", "justifyContent": "end"},
    "flex, bell in the middle": {"display": "flex", "justifyContent": "center", "alignItems": "center"},
    "column": {"display": "flex", "flexDirection": "column"},
    "at the bottom": {"position": "fixed", "insetBlockEnd": "0"},
}
SIZES = [(320, 568), (360, 640), (800, 600), (3840, 2160)]
MOVE = """([direction, styles]) => {
  document.documentElement.dir = direction;
  const header = document.createElement("header");
  Object.assign(header.style, styles);
  header.append(document.querySelector("[data-signalbox-bell]"));
  document.body.prepend(header);
}"""
PLACES = """([panel, toggle]) => {
  const edges = ({ left, right, top, bottom }) => ({ left, right, top, bottom });
  const { clientWidth, clientHeight } = document.documentElement;
  const rect = (selector) => edges(document.querySelector(selector).getBoundingClientRect());
  return { panel: rect(panel), toggle: rect(toggle), width: clientWidth, height: clientHeight };
}"""


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("header", HEADERS)
async def test_the_panel_opens_at_the_bell_and_inside_the_window(stage: Stage, header: str, direction: str) -> None:
    """On a small phone and on a large screen."""
    for number in range(12):
        await stage.commit(f"A message that fills a line or two of the panel, number {number}.")
    page = await stage.open()
    await page.evaluate(MOVE, [direction, HEADERS[header]])
    await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
    for width, height in SIZES:
        await page.set_viewport_size({"width": width, "height": height})
        await page.locator(TOGGLE).click()
        await expect(page.locator(PANEL)).to_be_visible()
        assert _faults(await page.evaluate(PLACES, [PANEL, TOGGLE])) == []
        await page.keyboard.press("Escape")


async def test_the_open_panel_follows_the_window(stage: Stage) -> None:
    """When a phone is turned, or a window becomes smaller."""
    await stage.commit("message")
    page = await stage.open()
    await page.evaluate(MOVE, ["ltr", HEADERS["flex, bell last"]])
    await page.set_viewport_size({"width": 1200, "height": 800})
    await page.locator(TOGGLE).click()
    await page.set_viewport_size({"width": 320, "height": 568})
    await page.wait_for_function(f"() => document.querySelector('{PANEL}').getBoundingClientRect().left >= 0")
    assert _faults(await page.evaluate(PLACES, [PANEL, TOGGLE])) == []


def _faults(places: dict[str, Any]) -> list[str]:
    """Which conditions the panel's position breaks, with all positions."""
    panel, toggle = places["panel"], places["toggle"]
    gap = min(abs(panel["top"] - toggle["bottom"]), abs(toggle["top"] - panel["bottom"]))
    is_well = {
        "it begins in the window": panel["left"] >= 0 and panel["top"] >= 0,
        "it ends in the window": panel["right"] <= places["width"] and panel["bottom"] <= places["height"],
        "it is over or under the button": panel["left"] < toggle["right"] and panel["right"] > toggle["left"],
        "it is near the button": gap <= 12,
    }
    return [f"not so: {fact} {places}" for fact, is_so in is_well.items() if not is_so]
