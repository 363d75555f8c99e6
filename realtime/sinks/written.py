"""
Which entries are in which file, from before a file is created until Redis has confirmed the acks of its entries.

Owns this hash in Redis. With it, entries that come again after a crash are not written twice: between the creation of a
file and the acks of its entries, only this says that they are in it. Does not own the files (rolling, storage).
"""

import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis.asyncio

__all__ = ["WrittenFiles"]

# After so long, no entry of the file comes again: a worker that died is noticed within its lease.
KEPT_SECONDS = 7 * 86_400.0


class WrittenFiles:
    """
    The files of one consumer group.

    Args:
        redis: A client for short commands.
        key: `Keys.written_files`.
        consumer: The worker that uses this object.
    """

    def __init__(self, redis: redis.asyncio.Redis, *, key: str, consumer: str) -> None:
        self._redis: Any = redis
        self._key, self._consumer = key, consumer
        # File → the ids of its entries that are not acked, and the reverse; files of this worker. A file is a field of
        # the hash: the name of the worker, the time, and the path.
        self._own: dict[bytes, set[bytes]] = {}
        self._file_of: dict[bytes, bytes] = {}
        # Field → path and ids; files of other workers. What a field says never changes.
        self._others: dict[bytes, tuple[str, frozenset[bytes]]] = {}

    def new(self, path: str) -> bytes:
        """A file that does not exist yet, for `begin`."""
        return f"{self._consumer} {time.time():.0f} {path}".encode()

    async def begin(self, file: bytes, ids: Sequence[bytes]) -> None:
        """Before it is created. May be called again. Raises redis.RedisError, OSError."""
        await self._redis.hset(self._key, file, zlib.compress(b" ".join(ids), 1))
        self._own[file] = set(ids)
        self._file_of.update(dict.fromkeys(ids, file))

    def acked(self, ids: Iterable[bytes]) -> list[bytes]:
        """These entries are acked. Returns the files of which all are, for `forget`."""
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
        """All entries of these files are acked. Raises redis.RedisError, OSError."""
        await self._redis.hdel(self._key, *files)

    async def find(self, ids: Collection[bytes]) -> Mapping[str, set[bytes]]:
        """
        The files that other workers have begun to write, with those of these entries that are in them.

        Whether such a file exists is not known. Raises redis.RedisError, OSError.
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
            if among := written.intersection(ids):
                found.setdefault(path, set()).update(among)
        return found

    async def _remove_old(self, fields: Collection[bytes]) -> None:
        last = time.time() - KEPT_SECONDS
        if old := [field for field in fields if float(field.split(b" ", 2)[1]) < last]:
            await self._redis.hdel(self._key, *old)
