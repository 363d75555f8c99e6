"""
A feed: keeps the copy of one topic in this process complete.

Owns subscribing, reading the topic's snapshot, and reading it again when a publication may be missing. Does not own the
copy (mirror), who gets its states (scene) nor when a topic is needed (views).

To miss nothing, it first subscribes to the Redis channel, and then reads the snapshot. Publications that
arrive meanwhile wait. The keys of a large snapshot are read at different moments, which does not matter: each has the
offset of its publication, and a waiting publication that is older than its key is ignored.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import (
    RELEVANCE_MARK,
    Crypter,
    Position,
    Publication,
    decode_time,
    head_of,
    parse,
    payload_bounds,
)
from realtime.broker.snapshot import Loaded, Snapshot
from realtime.live.counters import Counters
from realtime.live.items import State, state_of
from realtime.live.scene import Scene
from realtime.pubsub.subscriptions import Attachment
from realtime.redis.gaps import read_without_gap
from realtime.redis.outage import Outage
from realtime.untrusted.text import LimitedLog

__all__ = ["Feed", "FeedSource"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

# The most bytes that wait for a snapshot. Beyond it they are dropped, and the snapshot is read again.
HELD_LIMIT_BYTES = 4_194_304
# Other tasks of the event loop run after this many keys of a large snapshot.
_STATES_AT_A_TIME = 500


class FeedSource(Protocol):
    """The source of publications and snapshots: the channel layer."""

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Subscribe to the topic's Redis channel."""

    async def read_snapshot(self, topic: str, policy: Snapshot) -> Loaded:
        """The newest publication of each key."""

    async def sweep_snapshot(
        self, topic: str, policy: Snapshot, *, history: HistoryPolicy, lease_seconds: float
    ) -> int:
        """Remove keys that have been silent for too long, unless another process does that; see `broker.sweep`."""


class Feed:
    """
    Begins at once, and ends with `stop`.

    Args:
        name: The topic.
        policy, history: What Redis keeps of each topic of its family.
        source: The channel layer.
        scene: Gets all states.
        crypter: Decrypts publications; None if they are not encrypted.
        outage: Of the snapshots; logs when Redis is unavailable.
    """

    def __init__(
        self,
        name: str,
        policy: Snapshot,
        history: HistoryPolicy,
        *,
        source: FeedSource,
        scene: Scene,
        crypter: Crypter | None,
        outage: Outage,
        counters: Counters,
    ) -> None:
        self.name, self.policy, self.history = name, policy, history
        self._source, self._scene, self._crypter, self._outage = source, scene, crypter, outage
        self._counters = counters
        # The position of the last publication that was taken; the epoch is "" while there is none.
        self._offset, self._epoch = 0, ""
        # Payloads that wait for the snapshot; None while it is complete.
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        # Increased when a publication may be missing. A snapshot is discarded if this changed while it was read.
        self._gap_count = 0
        # Done once the snapshot was read; cancelled if the feed ends before. Replaced by `reload`.
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attachment = source.attach_topic(name, on_payloads=self._take, on_gap=self._mark_gap)
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._load(), name=f"load {name}")

    def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        self._attachment.detach()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if not self.loaded.done():
            self.loaded.cancel()

    def reload(self) -> None:
        """The scene has lost the states: read the snapshot again."""
        if self.loaded.done():
            self.loaded = asyncio.get_running_loop().create_future()
        self._mark_gap()

    def _take(self, payloads: list[bytes]) -> None:
        if self._held is None:
            self._follow(payloads)
            return
        self._held += payloads
        self._held_bytes += sum(map(len, payloads))
        if self._held_bytes > HELD_LIMIT_BYTES:
            self._mark_gap()

    def _mark_gap(self) -> None:
        """Publications may be missing: read the snapshot again. It contains those that are held now."""
        self._gap_count += 1
        self._held, self._held_bytes = [], 0
        if self._task is None:
            self._task = asyncio.create_task(self._load(), name=f"load {self.name}")

    async def _load(self) -> None:
        position, states = await read_without_gap(
            self._read,
            what=f"the snapshot of {self.name}",
            gap_count=lambda: self._gap_count,
            on_repeat=self._counters.count_reread,
            outage=self._outage,
            ready=self._attachment.ready,
        )
        self._task = None
        self._counters.loaded_count += 1
        self._begin(position, states)
        if not self.loaded.done():
            self.loaded.set_result(None)

    async def _read(self) -> tuple[Position, dict[str, State]]:
        # What was held until now is in the snapshot.
        self._held, self._held_bytes = [], 0
        loaded = await self._source.read_snapshot(self.name, self.policy)
        states: dict[str, State] = {}
        for number, publication in enumerate(loaded.publications, 1):
            # Skips keys of another epoch: their publications wait in `_held`, and cause the snapshot to be read again.
            if publication.position.epoch == loaded.position.epoch:
                state = self._state(publication)
                if state is not None:
                    states[state.key] = state
            if not number % _STATES_AT_A_TIME:
                await asyncio.sleep(0)
        return loaded.position, states

    def _begin(self, position: Position, states: dict[str, State]) -> None:
        self._offset, self._epoch = position
        self._scene.reload(self.name, position, states)
        held, self._held, self._held_bytes = self._held, None, 0
        if held:
            self._follow(held)

    def _follow(self, messages: list[bytes]) -> None:
        """Pass on the publications that follow the position; at a gap, have the snapshot read again."""
        states: list[State] = []
        name, offset, head = self.name, self._offset, head_of(self._epoch)
        is_plain = self._crypter is None
        for message, (start, end) in ((each, bounds) for each in messages for bounds in payload_bounds(each)):
            # Nearly every payload has the next offset, which can be checked without parsing it.
            next_head = b"%b%d\n%b" % (head, offset + 1, RELEVANCE_MARK)
            line_start = start + len(next_head)
            if (
                is_plain
                and message.startswith(next_head, start, end)
                and (line_end := message.find(b"\n", line_start, end)) > 0
            ):
                relevance = message[line_start:line_end]
                try:
                    states.append(state_of(name, offset + 1, message[line_end + 1 : end], relevance))
                except ValueError as error:
                    self._skip(error, relevance)
                offset += 1
                continue
            publication = parse(message[start:end], self._crypter)
            if publication is None:
                continue
            (its_offset, its_epoch), *_ = publication
            if its_epoch == self._epoch and its_offset <= offset:
                continue
            if its_epoch != self._epoch or its_offset != offset + 1:
                self._offset = offset
                self._scene.take(states)
                self._mark_gap()
                return
            offset += 1
            state = self._state(publication)
            if state is not None:
                states.append(state)
        self._offset = offset
        if states:
            self._scene.take(states)

    def _state(self, publication: Publication) -> State | None:
        """None if it has no key: another program published it, or the family had no snapshot then."""
        if not publication.relevance:
            return None
        try:
            return state_of(self.name, publication.position.offset, publication.frame, publication.relevance)
        except ValueError as error:
            self._skip(error, publication.relevance)
            return None

    def _skip(self, error: ValueError, relevance: bytes) -> None:
        """Log a publication that cannot be read: another program published it."""
        if decode_time(relevance) is not None:
            # It has no key, but its time: the family had no snapshot in the process that published it.
            return
        text = "a publication on %s is skipped: its relevance or its frame cannot be read"
        _log.exception(f"relevance {self.name}", error, text, self.name)
