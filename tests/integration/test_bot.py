"""The bot: from the stream to `send_message(user_id, message)`."""

import asyncio
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import InterfaceError

from notifications import services
from notifications.bot import Bot
from realtime.keys import Keys
from tests.domain import make_users
from tests.redis_server import RedisServer
from tests.streams import dead_letters, pending_count, working
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


class Outbox:
    """A transport that remembers, and may fail."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, str]] = []
        self.errors: list[Exception] = []

    async def __call__(self, user_id: Any, message: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((user_id, message))


async def test_each_notification_is_sent_to_its_user(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """With the key of the user in its own type, and the message's text; then it is acked."""
    alice, bob = await sync_to_async(make_users)(2)
    send = Outbox()
    async with working(redis_server.url, keys, Bot(send), group="bot", batch_size=1, concurrency=4) as worker:
        await services.anotify([alice, bob], "Your order is on its way – ütf", title="not in the message")
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert sorted(send.sent) == [(user.pk, "Your order is on its way – ütf") for user in (alice, bob)]
    assert pending_count(redis_client, keys, "bot") == 0


async def test_a_slow_receiver_does_not_hold_up_the_others(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Messages are sent at the same time, as many as there are slots."""
    users = await sync_to_async(make_users)(20)
    gate = asyncio.Event()
    sent: list[int] = []

    async def send(user_id: int, message: str) -> None:
        if user_id == users[0].pk:
            await gate.wait()
        sent.append(user_id)

    async with working(redis_server.url, keys, Bot(send), group="bot", batch_size=1, concurrency=2) as worker:
        await services.anotify(users, "Hello")
        await wait_until(lambda: sorted(sent) == [user.pk for user in users[1:]])
        assert worker.statistics().in_flight_count == 1
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 20)


async def test_outages_do_not_count_as_attempts_and_failures_do(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The database may be away for long; a receiver that refuses is given up in the end."""
    (alice,) = await sync_to_async(make_users)(1)
    send = Outbox()
    async with working(redis_server.url, keys, Bot(send), group="bot", batch_size=1, max_attempts=3) as worker:
        send.errors = [InterfaceError("gone"), redis.ConnectionError("gone")] * 5
        await services.anotify(alice, "in the end")
        await wait_until(lambda: send.sent == [(alice.pk, "in the end")])
        send.errors = [ConnectionRefusedError("no receiver")] * 3
        await services.anotify(alice, "never")
        await wait_until(lambda: worker.statistics().dead_count == 1)
    (letter,) = dead_letters(redis_client, keys, "bot")
    assert (letter[b"_attempts"], letter[b"_error"]) == (b"3", b"ConnectionRefusedError: no receiver")


@pytest.mark.parametrize("fields", [{"u": "nobody's number"}, {"e": "{}"}, {"n": "0"}])
async def test_a_malformed_entry_is_a_dead_letter_at_once(
    fields: dict[str, str], redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Nothing is sent for it, and the next one is."""
    (alice,) = await sync_to_async(make_users)(1)
    send = Outbox()
    await services.anotify(alice, "good")
    good = {name.decode(): value for name, value in redis_client.xrange(keys.stream("notifications"))[0][1].items()}
    redis_client.xadd(keys.stream("notifications"), {**good, **fields})
    await services.anotify(alice, "good too")
    async with working(redis_server.url, keys, Bot(send), group="bot", batch_size=1) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1 and worker.statistics().handled_count == 2)
    assert send.sent == [(alice.pk, "good"), (alice.pk, "good too")]
    assert dead_letters(redis_client, keys, "bot")[0][b"_reason"] == b"rejected"


async def test_a_user_deleted_meanwhile_is_still_sent_to(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The bot asks the database nothing; a transport decides what to do about it."""
    (alice,) = await sync_to_async(make_users)(1)
    user_id = alice.pk
    send = Outbox()
    await services.anotify(alice, "Goodbye")
    await User.objects.all().adelete()
    async with working(redis_server.url, keys, Bot(send), group="bot", batch_size=1):
        await wait_until(lambda: send.sent == [(user_id, "Goodbye")])
