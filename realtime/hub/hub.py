"""
The sockets of this process by topic: joining, leaving, and closing gaps after a lost connection or publication.

Owns which topics are live in this process, and when their history is read. Does not own what members get (topic), how
it is written (members, sinks), Redis names (pubsub) nor the format of publications (broker).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from realtime.broker.publication import Crypter, History, Position
from realtime.exceptions import SubscriptionClosed
from realtime.hub.members import Counters
from realtime.hub.sinks import Sink
from realtime.hub.topic import LiveTopic, Membership
from realtime.pubsub.subscriptions import Attachment
from realtime.redis.backoff import Backoff
from realtime.redis.gaps import read_without_gap
from realtime.redis.outage import Outage
from realtime.statistics import HubStatistics, register

__all__ = ["Hub", "Membership", "TopicSource"]


class TopicSource(Protocol):
    """The source of publications and histories: the channel layer."""

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        """Subscribe to the topic's Redis channel."""

    async def read_history(self, topic: str, *, after: int | None) -> History:
        """
        Position and history of the topic, as of one moment after this call; see `HistoryReader.read`.

        Guarantees:
            Histories of one topic are returned in the order in which they were read.
        """


class Hub:
    """
    Delivers topics to sockets; belongs to one event loop.

    Args:
        source: The channel layer.
        crypter: Decrypts publications; None if they are not encrypted.
        backoff: The waits between attempts to read history while Redis is unavailable.

    Guarantees:
        A member gets every publication of its topic after the position in its "subscribed" frame, in order of offset,
        each once. If some are lost, it gets another "subscribed" frame with `"recovered": false`, and then those that
        are still kept. Another one with `"recovered": true` announces a new epoch with nothing missing, because the old
        epoch had no publication.
    """

    def __init__(self, source: TopicSource, *, crypter: Crypter | None = None, backoff: Backoff | None = None) -> None:
        self._source, self._crypter = source, crypter
        self._outage = Outage("Redis for the histories of topics", backoff=backoff)
        self._topics: dict[str, LiveTopic] = {}
        # Topics with a gap, and the tasks that close it.
        self._heal_tasks: dict[LiveTopic, asyncio.Task[None]] = {}
        self._counters = Counters()
        register(self)

    async def join(
        self, topic_name: str, sink: Sink, *, since: Position | None = None, preface: bytes | None = None
    ) -> Membership:
        """
        Subscribe a socket to a topic.

        Args:
            topic_name: A topic for which the permission was checked.
            sink: The socket. It gets a "subscribed" frame, the publications missed since `since`, then later ones.
            since: The client's last position; without it, the client gets only later publications.
            preface: An object to write before the "subscribed" frame, once the topic is live.

        Raises:
            redis.exceptions.RedisError, OSError: History could not be read.
            SubscriptionClosed: The hub was closed meanwhile.

        Guarantees:
            If it raises or is cancelled, nothing was written to the sink and nothing is left behind.
        """
        topic = self._topics.get(topic_name) or self._open(topic_name)
        topic.begin_join()
        try:
            await topic.attachment.ready()
            history = None
            if topic.needs_history(since):
                history = await self._read_history(topic_name, since)
            if self._topics.get(topic_name) is not topic:
                raise SubscriptionClosed
            return topic.admit(sink, since=since, history=history, preface=preface)
        finally:
            topic.end_join()
            self._forget_if_unused(topic)

    def leave(self, membership: Membership) -> None:
        """End a membership: nothing is written for it after this. Idempotent."""
        membership.topic.members.drop(membership)
        self._forget_if_unused(membership.topic)

    def count_slow(self) -> None:
        """A socket was closed as too slow."""
        self._counters.slow_count += 1

    async def close(self) -> None:
        """End all memberships; sockets stay open. The hub can be used again."""
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            topic.attachment.detach()
            for membership in topic.members:
                topic.members.drop(membership)
        tasks, self._heal_tasks = self._heal_tasks, {}
        for task in tasks.values():
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())

    def statistics(self) -> HubStatistics:
        """The counters of this hub now."""
        return HubStatistics(
            topic_count=len(self._topics),
            **{name: getattr(self._counters, name) for name in Counters.__slots__},
        )

    async def _read_history(self, name: str, since: Position | None) -> History:
        """The history after `since`; the whole history, if `since` is of another epoch."""
        history = await self._source.read_history(name, after=None if since is None else since.offset)
        if since is not None and since.offset and since.epoch != history.position.epoch:
            history = await self._source.read_history(name, after=0)
        return history

    def _open(self, name: str) -> LiveTopic:
        topic = LiveTopic(name, counters=self._counters, crypter=self._crypter, on_gap=self._heal)
        topic.attachment = self._source.attach_topic(name, on_payloads=topic.take, on_gap=topic.mark_gap)
        self._topics[name] = topic
        return topic

    def _forget_if_unused(self, topic: LiveTopic) -> None:
        if topic.members or topic.joining_count or self._topics.get(topic.name) is not topic:
            return
        del self._topics[topic.name]
        topic.attachment.detach()
        if (task := self._heal_tasks.pop(topic, None)) is not None:
            task.cancel()

    def _heal(self, topic: LiveTopic) -> None:
        if topic not in self._heal_tasks:
            self._heal_tasks[topic] = asyncio.create_task(self._run_heal(topic), name=f"heal {topic.name}")

    async def _run_heal(self, topic: LiveTopic) -> None:
        history = await read_without_gap(
            lambda: self._read_history(topic.name, Position(topic.offset, topic.epoch)),
            what=f"the history of {topic.name}",
            gap_count=lambda: topic.gap_count,
            on_repeat=self._counters.count_reread,
            outage=self._outage,
        )
        self._counters.healed_count += 1
        # The publications held meanwhile may have a gap too, which starts the next healing.
        del self._heal_tasks[topic]
        topic.catch_up(history)
