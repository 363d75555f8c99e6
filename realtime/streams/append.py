"""
Appending to Redis Streams, from sync and from async code.

Owns the packing of a batch and its errors. Does not own clients (clients, conf) nor the content of entries.
"""

from collections.abc import Iterable, Mapping

import redis
import redis.asyncio

from realtime.exceptions import StreamFull, StreamUnavailable
from realtime.redis import scripts
from realtime.redis.outage import REDIS_ERRORS

__all__ = ["ENTRY_FIELDS_LIMIT", "aappend_entries", "append_entries"]

# Lua passes at most 8000 values in one call; an entry of ours has at most three fields.
ENTRY_FIELDS_LIMIT = 1000
_APPEND = scripts.Script("append_entries", answer=int, takes_texts=True)


def append_entries(
    redis: redis.Redis,
    stream_key: str,
    guard_key: str,
    entries: Iterable[Mapping[str, bytes]],
    *,
    guard_seconds: float,
    length_limit: int = 0,
) -> bool:
    """
    Append entries to a stream, all or none, once.

    Args:
        redis: A client from `realtime.redis.clients.publisher`.
        stream_key: The stream; it is created if it does not exist.
        guard_key: Names this batch. On a Redis Cluster it must have the stream's hash tag (`Keys.stream_guard`).
        entries: Field → value for each entry, in their order; at most 1000 fields each.
        guard_seconds: How long a repeated call with this guard appends nothing; at least one.
        length_limit: Append nothing if the stream has this many entries already; 0 for no limit. Below it, all are
            appended, so one batch may exceed it. Entries count until a worker trims them, finished ones too.

    Returns:
        Whether they were appended now; False if an earlier call with this guard did it.

    Raises:
        StreamUnavailable: Redis did not accept them, or its reply was lost. Calling again is safe.
        StreamFull: The stream has reached its limit. Calling again is safe.
        ValueError: An entry has no field, or too many.

    Guarantees:
        Calls with the same guard append once while the guard lives, also concurrently and after a lost reply.
        No event loop and no new connection: one round trip on a pooled one.
    """
    arguments = _pack(entries, guard_seconds, length_limit)
    try:
        answer = _APPEND.run(redis, [stream_key, guard_key], arguments)
    except REDIS_ERRORS as error:
        raise _unavailable(stream_key, error) from error
    return _was_appended(answer, stream_key, length_limit)


async def aappend_entries(
    redis: redis.asyncio.Redis,
    stream_key: str,
    guard_key: str,
    entries: Iterable[Mapping[str, bytes]],
    *,
    guard_seconds: float,
    length_limit: int = 0,
) -> bool:
    """The async twin of `append_entries`; takes a client from `realtime.redis.clients.async_publisher`."""
    arguments = _pack(entries, guard_seconds, length_limit)
    try:
        answer = await _APPEND.arun(redis, [stream_key, guard_key], arguments)
    except REDIS_ERRORS as error:
        raise _unavailable(stream_key, error) from error
    return _was_appended(answer, stream_key, length_limit)


def _pack(entries: Iterable[Mapping[str, bytes]], guard_seconds: float, length_limit: int) -> list[bytes]:
    # All are bytes, also the numbers: the client packs bytes four times as fast as text, and numbers last.
    arguments = [b"%d" % max(1, round(guard_seconds)), b"%d" % length_limit]
    for entry in entries:
        if not 0 < len(entry) <= ENTRY_FIELDS_LIMIT:
            raise ValueError(f"an entry has {len(entry)} fields: give it 1 to {ENTRY_FIELDS_LIMIT}")
        arguments.append(b"%d" % (2 * len(entry)))
        for field, value in entry.items():
            arguments += (field.encode(), value)
    return arguments


def _was_appended(answer: int, stream_key: str, length_limit: int) -> bool:
    """Whether the script appended the entries; raises StreamFull if the limit forbade it."""
    if answer < 0:
        raise StreamFull(f"the stream {stream_key} has {length_limit} entries, which is its limit: is it being read?")
    return bool(answer)


def _unavailable(stream_key: str, error: Exception) -> StreamUnavailable:
    return StreamUnavailable(f"the stream {stream_key} took nothing ({type(error).__name__}: {error}): try again later")
