"""A bot that is told to stop: the calls under way are finished, none begins, and nothing is lost or counted."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async

from notifications import services
from notifications.delivery.bot import Bot
from notifications.management.commands import run_bot_subscriber
from notifications.models import Delivery
from notifications.transports import Address, Message, Transport
from realtime.redis.keys import Keys
from realtime.streams import StreamWorker
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import left_count, working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "slots")]


class Gated(Transport):
    """A transport that begins a call and waits for its gate."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(name="console")
        self.gate = asyncio.Event()
        self.begun: list[tuple[int, str]] = []
        self.sent: list[tuple[int, str]] = []
        self._addresses = addresses

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key=address) for address in self._addresses]

    async def send(self, message: Message, address: Address) -> str:
        self.begun.append((message.recipient.pk, address.key))
        await self.gate.wait()
        self.sent.append(self.begun[-1])
        return "taken"


@pytest.fixture
def slots(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {"BOT_CONCURRENCY": 1}


@pytest.fixture
def bot_on(redis_server: RedisServer, keys: Keys) -> Any:
    @asynccontextmanager
    async def run(transport: Transport) -> AsyncIterator[StreamWorker]:
        bot = Bot({"console": transport})
        async with working(
            redis_server.url, keys, bot, group="bot", batch_size=1, concurrency=8, on_stop=bot.stop
        ) as worker:
            yield worker

    return run


async def stop(worker: StreamWorker, transport: Gated) -> None:
    """Stop the bot, and then let the running call end."""
    stopping = asyncio.create_task(worker.stop(deadline_seconds=30.0))
    # As a signal does; nothing more is read from then on.
    await wait_until(lambda: worker._attempts._stopping.is_set())
    transport.gate.set()
    await stopping


async def test_no_further_address_is_sent_to(redis_client: redis.Redis, keys: Keys, bot_on: Any) -> None:
    """The outcome of the first address is recorded, other bots send the rest at once, and no attempt is counted."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Gated("one", "two", "three")
    async with bot_on(transport) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: transport.begun)
        await stop(worker, transport)
    assert transport.sent == [(alice.pk, "one")]
    row = await Delivery.objects.aget()
    assert (row.state, row.attempts, row.outcomes) == ("pending", 0, {"one": "sent"})
    assert "the bot is stopping" in row.answer
    assert left_count(redis_client, keys, "bot") == 1
    async with bot_on(transport) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert transport.sent == transport.begun == [(alice.pk, key) for key in ("one", "two", "three")]
    row = await Delivery.objects.aget()
    assert (row.state, row.attempts) == ("sent", 1)


async def test_deliveries_that_wait_for_a_slot_are_left_to_other_bots(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop takes as long as one call, for any number of them. No outage is logged."""
    users = await sync_to_async(make_users)(5)
    transport = Gated("home")
    async with bot_on(transport) as worker:
        await services.anotify(users, "Hello")
        await wait_until(lambda: transport.begun and worker.statistics().in_flight_count == 5)
        await stop(worker, transport)
    assert len(transport.begun) == len(transport.sent) == 1
    assert await Delivery.objects.filter(state="sent").acount() == 1
    assert left_count(redis_client, keys, "bot") == 4
    assert "is unavailable" not in caplog.text
    async with bot_on(transport) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 4)
    assert sorted(pk for pk, _ in transport.sent) == [user.pk for user in users]
    assert {(row.state, row.attempts) async for row in Delivery.objects.all()} == {("sent", 1)}


def test_the_deadline_is_as_long_as_a_call_in_a_thread_may_take(signalbox: Any) -> None:
    """It is longer than timeout_seconds, because the call cannot be interrupted and its result counts."""
    signalbox.NOTIFICATIONS = {"DELIVERY_CLAIM_SECONDS": 100.0}
    assert run_bot_subscriber._deadline_seconds(("relay", "bot")) == 80.0 + run_bot_subscriber.RECORD_SECONDS
    assert run_bot_subscriber._deadline_seconds(("relay",)) == run_bot_subscriber.DEADLINE_SECONDS
