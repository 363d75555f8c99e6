"""
The relay: publishes the notifications on the stream to their recipients' browsers.

Owns the order of each user's notifications, and not publishing them again after a failed database write. Does not own
the stream (realtime.streams), the channel layer (realtime.layer) or the tables (services).
"""

import asyncio
import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from notifications import services
from notifications.content import stream_entry
from notifications.content.stream_entry import StreamedNotification
from notifications.database.clock import moment_of
from notifications.database.errors import DATABASE_UNAVAILABLE, outages
from notifications.database.threads import DatabaseThread
from realtime.broker.publish import PublishRequest
from realtime.exceptions import Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import REDIS_ERRORS
from realtime.statistics import count, observe_all
from realtime.streams import Entry
from realtime.topics import history_of, resolve, user_topic

__all__ = ["Relay"]

# How many users' notifications are sent concurrently to a channel layer other than ours.
CONCURRENT_USERS = 16
# A channel layer that does not answer in this time counts as unavailable; most have no timeout of their own.
SEND_TIMEOUT_SECONDS = 5.0
# The most entries that are remembered as sent but not recorded. If there are more, the oldest are forgotten, and may be
# sent again.
SENT_LIMIT = 10_000


class Relay:
    """
    The handler of the consumer group `relay`.

    Args:
        layer: Any channel layer; by default the project's.

    Guarantees:
        Notifications of one user are sent in the order of the stream, those of different users concurrently. One
        process sends an entry once, even if the database repeatedly fails to record it. Notifications that were deleted
        meanwhile, alone or with their user, are sent too.
    """

    def __init__(self, layer: Any = None) -> None:
        self._layer = layer or get_channel_layer()
        if self._layer is None:
            raise ImproperlyConfigured("CHANNEL_LAYERS has no 'default': the relay needs a channel layer")
        # Ids of entries that were sent but are not recorded as relayed, oldest first.
        self._sent: dict[bytes, None] = {}
        self._database = DatabaseThread(name="relay")

    def close(self) -> None:
        """End the relay's thread. Idempotent."""
        self._database.close()

    async def __call__(self, entries: Sequence[Entry]) -> None:
        """
        Send the notifications of entries to their recipients' topics, and record that.

        Raises:
            EntryRejected: One of them is malformed; nothing was sent.
            Unavailable: The channel layer or the database is unavailable. Entries that were sent are not sent again.
        """
        read = [(entry, stream_entry.decode(entry)) for entry in entries]
        # Entries for the bot alone are further attempts of deliveries: browsers have these notifications already.
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
            marked = await self._database.call(services.mark_relayed, [each.notification_id for _, each in read])
        _count_relayed([each for _, each in read if each.notification_id in marked])
        for entry, _ in read:
            self._sent.pop(entry.id, None)

    async def _publish(self, by_user: dict[str, list[tuple[bytes, StreamedNotification]]]) -> None:
        """
        Publish all in one round trip, with offsets and history.

        Redis remembers the entries, so that another relay does not publish them again if this one dies.
        """
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
        """Send through a channel layer of another kind, the notifications of each user one after another."""
        users = iter(by_user.values())
        sending = (self._send_next(users) for _ in range(min(CONCURRENT_USERS, len(by_user))))
        # All are awaited: after a cancelled call it would be unknown what was sent.
        results = await asyncio.gather(*sending, return_exceptions=True)
        errors = [result for result in results if result is not None]
        # A defect counts more than an outage. Otherwise an entry that always fails would be tried for ever.
        for error in sorted(errors, key=lambda error: isinstance(error, Unavailable)):
            raise error

    async def _send_next(self, users: Iterator[list[tuple[bytes, StreamedNotification]]]) -> None:
        for notifications in users:
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


def _count_relayed(relayed: Sequence[StreamedNotification]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    took = ((now - moment_of(notification.envelope.created_at)).total_seconds() for notification in relayed)
    observe_all("notifications.relay_seconds", took)
    for kind, number in Counter(each.envelope.kind for each in relayed).items():
        count("notifications.relayed", number, kind)
