"""
The filtered subscriptions of this process: joining, changing what they let through, and leaving.

Owns which topics are mirrored in this process, and for how long. Does not own mirroring (feed), what views are sent
(scene, view), which topics a family has (families) nor who may receive them (websocket).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Crypter, Position
from realtime.broker.snapshot import Snapshot
from realtime.exceptions import SubscriptionClosed
from realtime.hub.sinks import Sink
from realtime.live.counters import Counters
from realtime.live.families import FamilyMap, FamilySource
from realtime.live.feed import Feed, FeedSource
from realtime.live.scene import Scene
from realtime.live.view import Lens, View
from realtime.protocol.close_codes import CloseCode
from realtime.redis.backoff import Backoff
from realtime.redis.outage import REDIS_ERRORS, Observer, Outage
from realtime.statistics import ViewStatistics, register
from realtime.untrusted.text import LimitedLog

__all__ = ["Family", "View", "Views"]

_log = LimitedLog(logging.getLogger(__name__))

# A topic is mirrored for this long after its last view has left it, because users move a map back and forth.
LINGER_SECONDS: Final = 30.0
# How often a topic is swept within its `absent_after_seconds`, and the bounds of the time between two sweeps.
_SWEEPS_PER_LIFETIME: Final = 10
_SWEEP_SECONDS: Final = (1.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    The facts about a family of topics that `Views` needs. Made by `topics.live_family`.

    Attributes:
        name: `vehicles.*`.
        snapshot, history: What Redis keeps of each topic.
        is_member: Whether a topic belongs to the family.
    """

    name: str
    snapshot: Snapshot
    history: HistoryPolicy
    is_member: Callable[[str], bool] = lambda topic: True


class LiveSource(FeedSource, FamilySource, Protocol):
    """The channel layer."""


