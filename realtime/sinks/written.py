"""
Remembers in Redis which entries each file has, from before the file is created until all of them are acked.

If a worker dies between the two, others get these entries again. They find here that the entries are in a file, and do
not write them twice.

Owns this hash. Does not own the files (rolling, storage).
"""

import logging
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis.asyncio

from realtime.untrusted.text import printable

__all__ = ["WrittenFiles"]

logger = logging.getLogger(__name__)

# Fields this old are removed. The entries of a dead worker are handled long before: its death is noticed after a lease.
KEPT_SECONDS = 7 * 86_400.0


# When a file was begun, its path, and the ids of its entries.
type _File = tuple[float, str, frozenset[bytes]]


class WrittenFiles:
    """
    The files of one consumer group.

    Args:
        redis: A client for short commands (`clients.async_publisher`).
        key: `Keys.written_files` of the group.
        consumer: The name of the worker that uses this object.

    A file is a field of the hash: the name of its worker, the time in seconds, and its path, with a space between them.
    The value has the ids of its entries, compressed. It never changes.
    """

    def __init__(self, redis: redis.asyncio.Redis, *, key: str, consumer: str) -> None:
        self._redis: Any = redis
        self._key, self._consumer = key, consumer
        # The files of this worker, by field → their entries that are not acked.
        self._own: dict[bytes, set[bytes]] = {}
        # What the fields of other workers say; None for a field that is not a file.
        self._others: dict[bytes, _File | None] = {}

    def new(self, path: str) -> bytes:
        """The field of a file that will be created now. Pass it to `begin`."""
        return f"{self._consumer} {time.time():.0f} {path}".encode()

    async def begin(self, file: bytes, ids: Sequence[bytes]) -> None:
        """
        Remember the entries of a file. Await this before the file is created.

        Raises:
            redis.RedisError, OSError: Redis did not confirm it. Calling again is safe.
        """
        await self._redis.hset(self._key, file, zlib.compress(b" ".join(ids), 1))
        self._own[file] = set(ids)

    def acked(self, ids: Iterable[bytes]) -> list[bytes]:
        """
        Note that entries are acked.

        Returns:
            The files whose entries are now all acked. Pass them to `forget`.
        """
        ids = tuple(ids)
        # An entry that was lost and came again may be in two files.
        for left in self._own.values():
            left.difference_update(ids)
        finished = [file for file, left in self._own.items() if not left]
        for file in finished:
            del self._own[file]
        return finished

    async def forget(self, files: Sequence[bytes]) -> None:
        """
        Remove files from the hash.

        Raises:
            redis.RedisError, OSError: Redis did not confirm it. Calling again is safe.
        """
        await self._redis.hdel(self._key, *files)

    async def find(self, ids: Collection[bytes]) -> Mapping[str, set[bytes]]:
        """
        Find entries in the files of other workers. Files older than KEPT_SECONDS are removed from the hash.

        Args:
            ids: The entries to find.

        Returns:
            Path → those of the ids that are in this file. The file may not exist: its worker may have died before it
            was created.

        Raises:
            redis.RedisError, OSError: Redis did not answer.
        """
        fields = {field for field in await self._redis.hkeys(self._key) if field not in self._own}
        # Not changed in place: other calls run at the same time, and may have an older list.
        others = {field: self._others[field] for field in fields if field in self._others}
        if unknown := [*(fields - others.keys())]:
            for field, packed in zip(unknown, await self._redis.hmget(self._key, unknown), strict=True):
                if packed is not None:
                    others[field] = _read(field, packed)
        self._others = others
        files = {field: file for field, file in others.items() if file is not None}
        found: dict[str, set[bytes]] = {}
        for _, path, written in files.values():
            if among := written.intersection(ids):
                found.setdefault(path, set()).update(among)
        last = time.time() - KEPT_SECONDS
        if old := [field for field, (began_at, _, _) in files.items() if began_at < last]:
            await self._redis.hdel(self._key, *old)
        return found


def _read(field: bytes, packed: bytes) -> _File | None:
    try:
        _, began_at, path = field.split(b" ", 2)
        return float(began_at), path.decode(), frozenset(zlib.decompress(packed).split(b" "))
    except (ValueError, zlib.error):
        text = printable(repr(field), limit=200)
        logger.warning("%s in Redis is no file of a sink (did another program write it?): it is ignored", text)
        return None
