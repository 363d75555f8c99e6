"""
A new project to which the apps were added as docs/how-to/add-to-your-project.md says, word for word.

Whatever the page forgets, this finds: its code blocks are put where they say, its commands are run, and a browser sees
what it promises.
"""

import asyncio
import http
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import expect

from realtime import web
from realtime.embedded.server import ping
from realtime.protocol.messages import FRAME_LIMIT_BYTES, PING_SECONDS
from tests.acceptance.new_project import (
    BOT,
    COMMANDS,
    DEVELOPMENT,
    OPEN,
    PAGE,
    PRODUCTION,
    ROOT,
    SECONDS,
    TOGETHER,
    Process,
    Project,
    is_extra,
    is_serving,
    new_project,
    sign_in,
    tell_me,
)
from tests.acceptance.site import free_port
from tests.support.browser import chromium
from tests.support.howto import blocks_of, commands_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

LIVE_PAGE = "how-to/show-live-data.md"
MAP_PAGE = "how-to/show-a-live-map.md"
PRODUCTION_PAGE = "how-to/run-in-production.md"
BAD = http.HTTPStatus.BAD_REQUEST
# On each of the two servers.
SENDERS, PRESSES = 2, 10
COUNT = "[data-signalbox-bell] [data-signalbox-count]"
# Presses the button again and again; returns the statuses of failed requests.
PRESS = """
async ([senders, presses]) => {
  const failures = [];
  const form = document.querySelector("main form");
  const press = async () => {
    for (let number = 0; number < presses; number++) {
      const response = await fetch("/", { method: "POST", body: new FormData(form), redirect: "manual" });
      if (response.type !== "opaqueredirect") failures.push(response.status);
    }
  };
  await Promise.all(Array.from({ length: senders }, press));
  return failures;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """What runs; `urls` of DEVELOPMENT and PRODUCTION."""

    bot: Process
    development: Process
    urls: dict[str, str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, installed_python: Path) -> Project:
    """A project that follows the page up to its last one-time command; alice is a superuser."""
    return new_project(tmp_path_factory.mktemp("new"), installed_python)


@pytest.fixture(scope="module")
def processes(project: Project) -> Iterator[Processes]:
    """All processes that the page starts. They are ready: the bot has logged so, and pages are served."""
    urls = {name: f"http://127.0.0.1:{free_port()}/" for name in (DEVELOPMENT, PRODUCTION)}
    port = {name: url.rpartition(":")[2].strip("/") for name, url in urls.items()}
    ((bot_line,), (development_line,), (production_line,)) = (COMMANDS[name] for name in (BOT, *urls))
    with (
        project.running(bot_line) as bot,
        project.running(development_line, port[DEVELOPMENT]) as development,
        project.running(production_line, "--port", port[PRODUCTION]) as production,
    ):
        bot.wait_until(lambda: "relay and bot are running" in bot.log)
        development.wait_until(lambda: is_serving(urls[DEVELOPMENT]))
        production.wait_until(lambda: is_serving(urls[PRODUCTION]))
        yield Processes(bot=bot, development=development, urls=urls)


async def test_the_bell_rings_after_six_lines_of_settings_and_one_command(
    tmp_path: Path, installed_python: Path
) -> None:
    """From an empty directory: the wheel, the page word for word up to the command, and a browser that signs in."""
    project = new_project(tmp_path, installed_python, leave_out=is_extra)
    first = next(block for block in blocks_of(PAGE) if block.path == "mysite/settings.py")
    assert len(first.text.strip().splitlines()[1:]) == 6
    assert not project.run("python -c 'import realtime; print(realtime.__file__)'").startswith(f"{ROOT}/")
    (line,) = COMMANDS[TOGETHER]
    port = free_port()
    with project.running(line, "--port", str(port)) as site:
        site.wait_until(lambda: f"the site is at http://127.0.0.1:{port}/" in site.log)
        async with chromium() as browser:
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{port}/")
            await sign_in(page)
            await tell_me(page)
            await expect(page.locator(COUNT)).to_have_text("1")
        await wait_until(lambda: "user 1: Your invoice is ready" in site.log, seconds=SECONDS)
        # Another process joins the server that runs, by the same setting.
        assert "1 notification, published" in project.run("python manage.py notify alice 'From a second terminal'")
        await wait_until(lambda: "user 1: From a second terminal" in site.log, seconds=SECONDS)
    assert "run_signalbox: stopped" in site.log
    assert not ping(tmp_path / "var/valkey.sock")


async def test_the_page_on_live_data_shows_each_new_price_in_all_windows(tried_out: Project) -> None:
    """Its files are added to the new project; one browser changes the price, then a shell does."""
    for block in blocks_of(LIVE_PAGE):
        block.put_into(tried_out.directory)
    (line,) = COMMANDS[TOGETHER]
    port = free_port()
    with tried_out.running(line, "--port", str(port)) as site:
        site.wait_until(lambda: f"the site is at http://127.0.0.1:{port}/" in site.log)
        async with chromium() as browser:
            context = await browser.new_context()
            first, second = await context.new_page(), await context.new_page()
            await first.goto(f"http://127.0.0.1:{port}/")
            await sign_in(first)
            for page in (first, second):
                await page.goto(f"http://127.0.0.1:{port}/price/")
                await expect(page.locator("#price")).to_have_text("1.00")
            await first.fill("input[name=price]", "1.75")
            await first.click("button:text('Change')")
            for page in (first, second):
                await expect(page.locator("#price")).to_have_text("1.75")
            (publish,) = commands_of(LIVE_PAGE)["publish from a shell"]
            assert "received by 1 server process" in tried_out.run(publish)
            for page in (first, second):
                await expect(page.locator("#price")).to_have_text("2.50")


async def test_the_page_on_a_live_map_shows_what_moves_on_it(tried_out: Project) -> None:
    """Its files are added to the new project, and its command drives; the map is zoomed, filtered and moved."""
    for block in blocks_of(MAP_PAGE):
        block.put_into(tried_out.directory)
    (line,), (drive,) = COMMANDS[TOGETHER], commands_of(MAP_PAGE)["the vehicles"]
    port = free_port()
    complaints: list[str] = []
    with tried_out.running(line, "--port", str(port)) as site:
        site.wait_until(lambda: f"the site is at http://127.0.0.1:{port}/" in site.log)
        async with chromium() as browser:
            page = await browser.new_page()
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            await page.goto(f"http://127.0.0.1:{port}/")
            await sign_in(page)
            complaints.clear()
            with tried_out.running(drive):
                await page.goto(f"http://127.0.0.1:{port}/map/")
                dots, count = page.locator("#map path"), page.locator("#count")

                async def shows(number: int) -> None:
                    await expect(dots).to_have_count(number, timeout=SECONDS * 1000)
                    await expect(count).to_have_text(str(number))

                await shows(60)
                place = await dots.first.get_attribute("d")
                await expect(dots.first).not_to_have_attribute("d", str(place), timeout=SECONDS * 1000)
                await page.click("text=Zoom out")
                await shows(20)
                await page.click("text=Zoom in")
                await shows(60)
                await page.check("#trains")
                await shows(20)
                await page.uncheck("#trains")
                await shows(60)
                # The map shows Bern alone, then nothing, and then Bern again.
                for _ in range(2):
                    await page.click("text=Zoom in")
                await shows(30)
                for _ in range(8):
                    await page.click("text=North")
                await shows(0)
                for _ in range(8):
                    await page.click("text=South")
                await shows(30)
            # Its vehicles fall silent.
            await shows(0)
    assert complaints == []


async def test_a_new_project_has_a_bell_that_rings_and_an_inbox_that_is_live(processes: Processes) -> None:
    """Both servers call notify() many times at once while the bot works. None fails, and each one rings the bell."""
    complaints: list[str] = []
    async with chromium() as browser:
        context = await browser.new_context()
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("response", lambda response: complaints.append(response.url) if response.status >= BAD else None)
        development, production, inbox = [await context.new_page() for _ in range(3)]
        await development.goto(processes.urls[DEVELOPMENT])
        await sign_in(development)
        # A cookie is valid for all ports of a host.
        for page, url in ((production, ""), (inbox, "notifications/")):
            await page.goto(processes.urls[PRODUCTION] + url)
            await page.wait_for_selector(OPEN)

        await tell_me(development)
        for page in (development, production, inbox):
            await expect(page.locator(COUNT)).to_have_text("1")
        newest = inbox.locator("[data-signalbox-list=inbox] [data-signalbox-message]").first
        await expect(newest).to_have_text("Your invoice is ready")

        pressed = [page.evaluate(PRESS, [SENDERS, PRESSES]) for page in (development, production)]
        assert await asyncio.gather(*pressed) == [[], []]
        total = 1 + len(pressed) * SENDERS * PRESSES
        for page in (development, production, inbox):
            await expect(page.locator(COUNT)).to_have_text(str(total), timeout=SECONDS * 1000)
    said = "user 1: Your invoice is ready"
    await wait_until(lambda: processes.bot.log.count(said) == total, seconds=SECONDS)
    assert [path for path in complaints if not path.endswith("/favicon.ico")] == []
    assert "System check identified no issues (0 silenced)." in processes.development.log


def test_the_settings_for_production_pass_the_check_of_a_deployment(project: Project) -> None:
    """There is no warning, and the web server finds the bell's static files."""
    for block in blocks_of(PRODUCTION_PAGE):
        block.put_into(project.directory)
    environment = {
        **project.environment,
        "DJANGO_SETTINGS_MODULE": "mysite.production",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "REDIS_URL": "redis://redis.example:6379/0",
    }
    deployed = Project(project.directory, project.python, environment)
    check, collect = commands_of(PRODUCTION_PAGE)["in a project of your own"]
    assert "no issues (0 silenced)" in deployed.run(check, "--fail-level=WARNING")
    deployed.run(collect)
    assert (project.directory / "collected/notifications/bell.js").is_file()


def test_the_servers_limits_are_those_that_the_project_itself_runs_with() -> None:
    """The command on the page has all of the limits, and its table explains them."""
    (line,) = commands_of(PRODUCTION_PAGE)["uvicorn"]
    words = shlex.split(line)[2:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options == {
        "--http": "realtime.server:HttpProtocol",
        "--ws": "realtime.server:FrameProtocol",
        "--ws-max-size": str(FRAME_LIMIT_BYTES),
        "--ws-ping-interval": str(PING_SECONDS),
        "--ws-ping-timeout": f"{web.PONG_TIMEOUT_SECONDS:g}",
        "--ws-per-message-deflate": "false",
        "--timeout-graceful-shutdown": str(web.DRAIN_SECONDS),
        "--backlog": "4096",
    }
    production = (ROOT / "docs" / PRODUCTION_PAGE).read_text()
    for name, value in options.items():
        assert f"`{name} {value}`" in production
