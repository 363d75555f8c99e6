"""
Where sinks write: a directory, or a file system of fsspec (S3, GCS, …).

Owns that a file appears once, complete and durable. Does not own its path and content (content, rolling).
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from django.core.exceptions import ImproperlyConfigured

from realtime.extras import extra
from realtime.logs.durable import make_directory, sync_directory

__all__ = ["FsspecStorage", "LocalStorage", "Storage", "shown_place", "storage_of"]

# The process that began to write a temporary file this old has died.
_STALE_SECONDS = 3600.0
# Errors that stay until somebody changes something. Others, such as a full disk, may end by themselves.
_LASTING = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EOPNOTSUPP)
)


class Storage(Protocol):
    """A place for files. All methods may block and may be called by several threads at a time."""

    def create(self, path: str, body: bytes) -> bool:
        """
        Write a file, unless it exists.

        Args:
            path: Relative to the storage, with "/".
            body: The content.

        Returns:
            True if this call has created the file, False if it existed. In both cases it is complete and durable.

        Raises:
            OSError: The file may not exist. Calling again is safe. Backends of fsspec may raise other errors.
        """

    def exist(self, paths: Sequence[str]) -> bool:
        """Whether all of these files exist. A file that exists is complete, and durable when this returns True."""

    def check(self) -> None:
        """
        Check that files can be written.

        Raises:
            ImproperlyConfigured: They cannot, and trying again will not help.
        """

    def tidy(self) -> None:
        """Delete the temporary files of processes that died while they wrote."""


class LocalStorage:
    """
    A directory.

    A file is written in the folder `.tmp` and synced. Then it is linked to its path, which fails if that exists, and
    the folder of the path is synced.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._temporary = root, root / ".tmp"

    def create(self, path: str, body: bytes) -> bool:
        final = self._root / path
        make_directory(final.parent)
        make_directory(self._temporary)
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
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise OSError(errno.EXDEV, _other_disk(final.parent, self._root)) from error
                raise
        finally:
            temporary.unlink(missing_ok=True)
            sync_directory(final.parent)
        return True

    def exist(self, paths: Sequence[str]) -> bool:
        files = [self._root / path for path in paths]
        if not all(file.exists() for file in files):
            return False
        # The worker that created them may have been killed before it had synced their folders.
        for folder in {file.parent for file in files}:
            sync_directory(folder)
        return True

    def check(self) -> None:
        temporary = self._temporary / secrets.token_hex(8)
        linked = temporary.with_suffix(".link")
        try:
            make_directory(self._temporary)
            try:
                temporary.touch(exist_ok=False)
                os.link(temporary, linked)
            finally:
                for path in (temporary, linked):
                    path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in _LASTING:
                raise ImproperlyConfigured(f"no file can be written in {self._root}: {error}") from error
            # Another error may end by itself: the first file waits for that, and it is logged.
            return
        disk = self._temporary.stat().st_dev
        for folder in self._root.iterdir():
            if folder.is_dir() and folder.stat().st_dev != disk:
                raise ImproperlyConfigured(_other_disk(folder, self._root))

    def tidy(self) -> None:
        last = time.time() - _STALE_SECONDS
        if not self._temporary.is_dir():
            return
        for path in self._temporary.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < last:
                    path.unlink()


def _other_disk(folder: Path, root: Path) -> str:
    return f"{folder} is on another disk than {root}/.tmp: a file is linked from there, so all must be on one disk"


class FsspecStorage:
    """
    A file system of fsspec. In an object store, an object is visible when it is complete. Other backends, such as sftp,
    write under the final name, so a file may be incomplete if the worker is killed.

    If the backend supports it, one request creates a file unless it exists. With another backend, two workers may both
    write a file at the same time, so the content of a path must not depend on the worker.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        with extra("logs"):
            from fsspec.core import url_to_fs
        try:
            self._files, self._root = url_to_fs(url, **options)
        except Exception as error:
            # An unknown protocol, a missing library and a wrong option each raise a different error.
            raise ImproperlyConfigured(f"{shown_place(url)} cannot be used: {error}") from error

    def create(self, path: str, body: bytes) -> bool:
        full = self._full(path)
        with contextlib.suppress(NotImplementedError):
            self._files.makedirs(full.rpartition("/")[0], exist_ok=True)
        try:
            self._files.pipe_file(full, body, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            # The backend does not support `mode="create"`.
            if self._files.exists(full):
                return False
            self._files.pipe_file(full, body)
        return True

    def exist(self, paths: Sequence[str]) -> bool:
        self._files.invalidate_cache()
        return all(self._files.exists(self._full(path)) for path in paths)

    def check(self) -> None:
        """Does nothing: errors that last cannot be told from outages."""

    def tidy(self) -> None:
        """Nothing to do: object stores keep nothing incomplete."""

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def storage_of(url: str | Path, options: Mapping[str, Any] | None = None) -> Storage:
    """
    The storage of a directory or URL: "/var/lib/games", "file:///var/lib/games", "s3://bucket/games".

    Args:
        url: A string without a scheme is a path.
        options: For fsspec: endpoints, and secrets, which do not belong in a URL.

    Raises:
        ImproperlyConfigured: The URL means nothing, or a library is not installed.
    """
    if not url:
        raise ImproperlyConfigured("it has no url: give it a directory or a URL")
    text = str(url)
    parts = urlsplit(text)
    if isinstance(url, Path) or not parts.scheme:
        return LocalStorage(Path(text))
    if parts.scheme in ("file", "local"):
        if parts.netloc not in ("", "localhost"):
            # The part after two slashes is the name of a machine.
            raise ImproperlyConfigured(f"{text} has two slashes: write {parts.scheme}:///{parts.netloc}{parts.path}")
        return LocalStorage(Path(unquote(parts.path)))
    return FsspecStorage(text, options or {})


def shown_place(url: str | Path) -> str:
    """The URL without a user, a password, a query and a fragment; a path unchanged."""
    parts = urlsplit(str(url))
    if isinstance(url, Path) or not parts.scheme:
        return str(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
