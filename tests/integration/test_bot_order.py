"""In which order a bot tries the deliveries of one user, and what a failed one holds up: nothing."""

from collections.abc import Iterable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from notifications import services
from notifications.delivery.bot import Bot
from notifications.models import Delivery
from notifications.transports import Address, Message, Transport
from notifications.workers.recovery import refill
from realtime.redis.keys import Keys
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


class FailingOnce(Transport):
    """A transport whose provider refuses the first attempt of what says "late"."""

    def __init__(self) -> None:
        super().__init__(name="console")
        self.tried: list[tuple[int, str]] = []
        self.sent: list[tuple[int, str]] = []

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="home")]

    async def send(self, message: Message, address: Address) -> str:
        what = (message.recipient.pk, message.texts.body)
        self.tried.append(what)
        if message.attempt == 1 and message.texts.body.startswith("late"):
            raise ConnectionRefusedError("not now")
        self.sent.append(what)
        return "taken"


async def test_first_attempts_are_in_order_and_a_retry_delays_nothing(
    redis_server: RedisServer, keys: Keys, signalbox: Any
) -> None:
    """A failed delivery is sent when its next attempt is due, after newer ones."""
    signalbox.NOTIFICATIONS = {"DELIVERY_RETRY_SECONDS": 3600.0}
    users = await sync_to_async(make_users)(3)
    said = ["late 0", "1", "late 2", "3", "4"]
    transport = FailingOnce()
    bot = Bot({"console": transport})
    async with working(
        redis_server.url, keys, bot, group="bot", order_field="u", batch_size=1, concurrency=bot.entries_limit
    ) as worker:
        for text in said:
            await services.anotify(users, text)
        await wait_until(lambda: worker.statistics().handled_count == 15)
        for user in users:
            assert [text for pk, text in transport.tried if pk == user.pk] == said
            assert [text for pk, text in transport.sent if pk == user.pk] == ["1", "3", "4"]
        # As if the hour were over.
        assert await Delivery.objects.filter(state="pending", attempts=1).aupdate(due_at=timezone.now()) == 6
        await sync_to_async(refill)()
        await wait_until(lambda: len(transport.sent) == 15)
    for user in users:
        assert sorted(text for pk, text in transport.sent[9:] if pk == user.pk) == ["late 0", "late 2"]
    assert {row.state async for row in Delivery.objects.all()} == {"sent"}
