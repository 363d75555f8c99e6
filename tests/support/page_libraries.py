"""
Other people's scripts that pages are tested with: `python -m tests.support.page_libraries` gets what is missing.

Owns where each is found, and how they are got; libraries/package-lock.json has the versions and hashes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["NoLibraries", "get_libraries", "library"]

DIRECTORY = Path(__file__).resolve().parent.parent / "libraries"
MODULES = DIRECTORY / "node_modules"
PATHS = {
    "axe": "axe-core/axe.min.js",
    "htmx": "htmx.org/dist/htmx.min.js",
    "turbo": "@hotwired/turbo/dist/turbo.es2017-umd.js",
    "typescript": "typescript/lib/tsc.js",
}
# What is installed, as npm itself notes it.
NOTE = MODULES / ".package-lock.json"
COMMAND = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


class NoLibraries(RuntimeError):
    """They are not there; the text says how to get them."""


def library(name: str) -> Path:
    """
    The file of "axe", "htmx", "turbo" or "typescript".

    Raises:
        NoLibraries: It is not there, and cannot be got.
    """
    get_libraries()
    return MODULES / PATHS[name]


def get_libraries() -> None:
    """Install them, if they are not there in the versions that are wanted."""
    wanted = DIRECTORY / "package-lock.json"
    if NOTE.exists() and NOTE.stat().st_mtime >= wanted.stat().st_mtime:
        return
    apt_get = shutil.which("apt-get")
    if shutil.which("npm") is None and os.getuid() == 0 and apt_get:
        for way in (["update"], ["install", "-y", "--no-install-recommends", "npm"]):
            subprocess.run([apt_get, "-qq", *way], check=False, stdin=subprocess.DEVNULL)
    if shutil.which("npm") is None:
        raise NoLibraries(
            "the tests of pages need axe, htmx, Turbo and TypeScript from npm, and there is no npm: "
            "install Node.js with npm"
        )
    done = subprocess.run(COMMAND, cwd=DIRECTORY, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoLibraries(f"{' '.join(COMMAND)} in {DIRECTORY} failed: {done.stderr}")
    # Older than the lock file when that was just checked out.
    NOTE.touch()


if __name__ == "__main__":
    try:
        get_libraries()
    except NoLibraries as error:
        sys.exit(str(error))
