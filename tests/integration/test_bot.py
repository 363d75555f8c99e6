"""The bot: from the stream to the transports that a user wants, each delivery on its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import InterfaceError
from django.utils import timezone

from notifications import services
from notifications.delivery import changes, slots
from notifications.delivery.bot import Bot
from notifications.models import Delivery
from notifications.transports import Address, AddressGone, Message, Transport
from notifications.workers.recovery import refill
from realtime.exceptions import PermanentError, Retry, Unavailable
from realtime.redis.keys import Keys
from realtime.streams import Entry, StreamWorker
from realtime.streams.dead_letters import find, replay
from realtime.streams.keys import GroupKeys
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import dead_letters, pending_count, working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "three_transports")]


class Recording(Transport):
    """A transport that records its messages, and may fail."""

    def __init__(self, *, name: str, addresses: Iterable[str] = ("home",), timeout_seconds: float = 10.0) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        self.addresses = addresses
        self.sent: list[tuple[int, str, str]] = []
        self.messages: list[Message] = []
        # Raised one a call, before anything is sent; None lets the call pass.
        self.errors: list[Exception | None] = []
        self.gate: asyncio.Event | None = None

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key=address) for address in self.addresses]

    async def send(self, message: Message, address: Address) -> str:
        self.messages.append(message)
        if self.gate is not None:
            await self.gate.wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.sent.append((message.recipient.pk, message.texts.body, address.key))
        return f"taken by {address.key}"


@pytest.fixture
def three_transports(signalbox: Any) -> None:
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"a": backend, "b": backend, "c": backend},
        "DEFAULT_TRANSPORTS": ["a"],
        "DELIVERY_MAX_ATTEMPTS": 3,
        "DELIVERY_RETRY_SECONDS": 0.01,
    }


@pytest.fixture
def bot_on(redis_server: RedisServer, keys: Keys) -> Any:
    """A worker of the group `bot` with these transports."""

    @asynccontextmanager
    async def run(*transports: Transport, **options: Any) -> AsyncIterator[StreamWorker]:
        bot = Bot({transport.name: transport for transport in transports})
        options = {"batch_size": 1, "concurrency": 4, **options}
        async with working(redis_server.url, keys, bot, group="bot", **options) as worker:
            yield worker

    return run


async def states() -> dict[str, tuple[str, int]]:
    return {row.transport: (row.state, row.attempts) async for row in Delivery.objects.all()}


async def test_each_notification_goes_to_its_user(redis_client: redis.Redis, keys: Keys, bot_on: Any) -> None:
    """The entry is acked. The row has the provider's answer, the latency and the key."""
    alice, bob = await sync_to_async(make_users)(2)
    transport = Recording(name="a")
    async with bot_on(transport) as worker:
        await services.anotify([alice, bob], "Your order is on its way – ütf", title="Order 7", data={"order": 7})
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert sorted(transport.sent) == [(user.pk, "Your order is on its way – ütf", "home") for user in (alice, bob)]
    assert pending_count(redis_client, keys, "bot") == 0
    rows = {row.key.hex: row async for row in Delivery.objects.all()}
    assert {message.key for message in transport.messages} == set(rows)
    for message in transport.messages:
        row = rows[message.key]
        assert (row.state, row.answer, row.outcomes) == ("sent", "taken by home", {"home": "sent"})
        assert (message.notification.data, message.texts.subject, message.attempt) == ({"order": 7}, "Order 7", 1)
        assert row.latency_seconds is not None
        assert row.finished_at is not None


