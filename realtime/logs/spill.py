"""
Spill files: records on the local disk that wait until Redis takes them.

Owns the directory, its limit, and the form of the files. Does not own when records are spilled or sent (sender).

Each file is one batch, with one JSON object a line. It is written under a temporary name, synced and renamed, so a file
is complete or absent. Its name begins with the time, and is also the guard of the batch. So several processes may send
the same file at the same time: its batch is appended once.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from realtime.logs.durable import make_directory, sync_directory

__all__ = ["Spill", "SpillFull"]

_SUFFIX = ".ndjson"
# Other files in the directory are not ours: they are neither sent nor removed.
_GUARD = re.compile(r"[0-9]{16,}-[0-9]+-[0-9a-f]{8}")
# The process that began to write a temporary file this old has died.
_STALE_SECONDS = 3600.0


class SpillFull(Exception):
    """The directory has no room for another batch."""


class Spill:
    """
    A directory of spill files.

    Args:
        directory: Created by the first `write`. Several processes may share it.
        limit_bytes: The most bytes of all files together. Processes that write at the same time may exceed it by a
            batch each.
    """

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self._directory, self._limit_bytes = directory, limit_bytes

    def write(self, guard: str, records: Sequence[bytes]) -> None:
        """
        Write a batch. When this returns, it is on the disk.

        Args:
            guard: The name of the batch, as the sender makes it. Batches are sent in the order of their names.
            records: JSON without line breaks.

        Raises:
            SpillFull, OSError: The batch was not written.
        """
        make_directory(self._directory)
        body = b"\n".join((*records, b""))
        if self._used_bytes() + len(body) > self._limit_bytes:
            raise SpillFull(f"{self._directory} has no room for {len(body)} bytes: its limit is {self._limit_bytes}")
        path = self._directory / f"{guard}{_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            sync_directory(self._directory)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def guards(self) -> list[str]:
        """
        The names of all batches, oldest first.

        Raises:
            OSError: The directory cannot be read, or its files cannot be removed.
        """
        guards = sorted(path.stem for path in self._files(_SUFFIX) if _GUARD.fullmatch(path.stem))
        if guards and not os.access(self._directory, os.W_OK | os.X_OK):
            raise PermissionError(f"files in {self._directory} cannot be removed")
        return guards

    def read(self, guard: str) -> list[bytes]:
        """The records of a batch; none if another process has removed it meanwhile. Raises OSError."""
        try:
            return (self._directory / f"{guard}{_SUFFIX}").read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def remove(self, guard: str) -> None:
        """Delete the file of a batch that is on the stream. Idempotent. Raises OSError."""
        (self._directory / f"{guard}{_SUFFIX}").unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete the temporary files of processes that died while they wrote."""
        last = time.time() - _STALE_SECONDS
        for path in self._files(".tmp"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < last:
                    path.unlink()

    def _used_bytes(self) -> int:
        used = 0
        for path in self._files(_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
        return used

    def _files(self, suffix: str) -> Iterable[Path]:
        try:
            return [path for path in self._directory.iterdir() if path.suffix == suffix]
        except FileNotFoundError:
            return []
