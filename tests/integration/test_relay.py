"""The relay: from the stream to the recipient's group on any channel layer, in order, and recorded."""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer as CoreChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.db.backends.signals import connection_created

from notifications import services
from notifications.models import Event, Notification
from notifications.workers import relay as relay_module
from notifications.workers.relay import Relay
from realtime.exceptions import Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import dead_letters, pending_count, working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture(params=["ours", "pubsub", "core", "memory"])
async def layer(request: pytest.FixtureRequest, redis_server: RedisServer, keys: Keys) -> AsyncIterator[Any]:
    """Each channel layer that projects use. Its keys in Redis expire."""
    hosts = [{"address": redis_server.url, "socket_timeout": None, "protocol": 2}]
    prefix = f"{keys.prefix}asgi"
    if request.param == "ours":
        layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
    elif request.param == "pubsub":
        layer = RedisPubSubChannelLayer(hosts=hosts, prefix=prefix)
    elif request.param == "core":
        layer = CoreChannelLayer(hosts=hosts, prefix=prefix)
    else:
        layer = InMemoryChannelLayer()
    yield layer
    await layer.flush()
    if request.param == "core":
        await layer.close_pools()


@pytest.fixture
def relay_on() -> Iterator[Callable[[Any], Relay]]:
    """Makes relays on these channel layers; they are closed at the end."""
    with contextlib.ExitStack() as ends:
        yield lambda layer: ends.enter_context(contextlib.closing(Relay(layer)))


async def listen(layer: Any, user_id: int) -> str:
    """The channel of a consumer of Channels in the user's group."""
    channel: str = await layer.new_channel()
    await layer.group_add(f"user.{user_id}", channel)
    return channel