async def test_a_failing_delivery_neither_delays_nor_repeats_another(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, signalbox: Any
) -> None:
    """The entry is done after the first attempts. Later attempts are in the database."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DEFAULT_TRANSPORTS": ["a", "b", "c"]}
    (alice,) = await sync_to_async(make_users)(1)
    good, slow, bad = Recording(name="a"), Recording(name="b", timeout_seconds=0.05), Recording(name="c")
    slow.gate = asyncio.Event()
    bad.errors = [ConnectionRefusedError("no receiver")]
    async with bot_on(good, slow, bad) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert await states() == {"a": ("sent", 1), "b": ("pending", 1), "c": ("pending", 1)}
        answers = {row.transport: row.answer async for row in Delivery.objects.all()}
        assert (answers["b"], answers["c"]) == ("no answer in time", "ConnectionRefusedError: no receiver")
        slow.gate.set()
        # From now on it answers at once, which may take a busy machine longer than it had before.
        slow.timeout_seconds = 10.0
        await hand_out_again(redis_client, keys)
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert await states() == {"a": ("sent", 1), "b": ("sent", 2), "c": ("sent", 2)}
    assert len(good.sent) == len(slow.sent) == len(bad.sent) == 1
    assert len({message.key for message in slow.messages}) == 1


async def test_a_delivery_that_fails_is_in_its_row_alone(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """After its last attempt, or at once if the provider refuses it for good. The entry is done: no dead letter."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a")
    transport.errors = [PermanentError("550 no such user"), *[ConnectionRefusedError("no receiver")] * 3]
    async with bot_on(transport) as worker:
        await services.anotify(alice, "never")
        await wait_until(lambda: worker.statistics().handled_count == 1)
        await services.anotify(alice, "not in the end")
        for count in (2, 3, 4):
            await wait_until(lambda count=count: worker.statistics().handled_count == count)
            if count < 4:
                await hand_out_again(redis_client, keys)
        assert worker.statistics().dead_count == 0
    assert dead_letters(redis_client, keys, "bot") == []
    assert pending_count(redis_client, keys, "bot") == 0
    rows = [row async for row in Delivery.objects.order_by("pk")]
    assert [(row.state, row.attempts, row.answer, row.dead_letter) for row in rows] == [
        ("failed", 1, "550 no such user", ""),
        ("failed", 3, "given up after 3 attempts: ConnectionRefusedError: no receiver", ""),
    ]
    assert transport.sent == []
    logged = [record.getMessage() for record in caplog.records if record.name == "notifications.delivery.bot"]
    assert logged == [f"delivery {row.pk} by a failed: {row.answer}" for row in rows]


async def test_a_failed_delivery_is_sent_again_from_its_row(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, signalbox: Any
) -> None:
    """Under its old key; the delivery on the other transport is not repeated."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DEFAULT_TRANSPORTS": ["a", "b"]}
    (alice,) = await sync_to_async(make_users)(1)
    good, healed = Recording(name="a"), Recording(name="b")
    healed.errors = [PermanentError("403 not yet")]
    async with bot_on(good, healed) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert await states() == {"a": ("sent", 1), "b": ("failed", 1)}
        assert await sync_to_async(changes.reopen)(Delivery.objects.all()) == 1
        await hand_out_again(redis_client, keys, g="bot")
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert await states() == {"a": ("sent", 1), "b": ("sent", 1)}
    assert (len(good.sent), len(healed.sent)) == (1, 1)
    assert len({message.key for message in healed.messages}) == 1
    assert dead_letters(redis_client, keys, "bot") == []


class EarlierBot(Bot):
    """A bot of the releases in which a failed delivery made its entry a dead letter."""

    async def __call__(self, entries: Sequence[Entry]) -> None:
        await super().__call__(entries)
        for entry in entries:
            failed = Delivery.objects.filter(state="failed", dead_letter="")
            if await failed.aupdate(dead_letter=entry.id.decode()):
                raise PermanentError("b: 403 not yet")


@pytest.mark.parametrize("is_sent_again_first", [False, True])
async def test_a_dead_letter_of_an_earlier_release_is_replayed(
    is_sent_again_first: bool, redis_client: redis.Redis, redis_server: RedisServer, keys: Keys, signalbox: Any
) -> None:
    """It sends the delivery that failed with it, or nothing if that was sent again from its row before."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DEFAULT_TRANSPORTS": ["a", "b"]}
    (alice,) = await sync_to_async(make_users)(1)
    good, healed = Recording(name="a"), Recording(name="b")
    healed.errors = [PermanentError("403 not yet")]
    transports = {"a": good, "b": healed}
    async with working(redis_server.url, keys, EarlierBot(transports), group="bot", batch_size=1) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().dead_count == 1)
    group_keys = GroupKeys(keys.stream("notifications"), "bot")
    async with working(redis_server.url, keys, Bot(transports), group="bot", batch_size=1) as worker:
        if is_sent_again_first:
            assert await sync_to_async(changes.reopen)(Delivery.objects.all()) == 1
            await hand_out_again(redis_client, keys, g="bot")
            await wait_until(lambda: worker.statistics().handled_count == 1)
        handled_count = worker.statistics().handled_count
        (letters,) = await sync_to_async(lambda: list(find(redis_client, group_keys)))()
        assert await sync_to_async(replay)(redis_client, group_keys, letters) == 1
        await wait_until(lambda: worker.statistics().handled_count == handled_count + 1)
    assert (len(good.sent), len(healed.sent)) == (1, 1)
    assert len({message.key for message in healed.messages}) == 1
    assert [row.state async for row in Delivery.objects.all()] == ["sent", "sent"]
    assert dead_letters(redis_client, keys, "bot") == []


