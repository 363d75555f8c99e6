"""A mail server that accepts a limited rate, and refuses the rest with a code that looks permanent."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from notifications import services
from notifications.delivery.bot import Bot
from notifications.models import Delivery
from notifications.transports.email import EmailTransport
from realtime.redis.keys import Keys
from tests.support.domain import make_users
from tests.support.receivers import MailReceiver, mail_receiver
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
COUNT = 40
RATE = 10
REFUSAL = "550 5.7.0 too many messages, slow down"


class SlowMailServer(MailReceiver):
    """A server that accepts 20 recipients per second."""

    def __init__(self) -> None:
        super().__init__()
        self.times: deque[float] = deque()
        self.refused_count = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        now = time.monotonic()
        while self.times and self.times[0] < now - 1:
            self.times.popleft()
        if len(self.times) >= 2 * RATE:
            self.refused_count += 1
            return REFUSAL
        self.times.append(now)
        return await super().handle_RCPT(server, session, envelope, address, options)


@pytest.fixture
def server(signalbox: Any) -> Iterator[SlowMailServer]:
    with mail_receiver(SlowMailServer()) as server:
        signalbox.MAILERS = server.mailers
        yield server


def emailing(**entry: Any) -> dict[str, Any]:
    backend = "notifications.transports.email.EmailTransport"
    return {"TRANSPORTS": {"email": {"BACKEND": backend, **entry}}, "DEFAULT_TRANSPORTS": ["email"]}


async def mail_all(redis_server: RedisServer, keys: Keys) -> None:
    users = await sync_to_async(make_users)(COUNT)
    await User.objects.all().aupdate(email="x@example.com")
    bot = Bot({"email": EmailTransport(name="email")})
    async with working(redis_server.url, keys, bot, group="bot", batch_size=1, concurrency=bot.entries_limit) as worker:
        await services.anotify(users, "Hello")
        await wait_until(
            lambda: worker.statistics().handled_count + worker.statistics().dead_count == COUNT, seconds=120
        )


async def test_too_many_messages_are_tried_again(
    redis_server: RedisServer, keys: Keys, server: SlowMailServer, signalbox: Any
) -> None:
    """Messages that were refused because of their number wait for the next attempt. None fails for good."""
    signalbox.NOTIFICATIONS = emailing(CONCURRENCY=COUNT)
    await mail_all(redis_server, keys)
    states = [row.state async for row in Delivery.objects.all()]
    assert states.count("sent") == len(server.messages)
    assert states.count("pending") == server.refused_count == COUNT - len(server.messages)


async def test_a_rate_limit_avoids_refusals(
    redis_server: RedisServer, keys: Keys, server: SlowMailServer, signalbox: Any
) -> None:
    """All are sent in the first attempt, at the allowed rate."""
    signalbox.NOTIFICATIONS = emailing(RATE_PER_SECOND=RATE)
    began = time.monotonic()
    await mail_all(redis_server, keys)
    assert time.monotonic() - began >= (COUNT - 1) / RATE
    assert server.refused_count == 0
    assert {(row.state, row.attempts) async for row in Delivery.objects.all()} == {("sent", 1)}
