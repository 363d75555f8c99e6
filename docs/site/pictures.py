"""
The moving picture of the README: `python -m docs.site.pictures` takes it from the running site, in a real browser.

`docs/images/bell.webp` shows what two commands do to the page of a signed-in user. Needs what the acceptance tests
need, and requirements-docs.txt.

Owns the scene and the form of the picture. Does not own starting a site or finding a browser (tests).
"""

import asyncio
import base64
import html
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from tests.acceptance.people import Person, at_browser
from tests.acceptance.site import Site
from tests.support.browser import launch_options

__all__ = ["main"]

PICTURE = Path(__file__).resolve().parent.parent / "images" / "bell.webp"
SIZE: ViewportSize = {"width": 960, "height": 540}
COMMANDS = (
    ("Packed and labelled: Station clock.", "Order 15"),
    ("Your order is on its way!", "Order 15"),
)
# Below the page stands the command that has been typed so far.
FRAME = """
<body style="margin: 0; background: #10211d">
<img src="{page}" width="{width}" style="display: block">
<pre style="margin: 0; padding: 14px 20px; color: #e8f0ec; font: 15px/1.3 monospace">{text}</pre>
"""
PROMPT = '<span style="color: #7fb8a4">$</span> '


def main() -> int:
    """Take the picture."""
    with tempfile.TemporaryDirectory() as directory, Site(Path(directory) / "var") as site:
        site.wait_until_ready()
        asyncio.run(_take(site))
    return 0


async def _take(site: Site) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options())
        async with at_browser(browser, site.url.rstrip("/"), "alice") as alice:
            frames = await _ring(site, browser, alice)
        await browser.close()
    (first, *others), durations = zip(*frames, strict=True)
    first.save(PICTURE, save_all=True, append_images=others, duration=list(durations), loop=0, quality=80, method=6)
    sys.stdout.write(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KB\n")


async def _ring(site: Site, browser: Browser, alice: Person) -> list[tuple[Image.Image, int]]:
    """What happens at alice's page, as pictures with the milliseconds that each is shown."""
    page, screen = alice.page, await browser.new_page(viewport=SIZE)
    await page.set_viewport_size(SIZE)
    await page.goto(site.url)
    await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
    count = await alice.count()
    frames = [(await _frame(screen, page, ""), 900)]
    for message, title in COMMANDS:
        command = f'python manage.py notify alice "{message}" --title "{title}"'
        frames.append((await _frame(screen, page, command), 900))
        await asyncio.to_thread(site.manage, "notify", "alice", message, "--title", title)
        count += 1
        await alice.has_count(count)
        frames.append((await _frame(screen, page, command), 1600))
    await page.locator("[data-signalbox-toggle]").click()
    await expect(page.locator("[data-signalbox-panel]")).to_be_visible()
    frames.append((await _frame(screen, page, ""), 2600))
    await page.get_by_text("Mark all as read").click()
    await alice.has_count(0)
    frames.append((await _frame(screen, page, ""), 1600))
    return frames


async def _frame(screen: Page, page: Page, command: str) -> Image.Image:
    """The page as it is now, above a command line."""
    await page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished.catch(() => null)))")
    shot = await page.screenshot()
    await screen.set_content(
        FRAME.format(page=_data_url(shot), width=SIZE["width"], text=PROMPT + html.escape(command) + "▏")
    )
    return _image(await screen.screenshot(full_page=True))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _image(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
