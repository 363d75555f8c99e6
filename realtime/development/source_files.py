"""
Which files of a project have changed, to reload its processes.

Owns what counts as source: Python, templates and compiled catalogs, of the project and of apps beside it; and whether
Python can be parsed. Does not own what happens then (site).
"""

import ast
import contextlib
import os
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from django.apps import apps
from django.conf import settings

__all__ = ["SourceFiles", "source_directories", "syntax_error"]

SUFFIXES = (".py", ".html", ".jinja", ".jinja2", ".mo")
# Elsewhere these are data.
TEMPLATE_SUFFIXES = (".txt", ".xml", ".md")
IGNORED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "site-packages"})
# Between two searches.
INTERVAL_SECONDS = 0.5


def source_directories() -> list[Path]:
    """BASE_DIR, or else the current directory, and each app outside of it that is not an installed package."""
    # Links are resolved, because the walk through a directory does not follow them.
    found = [Path(getattr(settings, "BASE_DIR", None) or Path.cwd()).resolve()]
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    for app in apps.get_app_configs():
        path = Path(app.path)
        if any(path.is_relative_to(other) for other in installed):
            continue
        if not any(path.resolve().is_relative_to(other) for other in found):
            found.append(path.resolve())
    return found


def syntax_error(path: Path) -> str | None:
    """Where a Python file is not valid, and why; None if it is valid, not Python, or cannot be read."""
    if path.suffix != ".py":
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(path.read_bytes(), path)
    except (SyntaxError, ValueError) as error:
        return f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
    except OSError:
        # It was removed.
        return None
    return None


class SourceFiles:
    """
    The source files in some directories.

    Args:
        directories: Searched with their subdirectories, except hidden directories, virtual environments, STATIC_ROOT,
            MEDIA_ROOT, VAR_DIR (a setting that a project may have), and directories whose .gitignore is `*`, such as
            that of the embedded server.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._ignored = {
            os.path.realpath(path)
            for name in ("STATIC_ROOT", "MEDIA_ROOT", "VAR_DIR")
            if (path := getattr(settings, name, None))
        }
        self._times = self._read()
        self._looked_at = time.monotonic()

    def find_changes(self) -> list[Path]:
        """The files that were written, created or removed since the last call. Searches twice a second at most."""
        if time.monotonic() - self._looked_at < INTERVAL_SECONDS:
            return []
        before, self._times = self._times, self._read()
        self._looked_at = time.monotonic()
        return [Path(path) for path in sorted({path for path, _ in before.items() ^ self._times.items()})]

    def forget_changes(self) -> None:
        """Let the next `find_changes` report only later changes."""
        self._times = self._read()

    def _read(self) -> dict[str, int]:
        """Path → when it was last written."""
        return {path: written for directory in self._directories for path, written in self._walk(str(directory))}

    def _walk(self, directory: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not self._is_ignored(entry):
                            yield from self._walk(entry.path)
                    elif _is_source(entry.path):
                        # A link to nowhere is no file. Emacs makes one beside each file that is being edited.
                        with contextlib.suppress(OSError):
                            yield entry.path, entry.stat().st_mtime_ns
        except OSError:
            # Removed meanwhile, or not readable.
            return

    def _is_ignored(self, entry: os.DirEntry[str]) -> bool:
        return (
            entry.name.startswith(".")
            or entry.name in IGNORED_DIRECTORIES
            or entry.path in self._ignored
            or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
            or _ignores_all(os.path.join(entry.path, ".gitignore"))
        )


def _ignores_all(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(10).strip() == "*"
    except (OSError, ValueError):
        return False


def _is_source(path: str) -> bool:
    return path.endswith(SUFFIXES) or (path.endswith(TEMPLATE_SUFFIXES) and f"{os.sep}templates{os.sep}" in path)