@pytest.mark.parametrize(
    ("after_seconds", "least", "most"),
    [
        (-5.0, -1, 300),
        (120.0, 119, 600),
        (9_000.0, 3_599, 4_200),
        (float("inf"), 3_599, 4_200),
        (float("nan"), 4_999, 11_000),
    ],
)
async def test_a_provider_decides_when_to_try_again(
    bot_on: Any, signalbox: Any, after_seconds: float, least: float, most: float
) -> None:
    """With Retry-After, up to an hour. If it asks for no time, the settings decide, and they may wait for longer."""
    schedule = {"DELIVERY_RETRY_SECONDS": 10_000.0, "DELIVERY_RETRY_LIMIT_SECONDS": 10_000.0}
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, **schedule}
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a")
    transport.errors = [Retry(after_seconds, "429 slow down")]
    async with bot_on(transport) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    row = await Delivery.objects.aget()
    assert (row.state, row.attempts, row.answer) == ("pending", 1, "429 slow down")
    assert row.due_at is not None
    assert least < (row.due_at - row.created_at).total_seconds() < most


async def test_an_outage_of_one_transport_does_not_delay_another(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, signalbox: Any
) -> None:
    """It does not count as an attempt, and the entry does not wait for the end of the outage."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DEFAULT_TRANSPORTS": ["a", "b"]}
    (alice,) = await sync_to_async(make_users)(1)
    well, away = Recording(name="a"), Recording(name="b")
    away.errors = [InterfaceError("gone"), redis.ConnectionError("gone"), Unavailable("the vault is locked")]
    async with bot_on(well, away) as worker:
        await services.anotify(alice, "Hello")
        for attempt in (1, 2, 3):
            await wait_until(lambda count=attempt: worker.statistics().handled_count == count)
            assert (await states())["b"] == ("pending", 0)
            await hand_out_again(redis_client, keys)
        await wait_until(lambda: worker.statistics().handled_count == 4)
    assert await states() == {"a": ("sent", 1), "b": ("sent", 1)}
    assert (len(well.sent), len(away.sent)) == (1, 1)


async def test_a_suspended_bot_does_not_send_what_another_has_claimed(
    bot_on: Any, signalbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended between its claim and the call of the provider, for longer than the claim lasts."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DELIVERY_CLAIM_SECONDS": 0.5}
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a", timeout_seconds=0.1)
    find_addresses = transport.find_addresses

    def stand_still(recipient: Any) -> Iterable[Address]:
        # In the middle of that another one finds the claim lapsed.
        time.sleep(0.5)
        Delivery.objects.update(holder="another")
        return find_addresses(recipient)

    monkeypatch.setattr(transport, "find_addresses", stand_still)
    async with bot_on(transport) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert transport.messages == []
    row = await Delivery.objects.aget()
    assert (row.state, row.holder) == ("sending", "another")


async def test_each_address_is_sent_to_once(redis_client: redis.Redis, keys: Keys, bot_on: Any) -> None:
    """An attempt continues where the last one stopped. An address that no longer exists is not a failure."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a", addresses=["one", "two", "three"])
    transport.errors = [None, ConnectionResetError("in the middle"), AddressGone("410")]
    async with bot_on(transport) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert await states() == {"a": ("pending", 1)}
        await hand_out_again(redis_client, keys)
        await wait_until(lambda: worker.statistics().handled_count == 2)
    row = await Delivery.objects.aget()
    assert (row.state, row.outcomes) == ("sent", {"one": "sent", "two": "sent", "three": "gone"})
    assert [address for _, _, address in transport.sent] == ["one", "two"]