class Views:
    """
    The filtered subscriptions of one event loop.

    Args:
        source: The channel layer.
        crypter: Decrypts publications; None if they are not encrypted.
        backoff: The waits between attempts to read a snapshot while Redis is unavailable.

    Guarantees:
        A view gets the newest state of each key that it lets through, and then each later state. A state may be
        left out if a later one replaces it within the family's `gather_seconds`, or while the client reads slowly. The
        view is notified of each key that it no longer lets through. Each process subscribes to a topic's Redis channel
        once for all its views.
    """

    def __init__(self, source: LiveSource, *, crypter: Crypter | None = None, backoff: Backoff | None = None) -> None:
        self._source, self._crypter = source, crypter
        self._outage = Outage("Redis for the snapshots of topics", backoff=backoff)
        self._scenes: dict[str, Scene] = {}
        self._feeds: dict[str, Feed] = {}
        # Topic → the scene of its feed, and how many views need it.
        self._scene_of: dict[str, Scene] = {}
        self._need_counts: dict[str, int] = {}
        # Topics that no view needs, and when their feeds end.
        self._ending: dict[str, asyncio.TimerHandle] = {}
        self._scene_of_view: dict[View, Scene] = {}
        # Family → its topics and their extents. Only families that a view has asked for.
        self._maps: dict[str, FamilyMap] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._counters = Counters()
        register(self)

    async def join(
        self,
        name: str,
        family: Family,
        sink: Sink,
        *,
        view_id: str,
        lens: Lens,
        topics: Collection[str],
        positions: Mapping[str, Position] | None = None,
        end: Callable[[CloseCode, str], None] | None = None,
    ) -> View:
        """
        Open a view.

        Args:
            name: The topic, or the name of the family, that the client has subscribed to.
            family: The topic's family.
            sink: The socket. It gets a "subscribed" object, a "reset" batch, and later batches.
            view_id: The client's name of the view.
            lens: What it lets through.
            topics: The topics that it needs; the permission for each was checked.
            positions: The client's position in each topic, if it resumes with the same filter.
            end: Closes the connection if the view fails; None closes only the socket.

        Raises:
            SubscriptionClosed: The views were closed meanwhile, or the view failed.

        Guarantees:
            Waits while Redis is unavailable. If it is cancelled, nothing was written and nothing is left behind.
        """
        scene = self._scene(family)
        view = View(view_id=view_id, name=name, sink=sink, lens=lens, positions=positions, end=end)
        self._scene_of_view[view] = scene
        try:
            self._need(view, frozenset(topics), family)
            while waiting := [feed.loaded for topic in view.topics if not (feed := self._feeds[topic]).loaded.done()]:
                await asyncio.wait(waiting)
                if view.is_over:
                    raise SubscriptionClosed
            await scene.join(view)
        except BaseException:
            self.leave(view)
            raise
        return view

    def update(self, view: View, family: Family, *, lens: Lens, topics: Collection[str]) -> None:
        """
        Change what a view lets through, and the topics that it needs.

        The client is soon sent what entered and what left. Items of a topic that this process does not mirror yet
        follow when its snapshot is loaded.
        """
        if view.is_over:
            return
        self._need(view, frozenset(topics), family)
        if lens != view.wanted or view.untold:
            view.wanted = lens
            self._scene_of_view[view].renew(view)

    async def family_map(self, family: Family) -> FamilyMap:
        """The topics of a family and their extents. Waits until they are loaded, also while Redis is unavailable."""
        family_map = self._maps.get(family.name)
        if family_map is None:
            family_map = self._maps[family.name] = FamilyMap(
                family.name,
                is_member=family.is_member,
                source=self._source,
                crypter=self._crypter,
                outage=self._outage,
                counters=self._counters,
            )
        try:
            # Shielded, because others may be waiting for the same future.
            await asyncio.shield(family_map.loaded)
        except asyncio.CancelledError:
            if family_map.loaded.cancelled():
                raise SubscriptionClosed from None
            raise
        return family_map

    def leave(self, view: View) -> None:
        """Close a view: nothing is written for it after this. Idempotent."""
        scene = self._scene_of_view.pop(view, None)
        if scene is not None:
            scene.leave(view)
            for topic in view.topics:
                self._release(topic)

    async def close(self) -> None:
        """Close all views; their sockets stay open. Views can be opened again after this."""
        scenes, self._scenes = self._scenes, {}
        for view in tuple(self._scene_of_view):
            self.leave(view)
        for timer in self._ending.values():
            timer.cancel()
        self._ending.clear()
        for topic in tuple(self._feeds):
            self._end(topic)
        for family_map in self._maps.values():
            family_map.stop()
        self._maps.clear()
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait([sweeper])
        for scene in scenes.values():
            await scene.stop()

    def statistics(self) -> ViewStatistics:
        """The counters now."""
        counters = self._counters
        return ViewStatistics(
            view_count=counters.view_count,
            feed_count=len(self._feeds),
            item_count=counters.item_count,
            tick_count=counters.tick_count,
            change_count=counters.change_count,
            batch_count=counters.batch_count,
            delivery_count=counters.delivery_count,
            written_bytes=counters.written_bytes,
            skipped_count=counters.skipped_count,
            thinned_count=counters.thinned_count,
            loaded_count=counters.loaded_count,
            reread_count=counters.reread_count,
            failed_count=counters.failed_count,
        )

    def _scene(self, family: Family) -> Scene:
        scene = self._scenes.get(family.name)
        if scene is None:
            scene = self._scenes[family.name] = Scene(
                family.name,
                gather_seconds=family.snapshot.gather_seconds,
                counters=self._counters,
                on_lost=lambda: self._reload(family),
            )
        return scene

    def _reload(self, family: Family) -> None:
        scene = self._scenes.get(family.name)
        for topic, its_scene in self._scene_of.items():
            if its_scene is scene:
                self._feeds[topic].reload()

    def _need(self, view: View, topics: frozenset[str], family: Family) -> None:
        """Replace the topics that the view needs."""
        before = view.topics
        if topics is before:
            return
        view.topics = topics
        view.untold = view.untold - (before - topics) | (topics - before)
        for topic in topics - before:
            self._need_counts[topic] = self._need_counts.get(topic, 0) + 1
            if topic in self._feeds:
                timer = self._ending.pop(topic, None)
                if timer is not None:
                    timer.cancel()
            else:
                self._open(topic, family)
        for topic in before - topics:
            self._release(topic)

    def _open(self, topic: str, family: Family) -> None:
        scene = self._scene_of[topic] = self._scene(family)
        self._feeds[topic] = Feed(
            topic,
            family.snapshot,
            family.history,
            source=self._source,
            scene=scene,
            crypter=self._crypter,
            outage=self._outage,
            counters=self._counters,
        )
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="sweep snapshots")

    def _release(self, topic: str) -> None:
        self._need_counts[topic] -= 1
        if not self._need_counts[topic]:
            del self._need_counts[topic]
            self._ending[topic] = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._end, topic)

    def _end(self, topic: str) -> None:
        self._ending.pop(topic, None)
        self._feeds.pop(topic).stop()
        self._scene_of.pop(topic).forget(topic)

    async def _sweep(self) -> None:
        """Remove keys that have been silent for too long, in the topics that this process mirrors."""
        loop = asyncio.get_running_loop()
        due: dict[Feed, float] = {}
        with self._outage.observer() as observer:
            while True:
                await asyncio.sleep(_SWEEP_SECONDS[0])
                for feed in tuple(self._feeds.values()):
                    lifetime = feed.policy.absent_after_seconds
                    if lifetime is None or not feed.loaded.done():
                        continue
                    least, most = _SWEEP_SECONDS
                    interval = min(max(lifetime / _SWEEPS_PER_LIFETIME, least), most)
                    # Random at first, so that the topics of a family are not swept together.
                    at = due.setdefault(feed, loop.time() + random.uniform(0, interval))  # noqa: S311 - spreads load
                    if loop.time() < at:
                        continue
                    due[feed] = loop.time() + interval
                    await self._sweep_topic(feed, interval, observer)
                for feed in due.keys() - set(self._feeds.values()):
                    del due[feed]

    async def _sweep_topic(self, feed: Feed, interval_seconds: float, observer: Observer) -> None:
        try:
            # If this process dies, another one takes over when the lease ends.
            await self._source.sweep_snapshot(
                feed.name, feed.policy, history=feed.history, lease_seconds=interval_seconds * 2
            )
        except REDIS_ERRORS as error:
            observer.failed(error)
        except Exception as error:
            # Other topics are swept all the same.
            _log.exception("sweep", error, "the silent keys of %s could not be removed", feed.name)
        else:
            observer.worked()
