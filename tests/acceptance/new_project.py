"""
A new project to which the apps were added as docs/how-to/add-to-your-project.md says, word for word.

Owns how the project is created, and how its processes are started by a Python that has only what the page installs.
"""

import contextlib
import http
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from playwright.async_api import Page

from tests.acceptance.site import free_port
from tests.support.howto import Block, blocks_of, commands_of
from tests.support.waiting import wait_until_sync
from tests.support.wheel import environment

__all__ = [
    "BOT",
    "COMMANDS",
    "DEVELOPMENT",
    "OPEN",
    "PAGE",
    "PASSWORD",
    "PRODUCTION",
    "ROOT",
    "SECONDS",
    "TOGETHER",
    "Process",
    "Project",
    "copy_of",
    "extras_of_the_page",
    "is_extra",
    "is_serving",
    "new_project",
    "sign_in",
    "tell_me",
]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = "how-to/add-to-your-project.md"
COMMANDS = commands_of(PAGE)
TOGETHER, DEVELOPMENT, PRODUCTION, BOT = (
    "in development",
    "runserver",
    "the web server",
    "the bot: one or more, beside the web server",
)
NEW = "only if you have no project yet"
PASSWORD = "a passphrase of four words"
# Enough for a machine with two busy cores.
SECONDS = 120.0
OPEN = "[data-signalbox-bell][data-signalbox-state=open]"


class Process:
    """One process and its output."""

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
        """End it by SIGTERM, and the rest of its group by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(SECONDS)
            finally:
                os.killpg(self._process.pid, signal.SIGKILL)


class Project:
    """
    A project in a directory of its own, with processes on it.

    Args:
        python: Runs its processes.

    Attributes:
        environment: What its processes get, from then on.
    """

    def __init__(self, directory: Path, python: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.python = python
        self.environment = dict(environment)

    def run(self, line: str, *more: str) -> str:
        """Run a command line of the page, which must succeed, and return its output."""
        done = subprocess.run(
            self._command(line, *more),
            cwd=self.directory,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def running(self, line: str, *more: str, may_log_tracebacks: bool = False) -> Iterator[Process]:
        """A process of a command line of the page; ended by SIGTERM."""
        process = Process(self.directory / f"{free_port()}.log", self._command(line, *more), self.environment)
        try:
            yield process
        finally:
            process.stop()
        assert may_log_tracebacks or "Traceback" not in process.log, process.log
        assert "database is locked" not in process.log, process.log

    def _command(self, line: str, *more: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return [str(self.python.with_name(program)), *arguments, *more]


def new_project(directory: Path, python: Path, *, leave_out: Callable[[Block], bool] = lambda block: False) -> Project:
    """
    A project that follows the page in an empty directory, up to its last one-time command; alice is a superuser.

    Args:
        python: Of an environment that has the package, installed as the page says: see `installed_python`.
        leave_out: Which blocks are left out, besides those for some projects only.
    """
    names = {"USERNAME": "alice", "EMAIL": "alice@example.com", "PASSWORD": PASSWORD}
    variables = {f"DJANGO_SUPERUSER_{name}": value for name, value in names.items()}
    project = Project(directory, python, environment(PYTHONUNBUFFERED="1", **variables))
    (start,) = COMMANDS[NEW]
    project.run(start)
    for block in blocks_of(PAGE):
        if not block.how.startswith("only if") and not leave_out(block):
            block.put_into(directory)
    for line in COMMANDS["once"]:
        if "createsuperuser" in line:
            project.run(line, "--noinput")
        elif line.endswith(" check"):
            assert "no issues (0 silenced)" in project.run(line, "--fail-level=WARNING")
        elif "pip install" not in line:
            project.run(line)
    return project


def is_extra(block: Block) -> bool:
    """The part of the page after "Try it out"."""
    return any(words in block.how for words in ("runserver", "with SQLite", "LOGGING"))


def copy_of(project: Project, directory: Path) -> Project:
    """The same project, none of whose processes runs, in another directory; its Redis is empty."""
    shutil.copytree(project.directory, directory, ignore=shutil.ignore_patterns("var"), dirs_exist_ok=True)
    return Project(directory, project.python, project.environment)


def extras_of_the_page() -> str:
    """Those that its installation names, as "webhook,chat"."""
    (line,) = [line for line in COMMANDS["once"] if "pip install" in line]
    match = re.fullmatch(r"/path/to/signalbox\[([\w,]+)\]", shlex.split(line)[-1])
    assert match is not None, line
    return match[1]


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


async def tell_me(page: Page) -> None:
    """Send the home page's form, which notifies its user, and wait until the bell of the new page is connected."""
    # The old page may already show the notification. What a test did there would be lost when the new page loads.
    async with page.expect_navigation():
        await page.click("button:text('Tell me')")
    await page.wait_for_selector(OPEN)