async def test_a_delivery_without_an_address_is_skipped(bot_on: Any, signalbox: Any) -> None:
    """Also if the project no longer has the transport. The row has the reason."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "DEFAULT_TRANSPORTS": ["a", "b", "c"]}
    (alice,) = await sync_to_async(make_users)(1)
    gone = Recording(name="b")
    gone.errors = [AddressGone("410 Gone")]
    async with bot_on(Recording(name="a", addresses=[]), gone) as worker:
        await services.anotify(alice, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert {row.transport: (row.state, row.answer) async for row in Delivery.objects.all()} == {
        "a": ("skipped", "the recipient has no address for it, or is not active"),
        "b": ("skipped", "410 Gone"),
        "c": ("skipped", "the project no longer has this transport"),
    }


async def test_preferences_decide_about_transports(bot_on: Any) -> None:
    """A preference applies to its user and kind only."""
    alice, bob = await sync_to_async(make_users)(2)
    await sync_to_async(services.set_preference)(alice.pk, "order.shipped", "a", False)
    await sync_to_async(services.set_preference)(alice.pk, "order.shipped", "b", True)
    a, b = Recording(name="a"), Recording(name="b")
    async with bot_on(a, b) as worker:
        await services.anotify([alice, bob], "shipped", kind="order.shipped")
        await services.anotify(alice, "other")
        await wait_until(lambda: worker.statistics().handled_count == 3)
    assert sorted(a.sent) == [(alice.pk, "other", "home"), (bob.pk, "shipped", "home")]
    assert b.sent == [(alice.pk, "shipped", "home")]


async def test_a_slow_receiver_does_not_hold_up_the_others(bot_on: Any) -> None:
    """Messages are sent concurrently, as many as there are slots."""
    users = await sync_to_async(make_users)(20)
    transport = Recording(name="a")
    gate = asyncio.Event()
    send = transport.send

    async def send_slowly(message: Message, address: Address) -> str:
        if message.recipient.pk == users[0].pk:
            await gate.wait()
        return await send(message, address)

    transport.send = send_slowly  # type: ignore[method-assign]
    async with bot_on(transport, concurrency=2) as worker:
        await services.anotify(users, "Hello")
        await wait_until(lambda: sorted(pk for pk, _, _ in transport.sent) == [user.pk for user in users[1:]])
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 20)
    assert len(transport.sent) == 20


async def test_a_slow_transport_does_not_hold_up_another(
    redis_client: redis.Redis, keys: Keys, bot_on: Any, signalbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own slots. A delivery that gets none in time is postponed, unclaimed and uncounted."""
    monkeypatch.setattr(slots, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(slots, "SATURATED_SECONDS", 0.0)
    signalbox.NOTIFICATIONS = {
        **signalbox.NOTIFICATIONS,
        "DEFAULT_TRANSPORTS": ["a", "b"],
        "BOT_CONCURRENCY": 2,
        "DELIVERY_RETRY_SECONDS": 3600,
    }
    users = await sync_to_async(make_users)(40)
    quick, slow = Recording(name="a"), Recording(name="b")
    slow.gate = asyncio.Event()
    async with bot_on(quick, slow, concurrency=10) as worker:
        await services.anotify(users, "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 38)
        assert sorted(pk for pk, _, _ in quick.sent) == [user.pk for user in users]
        assert len(slow.messages) == 2
        slow.gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 40)
        monkeypatch.setattr(slots, "WAIT_SECONDS", 10.0)
        waiting = Delivery.objects.filter(transport="b", state="pending", attempts=0, answer="waits for a free slot")
        assert await waiting.acount() == 38
        await waiting.aupdate(due_at=timezone.now())
        assert await sync_to_async(refill)() == 38
        await wait_until(lambda: worker.statistics().handled_count == 78)
    assert sorted(pk for pk, _, _ in slow.sent) == [user.pk for user in users]
    assert len(quick.sent) == 40
    assert {row.attempts async for row in Delivery.objects.all()} == {1}


async def test_a_delivery_that_waits_for_a_slot_is_not_claimed(bot_on: Any, signalbox: Any) -> None:
    """If this bot ends, another may send it at once. Only deliveries that are being sent are claimed."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "BOT_CONCURRENCY": 2}
    users = await sync_to_async(make_users)(6)
    transport = Recording(name="a")
    transport.gate = asyncio.Event()
    async with bot_on(transport, concurrency=6) as worker:
        await services.anotify(users, "Hello")
        await wait_until(lambda: worker.statistics().in_flight_count == 6 and len(transport.messages) == 2)
        assert await Delivery.objects.filter(state="sending").acount() == 2
        transport.gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 6)
    assert sorted(pk for pk, _, _ in transport.sent) == [user.pk for user in users]
    assert {row.attempts async for row in Delivery.objects.all()} == {1}


async def test_the_notifications_of_one_user_are_sent_in_order(bot_on: Any) -> None:
    """Although many are sent concurrently."""
    users = await sync_to_async(make_users)(5)
    transport = Recording(name="a")
    async with bot_on(transport, concurrency=20, order_field="u") as worker:
        for number in range(10):
            await services.anotify(users, str(number))
        await wait_until(lambda: worker.statistics().handled_count == 50)
    for user in users:
        assert [body for pk, body, _ in transport.sent if pk == user.pk] == [str(number) for number in range(10)]


@pytest.mark.parametrize("fields", [{"u": "nobody's number"}, {"e": "{}"}, {"n": "0"}])
async def test_a_malformed_entry_is_a_dead_letter_at_once(
    fields: dict[str, str], redis_client: redis.Redis, keys: Keys, bot_on: Any
) -> None:
    """Nothing is sent for it. The next entry is handled."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a")
    await services.anotify(alice, "good")
    await hand_out_again(redis_client, keys, **fields)
    await services.anotify(alice, "good too")
    async with bot_on(transport) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1 and worker.statistics().handled_count == 2)
    assert sorted(body for _, body, _ in transport.sent) == ["good", "good too"]
    assert dead_letters(redis_client, keys, "bot")[0][b"_reason"] == b"rejected"


async def test_a_user_deleted_meanwhile_is_not_sent_to(bot_on: Any) -> None:
    """The notification is deleted with the user."""
    (alice,) = await sync_to_async(make_users)(1)
    transport = Recording(name="a")
    await services.anotify(alice, "Goodbye")
    await User.objects.all().adelete()
    async with bot_on(transport) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert transport.sent == []


async def hand_out_again(client: redis.Redis, keys: Keys, **fields: str) -> None:
    """Append the last entry again, as the sweep does when a delivery is due."""
    _, last = client.xrevrange(keys.stream("notifications"), count=1)[0]
    await wait_until(_is_due)
    client.xadd(keys.stream("notifications"), {**{name.decode(): value for name, value in last.items()}, **fields})


async def _is_due() -> bool:
    return not await Delivery.objects.filter(state="pending", due_at__gt=timezone.now()).aexists()
