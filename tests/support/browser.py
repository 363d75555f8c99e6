"""
The Chromium of the acceptance tests: `python -m tests.support.browser` gets one if none is there.

Owns where it is found, how it is got, with which options the tests start it, and how long they wait for a page.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright, expect
from playwright.sync_api import sync_playwright

from tests.support.waiting import DEADLINE_SECONDS

__all__ = ["NoBrowser", "chromium", "chromium_path"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS_PROGRAM = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")

expect.set_options(timeout=DEADLINE_SECONDS * 1000)


class NoBrowser(RuntimeError):
    """There is no Chromium; the text says how to get one."""


@functools.cache
def chromium_path() -> str:
    """
    The Chromium or Chrome on this machine: one on the PATH, else the one that Playwright has installed.

    Raises:
        NoBrowser: There is none.
    """
    for name in NAMES:
        if found := shutil.which(name):
            return found
    if MACOS_PROGRAM.exists():
        return str(MACOS_PROGRAM)
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if not Path(own).exists():
        raise NoBrowser(
            "the acceptance tests need a Chromium and none is here: install one "
            "(Debian: apt-get install chromium; elsewhere: .venv/bin/python -m playwright install chromium)"
        )
    return own


def launch_options() -> dict[str, Any]:
    """What Playwright's `chromium.launch()` is given: this machine's browser, headless, and quiet on the network."""
    arguments = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        # Containers often have a /dev/shm of 64 MB.
        "--disable-dev-shm-usage",
    ]
    if os.getuid() == 0:
        # Chromium refuses to run its sandbox as root.
        arguments.append("--no-sandbox")
    return {"executable_path": chromium_path(), "args": arguments, "headless": True}


@asynccontextmanager
async def chromium(**options: Any) -> AsyncIterator[Browser]:
    """A running browser, with these options of Playwright's `launch` too."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options(), **options)
        yield browser
        await browser.close()


def get_chromium() -> None:
    """Install a Chromium, if none is there, by the way that this machine has."""
    try:
        chromium_path()
    except NoBrowser:
        # Not on Ubuntu: its package of that name is an empty one that points to a snap.
        if os.getuid() == 0 and _is_debian():
            ways = [
                ["apt-get", "-qq", "update"],
                ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
            ]
        else:
            ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
        sys.stdout.write(f"Getting a Chromium for the acceptance tests: {' '.join(ways[-1])}\n")
        sys.stdout.flush()
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for way in ways:
            subprocess.run(way, check=False, stdin=subprocess.DEVNULL, env=environment)
        chromium_path()


def _is_debian() -> bool:
    try:
        return platform.freedesktop_os_release()["ID"] == "debian"
    except OSError:
        return False


if __name__ == "__main__":
    try:
        get_chromium()
    except NoBrowser as error:
        sys.exit(str(error))
