"""What holds for every transport: how long a call is waited for, and to which addresses it goes."""

import asyncio
import base64
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from django.contrib.auth.models import User

from notifications import services
from notifications.delivery.bot import Bot
from notifications.models import Delivery, Destination, PushSubscription
from notifications.transports import Address, Message, Transport
from notifications.transports.apprise import AppriseTransport
from notifications.transports.base import ADDRESS_LIMIT
from notifications.transports.console import ConsoleTransport
from notifications.transports.email import EmailTransport
from notifications.transports.webhook import WebhookTransport
from notifications.transports.webpush import WebPushTransport
from realtime.redis.keys import Keys
from tests.support.messages import message
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
SERVICES = [f"json://chat.example/{number}" for number in range(ADDRESS_LIMIT)]
VAPID = base64.urlsafe_b64encode(bytes(range(1, 33))).decode()
ALL = [
    ConsoleTransport(name="console"),
    EmailTransport(name="email"),
    WebhookTransport(name="webhook", url="https://shop.example/hook", secret=SECRET),
    AppriseTransport(name="chat", urls=SERVICES),
    WebPushTransport(name="push", private_key=VAPID, subject="mailto:ops@example.com"),
]
MESSAGE = message()


class InThread(Transport):
    """Sends in a thread, once the gate is open."""

    def __init__(self) -> None:
        super().__init__(name="console", timeout_seconds=0.05)
        self.gate = threading.Event()

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="1")]

    async def send(self, message: Message, address: Address) -> str:
        await self.in_thread(self.gate.wait, 30)
        # What comes after the thread is not cut off either.
        await asyncio.sleep(0)
        return "taken, late"


class Numbered(Transport):
    """A transport with the project's address, and as many addresses as a user can have."""

    def __init__(self) -> None:
        super().__init__(name="console")
        self.sent: list[tuple[int, str]] = []

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key=str(number)) for number in range(ADDRESS_LIMIT + 1)]

    async def send(self, message: Message, address: Address) -> str:
        self.sent.append((message.recipient.pk, address.key))
        return "taken"


@pytest.mark.usefixtures("signalbox")
async def test_the_result_of_a_late_call_in_a_thread_counts(redis_server: RedisServer, keys: Keys, alice: User) -> None:
    """Otherwise it would run beside the next attempt, and both would send."""
    slow = InThread()
    async with working(redis_server.url, keys, Bot({"console": slow}), group="bot") as worker:
        await services.anotify(alice, "Hello")
        asyncio.get_running_loop().call_later(4 * slow.timeout_seconds, slow.gate.set)
        await wait_until(lambda: worker.statistics().handled_count == 1)
    row = await Delivery.objects.aget()
    assert (row.state, row.attempts, row.answer) == ("sent", 1, "taken, late")


async def test_a_call_in_a_thread_times_out_before_its_claim_lapses(signalbox: Any) -> None:
    """After that, another bot may claim the delivery."""
    signalbox.NOTIFICATIONS = {"DELIVERY_CLAIM_SECONDS": 0.4}
    slow = InThread()
    started = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await slow.send_in_time(MESSAGE, Address(key="1"))
    assert asyncio.get_running_loop().time() - started > 0.3
    slow.gate.set()


async def test_a_bot_that_stops_does_not_wait_for_it() -> None:
    """Its claim lapses, and the thread ends with the process."""
    slow = InThread()
    call = asyncio.create_task(slow.send_in_time(MESSAGE, Address(key="1")))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)
    slow.gate.set()


async def test_an_async_call_is_cancelled_in_time() -> None:
    """At its own timeout."""

    class Hanging(InThread):
        async def send(self, message: Message, address: Address) -> str:
            await asyncio.Event().wait()
            return "never"

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Hanging().send_in_time(MESSAGE, Address(key="1")), 5)


@pytest.mark.parametrize("transport", ALL, ids=lambda transport: transport.name)
def test_an_inactive_user_has_no_addresses(alice: User, transport: Transport) -> None:
    """Not even the project's own addresses are used."""
    alice.email = "alice@example.com"
    PushSubscription.objects.create(user=alice, endpoint="https://push.example/", p256dh="x", auth="x")
    assert transport.addresses_of(alice)
    alice.is_active = False
    assert transport.addresses_of(alice) == []


@pytest.mark.parametrize(("name", "address"), [("webhook", "https://{}.example/"), ("chat", "tgram://1:abc/{}/")])
def test_the_projects_addresses_do_not_count_towards_a_users_limit(alice: User, name: str, address: str) -> None:
    """For any number of them."""
    (transport,) = [transport for transport in ALL if transport.name == name]
    projects = len(transport.addresses_of(alice))
    for number in range(ADDRESS_LIMIT):
        Destination.objects.create(user=alice, transport=name, address=address.format(number), secret=SECRET)
    assert len(transport.addresses_of(alice)) == projects + ADDRESS_LIMIT


@pytest.mark.usefixtures("signalbox")
async def test_the_bot_uses_these_addresses(redis_server: RedisServer, keys: Keys, alice: User, bob: User) -> None:
    """All addresses of active users."""
    await User.objects.filter(pk=bob.pk).aupdate(is_active=False)
    transport = Numbered()
    async with working(redis_server.url, keys, Bot({"console": transport}), group="bot") as worker:
        await services.anotify([alice, bob], "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert transport.sent == [(alice.pk, str(number)) for number in range(ADDRESS_LIMIT + 1)]
    rows = {row.notification.recipient_id: row async for row in Delivery.objects.select_related("notification")}
    assert (rows[alice.pk].state, rows[bob.pk].state) == ("sent", "skipped")
    assert rows[bob.pk].answer == "the recipient has no address for it, or is not active"
