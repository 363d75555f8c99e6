"""
Where sinks write: a directory, or what fsspec has for a URL (S3, GCS, …).

Owns that a file appears once, complete and durable. Does not own names and content (content, rolling).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from realtime.extras import extra

__all__ = ["FsspecStorage", "LocalStorage", "Storage", "storage_of"]

# The temporary file of a process that died while it wrote.
_STALE_SECONDS = 3600.0


class Storage(Protocol):
    """A place for files. All methods may block, so they are called in threads."""

    def create(self, path: str, body: bytes) -> bool:
        """
        Write a file, unless there is one.

        Args:
            path: Relative, with "/".

        Returns:
            Whether this call has created it. In both cases there is a complete and durable file now.

        Raises:
            OSError: There is none. Calling again is safe. Backends of fsspec may have other errors.
        """

    def exist(self, paths: Sequence[str]) -> bool:
        """Whether there are all of these files; they are complete and durable then."""

    def tidy(self) -> None:
        """Remove what processes left that died while they wrote."""


class LocalStorage:
    """
    A directory. A file is written in its folder `.tmp`, synced, and then linked to its name, which fails if that
    exists. Then the folder of the file is synced.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._temporary = root, root / ".tmp"

    def create(self, path: str, body: bytes) -> bool:
        final = self._root / path
        _make_directory(final.parent)
        _make_directory(self._temporary)
        temporary = self._temporary / secrets.token_hex(8)
        try:
            with temporary.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, final)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
            _sync_directory(final.parent)
        return True

    def exist(self, paths: Sequence[str]) -> bool:
        files = [self._root / path for path in paths]
        if not all(file.exists() for file in files):
            return False
        # The worker that created them may have been killed before it had synced their folders.
        for folder in {file.parent for file in files}:
            _sync_directory(folder)
        return True

    def tidy(self) -> None:
        last = time.time() - _STALE_SECONDS
        if not self._temporary.is_dir():
            return
        for path in self._temporary.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < last:
                    path.unlink()


class FsspecStorage:
    """
    A file system of fsspec. Object stores make an object visible when it is complete.

    Where the backend supports it, a file is created only if there is none, in one step. Elsewhere, two workers that
    write the same file at the same time both write it; the content is the same.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        with extra("logs"):
            from fsspec.core import url_to_fs
        self._files, self._root = url_to_fs(url, **options)

    def create(self, path: str, body: bytes) -> bool:
        full = self._full(path)
        with contextlib.suppress(NotImplementedError):
            self._files.makedirs(full.rpartition("/")[0], exist_ok=True)
        try:
            self._files.pipe_file(full, body, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            if self._files.exists(full):
                return False
            self._files.pipe_file(full, body)
        return True

    def exist(self, paths: Sequence[str]) -> bool:
        self._files.invalidate_cache()
        return all(self._files.exists(self._full(path)) for path in paths)

    def tidy(self) -> None:
        """Object stores keep nothing incomplete."""

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def storage_of(url: str | Path, options: Mapping[str, Any] | None = None) -> Storage:
    """
    The storage of a directory or URL: "/var/lib/games", "file:///var/lib/games", "s3://bucket/games".

    Args:
        options: Passed on to fsspec; for secrets and endpoints, which do not belong in a URL.
    """
    text = str(url)
    parts = urlsplit(text)
    if isinstance(url, Path) or not parts.scheme:
        return LocalStorage(Path(text))
    if parts.scheme in ("file", "local"):
        return LocalStorage(Path(unquote(parts.path)))
    return FsspecStorage(text, options or {})


def _make_directory(directory: Path) -> None:
    """With its parents, all of them durable."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
