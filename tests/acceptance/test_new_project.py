"""
A new project to which the apps were added as docs/how-to/add-to-your-project.md says, word for word.

Whatever the page forgets, this finds: its code blocks are put where they say, its commands are run, and a browser sees
what it promises. Nothing can be imported that the page does not install.
"""

import asyncio
import contextlib
import http
import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from project import web
from realtime.protocol import FRAME_LIMIT_BYTES, PING_SECONDS
from tests.acceptance.site import free_port
from tests.browser import chromium
from tests.howto import blocks_of, commands_of
from tests.redis_server import RedisServer
from tests.waiting import wait_until, wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = "how-to/add-to-your-project.md"
COMMANDS = commands_of(PAGE)
DEVELOPMENT, PRODUCTION, BOT = (
    "the web server in development",
    "the web server in production",
    "the bot: one or more, beside the web server",
)
PASSWORD = "a passphrase of four words"
# A machine with two cores, and a test run on both of them.
SECONDS = 60.0
BAD = http.HTTPStatus.BAD_REQUEST
# On each of the two servers.
SENDERS, PRESSES = 2, 10
COUNT = "[data-signalbox-bell] [data-signalbox-count]"
OPEN = "[data-signalbox-bell][data-signalbox-state=open]"
# As a person who presses the button again and again; answers with the statuses of what failed.
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


class Process:
    """One process, with what it writes."""

    def __init__(self, log: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # runserver is two processes.
                process_group=0,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is ready; fail with its log if it ends before."""

        def fact() -> bool:
            assert self._process.poll() is None, self.log
            return is_ready()

        wait_until_sync(fact, seconds=SECONDS)

    def stop(self) -> None:
        """End it by SIGTERM, and what is left of its group by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(SECONDS)
            finally:
                os.killpg(self._process.pid, signal.SIGKILL)


class Project:
    """A project in a directory of its own, with processes on it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self._environment = environment

    def run(self, line: str, *more: str) -> str:
        """Run a command line of the page and return what it says; it must succeed."""
        done = subprocess.run(
            self._command(line, *more),
            cwd=self.directory,
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def running(self, line: str, *more: str) -> Iterator[Process]:
        """A process of a command line of the page; ended by SIGTERM. It may write no traceback."""
        process = Process(self.directory / f"{free_port()}.log", self._command(line, *more), self._environment)
        try:
            yield process
        finally:
            process.stop()
        assert "Traceback" not in process.log, process.log
        assert "database is locked" not in process.log, process.log

    def _command(self, line: str, *more: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return [sys.executable, *([] if program == "python" else ["-m", program]), *arguments, *more]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """What runs; `urls` of DEVELOPMENT and PRODUCTION."""

    bot: Process
    development: Process
    urls: dict[str, str]


def installed() -> set[str]:
    """What the page installs."""
    (line,) = [line for line in COMMANDS["once"] if "pip install" in line]
    return set(shlex.split(line)[4:])


def hide_everything_else(directory: Path) -> None:
    """Make what is in requirements.txt, and not on the page, impossible to import in this directory's processes."""
    required = set(re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert installed() <= required
    hidden = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if {name.lower() for name in distributions} & {name.lower() for name in required - installed()}
    ]
    assert {"apprise", "unfold"} <= set(hidden)
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({hidden!r}))\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Made by the page, up to its last command that is given once; with a superuser named alice."""
    directory = tmp_path_factory.mktemp("new")
    with RedisServer() as server:
        subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", directory], check=True)
        for app in ("realtime", "notifications"):
            shutil.copytree(ROOT / app, directory / app)
        for block in blocks_of(PAGE):
            if not block.how.startswith("only if"):
                block.put_into(directory)
        settings = directory / "mysite/settings.py"
        assert settings.read_text().count("redis://localhost:6379/0") == 1
        settings.write_text(settings.read_text().replace("redis://localhost:6379/0", server.url))
        hide_everything_else(directory / "hidden")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("REDIS_URL", "DATABASE_URL", "DJANGO_SETTINGS_MODULE")
        }
        project = Project(
            directory,
            {
                **inherited,
                "PYTHONPATH": str(directory / "hidden"),
                "PYTHONUNBUFFERED": "1",
                "DJANGO_SUPERUSER_USERNAME": "alice",
                "DJANGO_SUPERUSER_EMAIL": "alice@example.com",
                "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            },
        )
        for line in COMMANDS["once"]:
            if "createsuperuser" in line:
                project.run(line, "--noinput")
            elif line.endswith(" check"):
                assert "no issues (0 silenced)" in project.run(line, "--fail-level=WARNING")
            elif "pip install" not in line:
                project.run(line)
        yield project


@pytest.fixture(scope="module")
def processes(project: Project) -> Iterator[Processes]:
    """All that the page starts, ready: the bot has said so, as the page lets it, and pages are served."""
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


def is_serving(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:  # noqa: S310 - our own server
            return bool(response.status == http.HTTPStatus.OK)
    except urllib.error.URLError:
        return False


async def sign_in(page: Page) -> None:
    """Where a visitor has been sent; the bell is connected when this returns."""
    await page.fill("[name=username]", "alice")
    await page.fill("[name=password]", PASSWORD)
    await page.press("[name=password]", "Enter")
    await page.wait_for_selector(OPEN)


async def test_a_new_project_has_a_bell_that_rings_and_an_inbox_that_is_live(processes: Processes) -> None:
    """Many notify() at once from the view of both servers, beside a working bot: none fails, and every one rings."""
    complaints: list[str] = []
    async with chromium() as browser:
        context = await browser.new_context()
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("response", lambda response: complaints.append(response.url) if response.status >= BAD else None)
        development, production, inbox = [await context.new_page() for _ in range(3)]
        await development.goto(processes.urls[DEVELOPMENT])
        await sign_in(development)
        # A cookie is good for all ports of a host.
        for page, url in ((production, ""), (inbox, "notifications/")):
            await page.goto(processes.urls[PRODUCTION] + url)
            await page.wait_for_selector(OPEN)

        await development.click("button:text('Tell me')")
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


def test_the_servers_limits_are_those_that_the_project_itself_runs_with() -> None:
    """The page's command has them in words; both pages have the same."""
    (line,) = COMMANDS[PRODUCTION]
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
    production = (ROOT / "docs/how-to/run-in-production.md").read_text()
    for name, value in options.items():
        assert f"`{name} {value}`" in production
