"""
Remembers in Redis which entries each file has, from before the file is created until all of them are acked.

If a worker dies between the two, others get these entries again. They find here that the entries are in a file, and do
not write them twice.

Owns this hash. Does not own the files (rolling, storage).
"""

import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis.asyncio

__all__ = ["WrittenFiles"]

# Fields this old are removed. The entries of a dead worker are handled long before: its death is noticed after a lease.
KEPT_SECONDS = 7 * 86_400.0


class WrittenFiles:
    """
    The files of one consumer group.

    Args:
        redis: A client for short commands (`clients.async_publisher`).
        key: `Keys.written_files` of the group.
        consumer: The name of the worker that uses this object.

    A file is named by its field in the hash: the name of its worker, the time in seconds, and its path, with a space
    between them. The value has the ids of its entries, compressed. It never changes.
    """

    def __init__(self, redis: redis.asyncio.Redis, *, key: str, consumer: str) -> None:
        self._redis: Any = redis
        self._key, self._consumer = key, consumer
        # Files of this worker: file → the ids of its entries that are not acked, and id → file.
        self._own: dict[bytes, set[bytes]] = {}
        self._file_of: dict[bytes, bytes] = {}
        # Files of other workers: file → path and ids.
        self._others: dict[bytes, tuple[str, frozenset[bytes]]] = {}

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
        self._file_of.update(dict.fromkeys(ids, file))

    def acked(self, ids: Iterable[bytes]) -> list[bytes]:
        """
        Tell that entries are acked.

        Returns:
            The files whose entries are now all acked. Pass them to `forget`.
        """
        finished: list[bytes] = []
        for id in ids:
            file = self._file_of.pop(id, None)
            if file is not None:
                left = self._own[file]
                left.discard(id)
                if not left:
                    del self._own[file]
                    finished.append(file)
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
        for field in self._others.keys() - fields:
            del self._others[field]
        if unknown := [*(fields - self._others.keys())]:
            for field, packed in zip(unknown, await self._redis.hmget(self._key, unknown), strict=True):
                if packed is not None:
                    path = field.split(b" ", 2)[2].decode()
                    self._others[field] = path, frozenset(zlib.decompress(packed).split(b" "))
        await self._remove_old(fields)
        found: dict[str, set[bytes]] = {}
        for path, written in self._others.values():
            if common := written.intersection(ids):
                found.setdefault(path, set()).update(common)
        return found

    async def _remove_old(self, fields: Collection[bytes]) -> None:
        last = time.time() - KEPT_SECONDS
        if old := [field for field in fields if float(field.split(b" ", 2)[1]) < last]:
            await self._redis.hdel(self._key, *old)
