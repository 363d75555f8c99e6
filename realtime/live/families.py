"""
Which topics of a family publish in a part of the world, as far as this process knows.

Owns following the registrations of publishers, for each family that has a view in this process. Does not own
registering (broker.extents) nor permissions (websocket).
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from realtime.broker.extents import ANNOUNCEMENT, EXTENT_BITS, Extent, decode_extent
from realtime.broker.publication import Crypter
from realtime.live.counters import Counters
from realtime.live.places import Box
from realtime.pubsub.subscriptions import Attachment
from realtime.redis.gaps import read_without_gap
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.untrusted.text import LimitedLog

__all__ = ["FamilyMap", "FamilySource"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

# How many answers of `topics_in` are cached until something changes.
_ANSWERS_LIMIT: Final = 4_096
# Publishers that start together register many topics: listeners are notified once.
_NOTICE_SECONDS: Final = 0.1
# How often registrations that have expired are looked for.
_EXPIRY_SECONDS: Final = 60.0


class FamilySource(Protocol):
    """The source of registrations: the channel layer."""

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Subscribe to a Redis channel."""

    async def read_extents(self, family: str) -> Mapping[bytes, bytes]:
        """All registrations of a family."""

    async def remove_extents(self, family: str, fields: Mapping[bytes, bytes]) -> None:
        """Remove registrations, except those whose value has changed meanwhile."""


