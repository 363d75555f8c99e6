"""
Which topics a family has, and in which part of the world each of them publishes.

Owns how publishing processes register this, and the form in which Redis keeps it. Does not own finding the topics of an
area (live.families) nor the publications (publish).

Each process registers the extent of its publications on a topic, in tiles of one zoom, and announces it on a Redis
channel of the family. It writes again only when the extent grows, once in a period, and when Redis has lost the topic.
An extent that is not registered again is ignored after a while. Keys that stay until they are removed may outlive their
publisher, so in such families each process also registers the extents of earlier processes.
"""

import itertools
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio

from realtime.broker.publication import Crypter
from realtime.broker.publish import Published, PublishRequest
from realtime.broker.relevance import WORLD
from realtime.redis import scripts
from realtime.redis.keys import Keys

__all__ = ["ANNOUNCEMENT", "EVERYWHERE", "EXTENT_BITS", "Extent", "Extents", "decode_extent", "remove_extents"]

logger = logging.getLogger(__name__)

# Extents are in tiles of zoom 8: a few steps of a vehicle rarely change them.
_ZOOM: Final = 8
# By how many bits a coordinate is shifted to get its tile.
EXTENT_BITS: Final = WORLD.bit_length() - 1 - _ZOOM
_LAST: Final = (1 << _ZOOM) - 1
# How often an extent is registered again, at least.
PERIOD_SECONDS: Final = 600.0
# After a failure, publications are not delayed by another attempt for this long.
RETRY_SECONDS = 5.0
# Registrations that were read for one topic are used for other topics for this long. A registration lasts for several
# periods, so the next period finds what was added meanwhile.
_READ_SECONDS: Final = 5.0
# The beginning of the channel of a family, before its name.
ANNOUNCEMENT: Final = "__extents."
# In one call of the script, which blocks Redis.
_REMOVED_AT_A_TIME: Final = 200

_REMOVE: Final = scripts.Script("remove_fields", answer=int)


class Extent(NamedTuple):
    """
    Where one process publishes on one topic.

    Attributes:
        x0, y0, x1, y1: The tiles; all are inside.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    def has(self, other: "Extent") -> bool:
        """Whether all of the other is in this one."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and self.x1 >= other.x1 and self.y1 >= other.y1

    def joined(self, other: "Extent") -> "Extent":
        """The smallest extent that has both."""
        return Extent(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))


EVERYWHERE: Final = Extent(0, 0, _LAST, _LAST)


def extent_of(place: Sequence[int] | None) -> Extent:
    """The tiles that a place touches. A publication without a place is everywhere."""
    if place is None:
        return EVERYWHERE
    bits = EXTENT_BITS
    if len(place) == 2:
        x, y = place[0] >> bits, place[1] >> bits
        return Extent(x, y, x, y)
    x0, y0, x1, y1 = (each >> bits for each in place)
    return Extent(x0, y0, x1, y1) if place[0] <= place[2] else Extent(0, y0, _LAST, y1)


def decode_extent(field: bytes, value: bytes, crypter: Crypter | None = None) -> tuple[str, str, Extent, float]:
    """
    One registration, as it is in the hash: topic, process, extent, and until when it counts, by `time.time`.

    Raises:
        Exception: It has another form, or was encrypted with another key.
    """
    topic, process = field.decode().split(" ")
    *numbers, until_ms = map(int, (value if crypter is None else crypter.decrypt(value)).split())
    return topic, process, Extent(*numbers), until_ms / 1000


async def remove_extents(client: redis.asyncio.Redis, key: str, fields: Mapping[bytes, bytes]) -> None:
    """Remove these registrations from the hash `key`, except those that have another value meanwhile."""
    for part in itertools.batched(fields.items(), _REMOVED_AT_A_TIME):
        await _REMOVE.arun(client, [key], itertools.chain.from_iterable(part))


