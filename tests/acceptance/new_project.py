"""
A new project to which the apps were added as docs/how-to/add-to-your-project.md says, word for word.

Owns how it is made and how processes are started on it. Nothing can be imported that the pages do not install.
"""

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
from pathlib import Path

from playwright.async_api import Page

from tests.acceptance.site import free_port
from tests.support.howto import blocks_of, commands_of
from tests.support.waiting import wait_until_sync

__all__ = [
    "BOT",
    "COMMANDS",
    "DEVELOPMENT",
    "OPEN",
    "PRODUCTION",
    "ROOT",
    "SECONDS",
    "Process",
    "Project",
    "is_serving",
    "new_project",
    "sign_in",
]

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
OPEN = "[data-signalbox-bell][data-signalbox-state=open]"


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
    """
    A project in a directory of its own, with processes on it.

    Attributes:
        environment: What its processes get, from then on.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = dict(environment)

    def run(self, line: str, *more: str) -> str:
        """Run a command line of the page and return what it says; it must succeed."""
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
    def running(self, line: str, *more: str) -> Iterator[Process]:
        """A process of a command line of the page; ended by SIGTERM. It may write no traceback."""
        process = Process(self.directory / f"{free_port()}.log", self._command(line, *more), self.environment)
        try:
            yield process
        finally:
            process.stop()
        assert "Traceback" not in process.log, process.log
        assert "database is locked" not in process.log, process.log

    def _command(self, line: str, *more: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return [sys.executable, *([] if program == "python" else ["-m", program]), *arguments, *more]


def new_project(directory: Path, *, redis_url: str, installs: str = "") -> Project:
    """
    Made by the page, up to its last command that is given once; with a superuser named alice.

    Args:
        installs: The command line by which another page installs more.
    """
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", directory], check=True)
    for app in ("realtime", "notifications"):
        shutil.copytree(ROOT / app, directory / app)
    for block in blocks_of(PAGE):
        if not block.how.startswith("only if"):
            block.put_into(directory)
    settings = directory / "mysite/settings.py"
    assert settings.read_text().count("redis://localhost:6379/0") == 1
    settings.write_text(settings.read_text().replace("redis://localhost:6379/0", redis_url))
    (line,) = [line for line in COMMANDS["once"] if "pip install" in line]
    hide_everything_else(directory / "hidden", {*_packages(line), *_packages(installs)})
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
    return project


def hide_everything_else(directory: Path, installed: set[str]) -> None:
    """Make what is in requirements.txt, and not installed, impossible to import in this directory's processes."""
    required = set(re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert installed <= required
    hidden = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if {name.lower() for name in distributions} & {name.lower() for name in required - installed}
    ]
    assert {"apprise", "unfold"} <= set(hidden)
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({hidden!r}))\n")


def _packages(line: str) -> list[str]:
    return shlex.split(line)[4:]


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
