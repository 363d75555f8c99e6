"""
The channel layer on one event loop: the groups and channels of its consumers, its hub, its connections.

Owns what consumers hold and its limit. Does not own which host a name lives on (layer), the connection (multiplexer)
nor sockets (hub).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from channels_redis.pubsub import RedisPubSubLoopLayer

from realtime import connections
from realtime.history import HistoryReader
from realtime.hub import Hub
from realtime.multiplexer import Multiplexer
from realtime.publications import MARK, History, parse
from realtime.subscriptions import Attachment

if TYPE_CHECKING:
    from realtime.layer import RedisChannelLayer

__all__ = ["LoopLayer"]

logger = logging.getLogger(__name__)


class LoopLayer(RedisPubSubLoopLayer):  # type: ignore[misc]
    """What `RedisChannelLayer` is on one event loop; the parent's methods are the channel layer's."""

    def __init__(self, layer: "RedisChannelLayer") -> None:
        super().__init__(prefix=layer.prefix, channel_layer=layer)
        self._layer = layer
        # The parent's methods find the host of a name here too.
        self.shards = self._shards = [_Shard(host, self) for host in layer.hosts]
        self.hub = Hub(self, crypter=layer.crypter)

    def shard(self, topic: str) -> "_Shard":
        """The host that a topic lives on."""
        return self.shards[self._layer.shard_of(topic)]

    # For the hub ------------------------------------------------------------------------------------------------------

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        channel = self._layer.redis_channel(topic)
        return self.shard(topic).attach(channel, on_payloads=on_payloads, on_gap=on_gap)

    async def read_history(self, topic: str, *, after: int | None) -> History:
        return await self.shard(topic).histories.read(topic, after=after)

    # For the parent ---------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """As the parent; connections are closed too."""
        await self.hub.close()
        await super().flush()

    async def receive(self, channel: str) -> Any:
        """As the parent; a channel that nobody receives from any more is in no group either."""
        try:
            return await super().receive(channel)
        except BaseException:
            if channel not in self.channels:
                for group in [group for group, members in self.groups.items() if channel in members]:
                    await self._drop_member(group, channel)
            raise

    async def _subscribe_to_channel(self, channel: str) -> None:
        self.channels[channel] = asyncio.Queue(self._layer.capacity)
        try:
            await self._get_shard(channel).subscribe(channel)
        except BaseException:
            # The parent would hold on to it.
            self.channels.pop(channel, None)
            await self._get_shard(channel).unsubscribe(channel)
            raise

    # From the shards --------------------------------------------------------------------------------------------------

    def take(self, redis_channel: str, payloads: list[bytes]) -> None:
        """Queue messages for the consumers of a channel or a group."""
        messages = [each for payload in payloads if (each := self._open(payload)) is not None]
        for name in (redis_channel,) if redis_channel in self.channels else self.groups.get(redis_channel, ()):
            self._put(name, messages)

    def tell(self, message_type: str | None) -> None:
        """Queue a message without content for every consumer."""
        if message_type is not None:
            for name in self.channels:
                self._put(name, [{"type": message_type}])

    def _open(self, payload: bytes) -> Any:
        """What is queued for a payload: a publication is a message already, others are opened by who receives them."""
        if not payload.startswith(MARK):
            return payload
        publication = parse(payload, self._layer.crypter)
        return publication.as_event() if publication is not None else None

    def _put(self, name: str, messages: Iterable[Any]) -> None:
        queue = self.channels.get(name)
        if queue is None:
            return
        for message in messages:
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                self._layer.dropped_count += 1
                if self._layer.dropped_count & (self._layer.dropped_count - 1) == 0:
                    # At 1, 2, 4, 8, …: a consumer that is stuck must not fill the log.
                    logger.warning(
                        "the consumer of %s holds %d messages and gets no more (dropped so far in this process: %d)",
                        name,
                        self._layer.capacity,
                        self._layer.dropped_count,
                    )

    async def _drop_member(self, group: str, channel: str) -> None:
        members = self.groups[group]
        members.discard(channel)
        if not members:
            del self.groups[group]
            await self._get_shard(group).unsubscribe(group)


class _Shard:
    """One Redis host on one event loop, as the parent's methods use it; connections are made when first needed."""

    def __init__(self, host: Mapping[str, Any], loop_layer: LoopLayer) -> None:
        self._loop_layer = loop_layer
        layer = loop_layer.channel_layer
        timeout_seconds = connections.CALLER_TIMEOUT_SECONDS
        self.publisher = connections.async_publisher(host, timeout_seconds=timeout_seconds, retries=0)
        self.histories = HistoryReader(self.publisher, keys=layer.keys, crypter=layer.crypter)
        self._reader = connections.async_reader(host)
        self._multiplexer: Multiplexer | None = None
        # By Redis channel, for consumers.
        self._attachments: dict[str, Attachment] = {}

    async def publish(self, channel: str, message: bytes) -> None:
        await self.publisher.publish(channel, message)

    async def subscribe(self, channel: str) -> None:
        attachment = self._attachments.get(channel)
        if attachment is None:
            attachment = self._attachments[channel] = self.attach(
                channel,
                on_payloads=lambda payloads: self._loop_layer.take(channel, payloads),
                on_gap=lambda: None,
            )
        await attachment.ready()

    async def unsubscribe(self, channel: str) -> None:
        attachment = self._attachments.pop(channel, None)
        if attachment is not None:
            attachment.detach()

    def attach(
        self, channel: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        if self._multiplexer is None:
            layer = self._loop_layer.channel_layer
            self._multiplexer = Multiplexer(
                self._reader,
                publisher=self.publisher,
                probe_channel=f"{layer.prefix}__probe",
                on_lost=lambda: self._loop_layer.tell(layer.on_disconnect),
                on_back=lambda: self._loop_layer.tell(layer.on_reconnect),
            )
            # Runs until flush(), which the parent calls before the loop is closed.
            self._multiplexer.start()
        return self._multiplexer.attach(channel, on_payloads=on_payloads, on_gap=on_gap)

    async def flush(self) -> None:
        multiplexer, self._multiplexer = self._multiplexer, None
        self._attachments.clear()
        if multiplexer is not None:
            await multiplexer.stop()
        await self.histories.stop()
        await self.publisher.aclose()
        await self._reader.aclose()