class _Known:
    """What this process has registered of one topic."""

    __slots__ = ("before", "epoch", "extent", "is_registered", "must_read", "now", "read_at", "renew_at")

    def __init__(self, extent: Extent, renew_at: float) -> None:
        # The extents of this period and of the one before. Keys published longer ago have fallen silent.
        self.now, self.before = extent, extent
        # Both together.
        self.extent = extent
        # When a new period begins, by the monotonic clock, and whether Redis has `extent`.
        self.renew_at = renew_at
        self.is_registered = False
        # Whether the extents of earlier processes must be read first, because their keys may still be here.
        self.must_read = False
        # When those that were added last were read, by the monotonic clock.
        self.read_at = -math.inf
        # Of the last publication.
        self.epoch = ""


class _Read(NamedTuple):
    """All registrations of a family."""

    # When they were asked for, by the monotonic clock.
    at: float
    # Topic → the extent of all its processes together.
    extents: Mapping[str, Extent]


class Extents:
    """
    What one process registers. May be used from several threads and event loops.

    Args:
        process: An id of this process and those that it forks.
        keys: The names of the layer's keys.
        crypter: Encrypts the extents; None to register them in plain.
    """

    def __init__(self, process: str, *, keys: Keys, crypter: Crypter | None = None) -> None:
        self._process, self._keys, self._crypter = process, keys, crypter
        self._known: dict[str, _Known] = {}
        # Family → what was read last. Reading costs O(topics of the family), so new topics share one result.
        self._reads: dict[str, _Read] = {}
        # Families that are not tried again before this time.
        self._retry_at: dict[str, float] = {}

    def due(self, items: Iterable[PublishRequest]) -> dict[str, dict[str, PublishRequest]]:
        """Family → topic → a publication, of those that must be registered before these are published."""
        now = time.monotonic()
        due: dict[str, dict[str, PublishRequest]] = {}
        for item in items:
            keyed = item.keyed
            if keyed is None or keyed.relevance.is_removed or not keyed.family:
                continue
            extent = extent_of(keyed.relevance.place)
            known = self._known.get(item.topic)
            if known is not None and known.is_registered and now < known.renew_at and known.extent.has(extent):
                continue
            if known is None:
                known = self._known[item.topic] = _Known(extent, now + _period_seconds(item))
                known.must_read = keyed.policy.absent_after_seconds is None
            elif now >= known.renew_at:
                known.renew_at = now + _period_seconds(item)
                # Keys that may be silent for ever stay where they were published.
                if keyed.policy.absent_after_seconds is None:
                    known.must_read = True
                else:
                    known.before, known.now = known.now, extent
            known.now = known.now.joined(extent)
            known.extent = known.now.joined(known.before)
            known.is_registered = False
            if now >= self._retry_at.get(keyed.family, 0.0):
                due.setdefault(keyed.family, {})[item.topic] = item
        return due

    def register(self, client: redis.Redis, family: str, topics: Mapping[str, PublishRequest], channel: str) -> None:
        """
        Register these topics of one family, and announce them on its Redis channel.

        Raises:
            redis.RedisError, OSError: Redis did not accept it. Call `failed`.
        """
        key = self._keys.family_extents(family)
        while topics:
            if self._must_read(family, topics):
                now = time.monotonic()
                self._reads[family] = self._decoded(now, client.hgetall(key))
            self._join(family, topics)
            with client.pipeline(transaction=False) as pipeline:
                extents = self._add_to(pipeline, key, topics, channel)
                pipeline.execute()
            topics = self._changed_since(extents, topics)

    async def aregister(
        self, client: redis.asyncio.Redis, family: str, topics: Mapping[str, PublishRequest], channel: str
    ) -> None:
        """The async twin of `register`."""
        key = self._keys.family_extents(family)
        while topics:
            if self._must_read(family, topics):
                now = time.monotonic()
                found: Any = await client.hgetall(key)
                self._reads[family] = self._decoded(now, found)
            self._join(family, topics)
            async with client.pipeline(transaction=False) as pipeline:
                extents = self._add_to(pipeline, key, topics, channel)
                await pipeline.execute()
            topics = self._changed_since(extents, topics)

    def _must_read(self, family: str, topics: Iterable[str]) -> bool:
        """Whether one of the topics needs registrations that are newer than what was read last."""
        waiting = [known for topic in topics if (known := self._known[topic]).must_read]
        read = self._reads.get(family)
        if not waiting or read is None:
            return bool(waiting)
        # In a new period, a topic needs what was added since it was read for the last one.
        return time.monotonic() - read.at > _READ_SECONDS or any(known.read_at >= read.at for known in waiting)

    def _decoded(self, at: float, fields: Mapping[Any, Any]) -> _Read:
        """What was read at this time."""
        extents: dict[str, Extent] = {}
        now = time.time()
        for field, value in fields.items():
            try:
                topic, _, extent, until = decode_extent(field, value, self._crypter)
            except Exception:  # noqa: S112 - readers log it
                continue
            if until > now:
                before = extents.get(topic)
                extents[topic] = extent if before is None else before.joined(extent)
        return _Read(at, extents)

    def _join(self, family: str, topics: Iterable[str]) -> None:
        """Add the extents of all processes to ours, for topics whose keys stay until they are removed."""
        read = self._reads.get(family)
        for topic in topics:
            known = self._known[topic]
            if read is None or not known.must_read:
                continue
            extent = read.extents.get(topic)
            if extent is not None:
                known.before = known.before.joined(extent)
                known.extent = known.now.joined(known.before)
            known.must_read, known.read_at = False, read.at

    def _add_to(self, pipeline: Any, key: str, topics: Mapping[str, PublishRequest], channel: str) -> dict[str, Extent]:
        """Add the commands that register and announce. Returns the extents in them."""
        extents = {topic: self._known[topic].extent for topic in topics}
        # A forked process registers under its own id: it publishes in other places than its parent.
        process = f"{self._process}-{os.getpid():x}"
        fields: dict[bytes, bytes] = {}
        longest_ms = 0
        for topic, item in topics.items():
            lifetime_ms = round(_period_seconds(item) * 3000)
            longest_ms = max(longest_ms, lifetime_ms)
            until_ms = round(time.time() * 1000) + lifetime_ms
            value = " ".join(map(str, (*extents[topic], until_ms))).encode()
            field = f"{topic} {process}".encode()
            fields[field] = value if self._crypter is None else self._crypter.encrypt(value)
        pipeline.hset(key, mapping=fields)
        pipeline.pexpire(key, longest_ms)
        pipeline.publish(channel, b"\n".join(b"%b\n%b" % each for each in fields.items()))
        return extents

    def _changed_since(
        self, extents: Mapping[str, Extent], topics: Mapping[str, PublishRequest]
    ) -> dict[str, PublishRequest]:
        """
        Redis has these extents. Returns the topics that must be registered again at once.

        Another thread may have added to one meanwhile, and Redis may have got the older extent later.
        """
        again: dict[str, PublishRequest] = {}
        for topic, extent in extents.items():
            known = self._known[topic]
            if known.extent == extent:
                known.is_registered = True
            else:
                again[topic] = topics[topic]
        return again

    def failed(self, family: str, error: Exception) -> None:
        """Redis did not accept the registrations: a publication after RETRY_SECONDS tries again."""
        self._retry_at[family] = time.monotonic() + RETRY_SECONDS
        logger.warning("where topics of %s publish could not be registered (%s): trying again", family, error)

    def published(self, items: Iterable[PublishRequest], results: Iterable[Published]) -> bool:
        """Returns whether topics must be registered again: Redis had lost them, so they have another epoch."""
        is_lost = False
        for item, result in zip(items, results, strict=True):
            if item.keyed is None or not (epoch := result.position.epoch):
                continue
            known = self._known.get(item.topic)
            if known is not None and known.epoch != epoch:
                if known.epoch:
                    known.is_registered = False
                    is_lost = True
                known.epoch = epoch
        return is_lost


def _period_seconds(item: PublishRequest) -> float:
    assert item.keyed is not None  # noqa: S101 - only those are registered
    return max(PERIOD_SECONDS, item.keyed.policy.kept_seconds)
