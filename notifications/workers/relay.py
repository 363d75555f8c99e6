"""
The relay: from the stream to the group of the recipient, and so to the recipient's browsers.

Owns the order of one user's notifications and that none is sent again only because the database was away. Does not own
the stream (realtime.streams), the channel layer nor the tables (services).
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from notifications import services
from notifications.content import stream_entry
from notifications.content.stream_entry import StreamedNotification
from notifications.database.errors import DATABASE_UNAVAILABLE, outages
from realtime.broker.history import PublishRequest
from realtime.exceptions import Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import REDIS_ERRORS
from realtime.streams import Entry
from realtime.topics import history_of, resolve, user_topic

__all__ = ["Relay"]

# Users whose notifications are sent at a time.
LANES = 16
# A channel layer that does not answer for so long is away; most have no timeout of their own.
SEND_TIMEOUT_SECONDS = 5.0
# The most entries remembered as sent and not yet recorded; beyond, the oldest are forgotten and may be sent again.
SENT_LIMIT = 10_000


class Relay:
    """
    The handler of the consumer group `relay`.

    Args:
        layer: The channel layer, whichever it is; by default the project's.

    Guarantees:
        Notifications of one user are sent in the order of the stream, those of different users at the same time.
        In one process, an entry is sent once, however often the database fails to record it. A notification or user
        that has been deleted since is sent all the same.
    """

    def __init__(self, layer: Any = None) -> None:
        self._layer = layer or get_channel_layer()
        if self._layer is None:
            raise ImproperlyConfigured("CHANNEL_LAYERS has no 'default': the relay has nothing to send through")
        # Ids of entries that were sent and whose sending is not recorded, oldest first.
        self._sent: dict[bytes, None] = {}

    async def __call__(self, entries: Sequence[Entry]) -> None:
        """
        Send entries to their groups and record it.

        Raises:
            EntryRejected: One of them is malformed; nothing was sent.
            Unavailable: The channel layer or the database is away; what was sent is not sent again.
        """
        read = [(entry, stream_entry.decode(entry)) for entry in entries]
        # What is on the stream again for the bot alone was sent to browsers before.
        read = [(entry, notification) for entry, notification in read if notification.only in ("", "relay")]
        by_user: dict[str, list[tuple[bytes, StreamedNotification]]] = {}
        for entry, notification in read:
            if entry.id not in self._sent:
                by_user.setdefault(notification.user_id, []).append((entry.id, notification))
        if isinstance(self._layer, RedisChannelLayer):
            await self._publish(by_user)
        else:
            await self._send(by_user)
        with outages(*DATABASE_UNAVAILABLE):
            await database_sync_to_async(services.mark_relayed)([each.notification_id for _, each in read])
        for entry, _ in read:
            self._sent.pop(entry.id, None)

    async def _publish(self, by_user: dict[str, list[tuple[bytes, StreamedNotification]]]) -> None:
        """All in one round trip, with offsets and history; each entry once, also after a relay has died on it."""
        sent = [pair for pairs in by_user.values() for pair in pairs]
        items = []
        for entry_id, notification in sent:
            topic = user_topic(notification.user_id)
            items.append(
                PublishRequest(topic, notification.json.encode(), history_of(resolve(topic)), entry_id.decode())
            )
        with outages(*REDIS_ERRORS):
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await self._layer.publish_many(items)
        self._remember(entry_id for entry_id, _ in sent)

    async def _send(self, by_user: dict[str, list[tuple[bytes, StreamedNotification]]]) -> None:
        queue = iter(by_user.values())
        lanes = (self._run_lane(queue) for _ in range(min(LANES, len(by_user))))
        # All lanes go as far as they can: cutting one off would leave open what it has sent.
        results = await asyncio.gather(*lanes, return_exceptions=True)
        errors = [result for result in results if result is not None]
        # What is at fault counts more than what is away, or a bad entry would be tried for ever.
        for error in sorted(errors, key=lambda error: isinstance(error, Unavailable)):
            raise error

    async def _run_lane(self, queue: Iterator[list[tuple[bytes, StreamedNotification]]]) -> None:
        for notifications in queue:
            for entry_id, notification in notifications:
                topic = user_topic(notification.user_id)
                message = {"type": "realtime.message", "topic": topic, "data": notification.json}
                with outages(*REDIS_ERRORS):
                    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                        await self._layer.group_send(topic, message)
                self._remember([entry_id])

    def _remember(self, entry_ids: Iterable[bytes]) -> None:
        for entry_id in entry_ids:
            self._sent[entry_id] = None
            if len(self._sent) > SENT_LIMIT:
                del self._sent[next(iter(self._sent))]
