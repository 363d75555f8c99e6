"""
The documentation site: built by `python -m docs.site.build`, and searched as a reader does.

It is built by the Sphinx of requirements-docs.txt in an environment of its own, because the tests do not need it.
"""

import functools
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.browser import chromium
from tests.support.wheel import ROOT, environment, install, new_venv

# A package index may be far away.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

# What a reader types, and where the first hit must lead.
FIRST_HITS = {
    "webhook": "how-to/deliver-by-email-and-more.html",
    "W004": "reference/checks.html#row-realtime-w004",
    "notifications.W004": "reference/checks.html#row-notifications-w004",
    "4507": "reference/close-codes.html#row-4507",
    "close code 4507": "reference/close-codes.html#row-4507",
    "embedded": "reference/settings.html",
    "MAX_RECIPIENTS": "reference/settings.html#row-notifications-max-recipients",
    "run_bot_subscriber": "reference/commands.html#row-run-bot-subscriber",
    "run_task_worker": "reference/commands.html#row-run-task-worker",
    "length_limit": "reference/settings.html#row-length-limit",
    "ModuleNotFoundError": "how-to/add-to-your-project.html",
    "PyPI": "how-to/add-to-your-project.html",
    "quiet hours": "how-to/deliver-later-or-less.html",
    "nginx": "how-to/run-in-production.html",
}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the built site."""
    directory = tmp_path_factory.mktemp("documentation")
    python = new_venv(directory / "venv")
    pins = re.findall(r"^(?:Sphinx|myst-parser|furo)==.+$", (ROOT / "requirements-docs.txt").read_text(), re.MULTILINE)
    assert len(pins) == 3
    install(python, None, *pins)
    command = [python, "-m", "docs.site.build", "--output", directory / "site"]
    built = subprocess.run(command, cwd=ROOT, env=environment(), check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(directory / "site")) as server:
        thread = threading.Thread(target=server.serve_forever, name="documentation")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def _handler(directory: Path) -> functools.partial[QuietHandler]:
    return functools.partial(QuietHandler, directory=str(directory))


async def test_the_first_hit_of_the_search_is_the_right_page(site: str) -> None:
    """Typed into the search field of the front page, in a real browser."""
    found: dict[str, str] = {}
    async with chromium() as browser:
        page = await browser.new_page()
        for words in FIRST_HITS:
            await page.goto(site)
            await page.fill("input[name=q]", words)
            await page.press("input[name=q]", "Enter")
            await expect(page.locator(".search-summary")).to_contain_text(re.compile("found|did not match"))
            hits = await page.eval_on_selector_all(
                "ul.search li a", "links => links.map(({ pathname, hash }) => pathname.slice(1) + hash)"
            )
            found[words] = hits[0] if hits else "nothing"
    assert found == FIRST_HITS