async def hear(layer: Any, channel: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        message: dict[str, Any] = await layer.receive(channel)
        return message


async def test_a_notification_reaches_the_recipients_group_and_no_other(
    layer: Any, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The message has the envelope. Then the notification is recorded as relayed, and the entry acked."""
    alice, bob = await sync_to_async(make_users)(2)
    hers, his = await listen(layer, alice.pk), await listen(layer, bob.pk)
    async with working(redis_server.url, keys, Relay(layer), group="relay"):
        await services.anotify(alice, "Your order is on its way – ütf", title="Order 7", url="/orders/7", data={"n": 1})
        message = await hear(layer, hers)
        await services.anotify(bob, "Yours too")
        assert json.loads((await hear(layer, his))["data"])["message"] == "Yours too"
        await wait_until(lambda: pending_count(redis_client, keys, "relay") == 0)
    assert (message["type"], message["topic"]) == ("realtime.message", f"user.{alice.pk}")
    envelope = redis_client.xrange(keys.stream("notifications"))[0][1][b"e"]
    assert message["data"] == envelope.decode()
    notification = await Notification.objects.aget(recipient=alice)
    assert notification.relayed_at is not None
    assert json.loads(message["data"])["id"] == notification.pk


async def test_the_notifications_of_each_user_arrive_in_order(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """With many users at a time, and across batches."""
    layer = InMemoryChannelLayer(capacity=1000)
    users = await sync_to_async(make_users)(30)
    channels = {user.pk: await listen(layer, user.pk) for user in users}
    for number in range(10):
        await services.anotify(users, str(number))
    async with working(redis_server.url, keys, Relay(layer), group="relay", batch_size=37) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 300)
    for channel in channels.values():
        heard = [json.loads((await hear(layer, channel))["data"])["message"] for _ in range(10)]
        assert heard == [str(number) for number in range(10)]
    assert not await Notification.objects.filter(relayed_at=None).aexists()


async def test_a_notification_that_was_deleted_meanwhile_is_sent(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The entry has everything that is needed. There is no row to update."""
    layer = InMemoryChannelLayer()
    (alice,) = await sync_to_async(make_users)(1)
    channel = await listen(layer, alice.pk)
    await services.anotify(alice, "Goodbye")
    await Event.objects.all().adelete()
    await alice.adelete()
    async with working(redis_server.url, keys, Relay(layer), group="relay") as worker:
        assert json.loads((await hear(layer, channel))["data"])["message"] == "Goodbye"
        await wait_until(lambda: worker.statistics().handled_count == 1)


async def test_a_malformed_entry_is_a_dead_letter_and_the_others_are_relayed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Any program can write to the stream. Each dead letter says what is wrong."""
    layer = InMemoryChannelLayer()
    (alice,) = await sync_to_async(make_users)(1)
    channel = await listen(layer, alice.pk)
    stream = keys.stream("notifications")
    await services.anotify(alice, "first")
    good = redis_client.xrange(stream)[0][1]
    redis_client.xadd(stream, {"hello": b"\xff"})
    redis_client.xadd(stream, {**good, b"u": b"no\xfftext"})
    redis_client.xadd(stream, {**good, b"e": b"{}"})
    await services.anotify(alice, "last")
    async with working(redis_server.url, keys, Relay(layer), group="relay") as worker:
        await wait_until(lambda: worker.statistics().dead_count == 3 and worker.statistics().handled_count == 2)
        heard = [json.loads((await hear(layer, channel))["data"])["message"] for _ in range(2)]
    assert heard == ["first", "last"]
    assert channel not in layer.channels, "more was sent"
    reasons = [(letter[b"_reason"], letter[b"_error"]) for letter in dead_letters(redis_client, keys, "relay")]
    assert reasons[0] == (b"rejected", b"the field n is missing")
    assert reasons[1] == (b"rejected", b"u is not the id of a user")
    assert reasons[2][1].startswith(b"e is not an envelope")


async def test_a_time_without_a_zone_keeps_no_entry_from_being_relayed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Only the latency is computed from it."""
    (alice,) = await sync_to_async(make_users)(1)
    await services.anotify(alice, "first")
    stream = keys.stream("notifications")
    id, entry = redis_client.xrange(stream)[0]
    redis_client.xdel(stream, id)
    naive = re.sub(rb'"created_at":"[^"]*"', b'"created_at":"2026-01-01T00:00:00"', entry[b"e"])
    redis_client.xadd(stream, {**entry, b"e": naive})
    async with working(redis_server.url, keys, Relay(InMemoryChannelLayer()), group="relay") as worker:
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert worker.statistics().retried_count == 0
    assert not await Notification.objects.filter(relayed_at=None).aexists()


def entries_for(*user_ids: int) -> list[Entry]:
    """One entry for each, as the outbox writes them."""
    rest = (
        b'"event_id":1,"kind":"info","title":"","message":"m","url":"","data":null,"created_at":"2026-01-01T00:00:00Z"}'
    )
    return [
        Entry(b"1-%d" % number, {b"n": b"%d" % number, b"u": b"%d" % user_id, b"e": b'{"id":%d,' % number + rest}, 1)
        for number, user_id in enumerate(user_ids, start=1)
    ]


class FlakyLayer(InMemoryChannelLayer):
    """A channel layer whose group_send can be made to fail for some users."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, Exception] = {}
        self.sent: list[str] = []

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group in self.failing:
            raise self.failing[group]
        self.sent.append(group)


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), ConnectionRefusedError(), TimeoutError()])
async def test_an_unavailable_channel_layer_is_an_outage_and_nothing_is_sent_twice(
    error: Exception, relay_on: Callable[[Any], Relay]
) -> None:
    """The worker calls again. Entries that were sent before are left out."""
    layer = FlakyLayer()
    relay = relay_on(layer)
    entries = entries_for(1, 2, 3, 2)
    layer.failing["user.2"] = error
    for _ in range(2):
        with pytest.raises(Unavailable):
            await relay(entries)
    assert layer.sent == ["user.1", "user.3"]
    layer.failing.clear()
    await relay(entries)
    assert layer.sent == ["user.1", "user.3", "user.2", "user.2"]


async def test_an_unavailable_database_is_an_outage_and_nothing_is_sent_twice(
    monkeypatch: pytest.MonkeyPatch, relay_on: Callable[[Any], Relay]
) -> None:
    """Only the record is tried again. An entry that is appended again later is sent again."""
    layer = FlakyLayer()
    relay = relay_on(layer)

    def fail(ids: list[int]) -> int:
        raise OperationalError("database is locked")

    with monkeypatch.context() as broken:
        broken.setattr(services, "mark_relayed", fail)
        for _ in range(3):
            with pytest.raises(Unavailable, match="database is locked"):
                await relay(entries_for(1, 2))
    assert layer.sent == ["user.1", "user.2"]
    await relay(entries_for(1, 2))
    assert layer.sent == ["user.1", "user.2"]
    await relay(entries_for(1, 2))
    assert layer.sent == ["user.1", "user.2"] * 2


async def test_batches_share_a_database_connection(relay_on: Callable[[Any], Relay]) -> None:
    """Opening one for each batch would take longer than the record itself."""
    opened: list[str] = []

    def note(**signal: object) -> None:
        opened.append(threading.current_thread().name)

    relay = relay_on(FlakyLayer())
    connection_created.connect(note)
    try:
        for _ in range(3):
            await relay(entries_for(1))
    finally:
        connection_created.disconnect(note)
    assert opened == ["relay_0"]


async def test_a_defect_of_the_layer_counts_as_a_failed_attempt(relay_on: Callable[[Any], Relay]) -> None:
    """Not as an outage: the entry must not be tried for ever, even if another one meets an outage at the same time."""
    layer = FlakyLayer()
    layer.failing = {"user.1": redis.ConnectionError("gone"), "user.2": ValueError("too large for this layer")}
    with pytest.raises(ValueError, match="too large"):
        await relay_on(layer)(entries_for(1, 2, 3))


async def test_a_layer_that_never_answers_is_an_outage(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, relay_on: Callable[[Any], Relay]
) -> None:
    """channels_redis has no timeout of its own: a paused Redis would hold the relay for ever."""
    monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 60.0)
    with RedisServer() as server:
        layer = CoreChannelLayer(hosts=[{"address": server.url, "socket_timeout": None}], prefix=f"{keys.prefix}asgi")
        relay = relay_on(layer)
        await layer.group_add("user.1", await layer.new_channel())
        server.pause()
        with monkeypatch.context() as impatient, pytest.raises(Unavailable):
            impatient.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 0.2)
            await relay(entries_for(1))
        server.resume()
        await relay(entries_for(1))
        await layer.close_pools()


@pytest.fixture
async def ours(redis_server: RedisServer, keys: Keys) -> AsyncIterator[RedisChannelLayer]:
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=f"{keys.prefix}asgi")
    yield layer
    await layer.flush()


async def test_through_our_layer_each_has_its_offset_and_is_kept(
    ours: RedisChannelLayer, relay_on: Callable[[Any], Relay]
) -> None:
    """In order for each user, in one round trip for all, and in the history of the user's topic."""
    channel = await listen(ours, 1)
    await relay_on(ours)(entries_for(1, 2, 1, 1))
    heard = [await hear(ours, channel) for _ in range(3)]
    assert [(each["topic"], each["offset"]) for each in heard] == [("user.1", 1), ("user.1", 2), ("user.1", 3)]
    assert [json.loads(each["data"])["id"] for each in heard] == [1, 3, 4]
    history = await ours._get_layer().read_history("user.1", after=0)
    assert (history.position.offset, len(history.frames)) == (3, 3)


async def test_a_relay_that_died_after_publishing_publishes_nothing_twice(
    ours: RedisChannelLayer, relay_on: Callable[[Any], Relay]
) -> None:
    """The relay that takes over publishes its entries under the same keys, which Redis remembers for five minutes."""
    channel = await listen(ours, 1)
    await relay_on(ours)(entries_for(1, 1))
    # Another process: it remembers nothing.
    await relay_on(ours)(entries_for(1, 1, 1))
    heard = [json.loads((await hear(ours, channel))["data"])["id"] for _ in range(3)]
    assert heard == [1, 2, 3]
    assert (await ours._get_layer().read_history("user.1", after=0)).position.offset == 3


async def test_our_layer_without_redis_is_an_outage(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, relay_on: Callable[[Any], Relay]
) -> None:
    """Killed or paused. When it is available again, everything is sent."""
    monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 60.0)
    with RedisServer(append_only=True) as server:
        layer = RedisChannelLayer(hosts=[server.url], prefix=f"{keys.prefix}asgi")
        relay = relay_on(layer)
        await relay(entries_for(1))
        for lose, bring_back in ((server.kill, server.start), (server.pause, server.resume)):
            lose()
            with monkeypatch.context() as impatient, pytest.raises(Unavailable):
                impatient.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 0.5)
                await relay(entries_for(1, 1, 2))
            bring_back()
            await relay(entries_for(1, 1, 2))
        assert (await layer._get_layer().read_history("user.1", after=0)).position.offset == 2
        await layer.flush()


async def test_without_a_channel_layer_the_relay_does_not_start(signalbox: Any) -> None:
    """The error says what is missing."""
    signalbox.CHANNEL_LAYERS = {}
    with pytest.raises(ImproperlyConfigured, match="CHANNEL_LAYERS"):
        Relay()