class FamilyMap:
    """
    The topics of one family. Begins at once, and ends with `stop`.

    Args:
        name: `vehicles.*`.
        source: The channel layer.
        crypter: Decrypts the registrations; None if they are not encrypted.
        outage: Of the registrations; logs when Redis is unavailable.
    """

    def __init__(
        self,
        name: str,
        *,
        is_member: Callable[[str], bool],
        source: FamilySource,
        crypter: Crypter | None,
        outage: Outage,
        counters: Counters,
    ) -> None:
        self.name, self._is_member, self._crypter = name, is_member, crypter
        self._source, self._outage, self._counters = source, outage, counters
        # Topic → process → its extent, and when that expires. A topic is present only while it has a process.
        self._known: dict[str, dict[str, tuple[Extent, float]]] = {}
        # Topic → the extent of all its processes together.
        self._extents: dict[str, Extent] = {}
        self._answers: dict[tuple[Extent, ...], frozenset[str]] = {}
        self._listeners: dict[Callable[[], None], None] = {}
        # When they are called; None if nothing has changed.
        self._notice: asyncio.TimerHandle | None = None
        self._gap_count = 0
        # Whether Redis may have registrations that have expired.
        self._has_expired = False
        # Payloads that arrive while the registrations are read.
        self._held: list[bytes] | None = []
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attachment = source.attach_topic(f"{ANNOUNCEMENT}{name}", on_payloads=self._take, on_gap=self._mark_gap)
        self._tasks = [
            asyncio.create_task(self._load(), name=f"load {name}"),
            asyncio.create_task(self._expire(), name=f"expire {name}"),
        ]

    def topics_in(self, rectangles: Sequence[Box]) -> frozenset[str]:
        """
        The topics whose extent touches one of the rectangles, in world units, which do not cross longitude 180.

        Until something changes, the same object is returned for the same tiles.
        """
        bits = EXTENT_BITS
        areas = tuple(Extent(x0 >> bits, y0 >> bits, x1 >> bits, y1 >> bits) for x0, y0, x1, y1 in rectangles)
        found = self._answers.get(areas)
        if found is None:
            if len(self._answers) >= _ANSWERS_LIMIT:
                self._answers.clear()
            found = self._answers[areas] = frozenset(topic for area in areas for topic in self._topics_at(area))
        return found

    def _topics_at(self, area: Extent) -> list[str]:
        x0, y0, x1, y1 = area
        return [
            topic
            for topic, (left, top, right, bottom) in self._extents.items()
            if left <= x1 and right >= x0 and top <= y1 and bottom >= y0
        ]

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` soon after the extents change, once for many changes. Returns a function that ends this."""
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None)

    def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        self._attachment.detach()
        if self._notice is not None:
            self._notice.cancel()
        for task in self._tasks:
            task.cancel()
        if not self.loaded.done():
            self.loaded.cancel()

    def _take(self, payloads: list[bytes]) -> None:
        if self._held is not None:
            self._held += payloads
            return
        self._changed(self._read(payloads))

    def _read(self, payloads: list[bytes]) -> set[str]:
        """Add announced registrations. Returns their topics."""
        lines = [payload.split(b"\n") for payload in payloads]
        return self._add(pair for each in lines for pair in zip(each[::2], each[1::2], strict=False))

    def _add(self, fields: Iterable[tuple[bytes, bytes]]) -> set[str]:
        """Add registrations, as they are in Redis. Returns their topics."""
        return {topic for field, value in fields if (topic := self._add_one(field, value)) is not None}

    def _add_one(self, field: bytes, value: bytes) -> str | None:
        try:
            topic, process, extent, until = decode_extent(field, value, self._crypter)
        except Exception as error:
            # It has another format, or was encrypted with another key.
            _log.exception(f"registration {self.name}", error, "a registration of %s cannot be read", self.name)
            return None
        if not self._is_member(topic):
            # A forged registration must not open a topic of another family to users who may follow this one.
            _log.warning(f"registration {self.name}", "%s is registered for %s: ignored", topic, self.name)
        elif until > time.time():
            self._known.setdefault(topic, {})[process] = extent, until
            return topic
        else:
            self._has_expired = True
        return None

    def _changed(self, topics: Iterable[str]) -> None:
        """The registrations of these topics may have changed: notify the listeners if an extent has."""
        has_changed = False
        for topic in topics:
            extent = self._joined(topic)
            if extent == self._extents.get(topic):
                continue
            has_changed = True
            if extent is None:
                del self._extents[topic]
            else:
                self._extents[topic] = extent
        if has_changed:
            self._answers.clear()
            if self._notice is None:
                self._notice = asyncio.get_running_loop().call_later(_NOTICE_SECONDS, self._notify)

    def _joined(self, topic: str) -> Extent | None:
        """The extent of all processes of a topic together; None if no process has registered it."""
        extents = [extent for extent, _ in self._known.get(topic, {}).values()]
        return functools.reduce(Extent.joined, extents) if extents else None

    def _notify(self) -> None:
        self._notice = None
        for listener in tuple(self._listeners):
            listener()

    def _mark_gap(self) -> None:
        self._gap_count += 1
        if self._held is None:
            self._held = []
            self._tasks[0] = asyncio.create_task(self._load(), name=f"load {self.name}")

    async def _load(self) -> None:
        fields = await read_without_gap(
            self._read_all,
            what=f"the registrations of {self.name}",
            gap_count=lambda: self._gap_count,
            on_repeat=self._counters.count_reread,
            outage=self._outage,
            ready=self._attachment.ready,
        )
        self._known.clear()
        held, self._held = self._held or [], None
        self._changed({*self._extents, *self._add(fields.items()), *self._read(held)})
        if not self.loaded.done():
            self.loaded.set_result(None)

    async def _read_all(self) -> Mapping[bytes, bytes]:
        # What was held until now is in Redis.
        self._held = []
        return await self._source.read_extents(self.name)

    async def _expire(self) -> None:
        with self._outage.observer() as observer:
            while True:
                await asyncio.sleep(_EXPIRY_SECONDS)
                expired = self._forget_expired()
                self._changed(expired)
                if expired or self._has_expired:
                    try:
                        await self._remove_expired()
                    except REDIS_ERRORS as error:
                        # Readers ignore expired registrations until they are removed.
                        self._has_expired = True
                        observer.failed(error)
                    except Exception as error:
                        self._has_expired = True
                        text = "the expired registrations of %s could not be removed"
                        _log.exception("expire", error, text, self.name)
                    else:
                        observer.worked()

    def _forget_expired(self) -> set[str]:
        """Forget expired registrations. Returns the topics that have lost one."""
        now = time.time()
        expired = [
            (topic, process)
            for topic, processes in self._known.items()
            for process, (_, until) in processes.items()
            if until <= now
        ]
        for topic, process in expired:
            processes = self._known[topic]
            del processes[process]
            if not processes:
                del self._known[topic]
        return {topic for topic, _ in expired}

    async def _remove_expired(self) -> None:
        """Remove expired registrations: the hash itself does not expire while any topic of the family is published."""
        self._has_expired = False
        fields = await self._source.read_extents(self.name)
        expired = {field: value for field, value in fields.items() if self._is_expired(field, value)}
        if expired:
            await self._source.remove_extents(self.name, expired)

    def _is_expired(self, field: bytes, value: bytes) -> bool:
        try:
            return decode_extent(field, value, self._crypter)[-1] <= time.time()
        except Exception:
            # Another release may have written it, so it stays.
            return False
