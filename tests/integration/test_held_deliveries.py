"""Deliveries on a machine that is not to reach people: held, printed, or for some people alone."""

from collections.abc import Iterable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.delivery.bot import Bot
from notifications.events import prune
from notifications.models import Delivery, Digest
from notifications.statistics.rows import read_rows
from notifications.transports import Address, Message, Transport
from notifications.workers.recovery import refill
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
EMAIL = "notifications.transports.email.EmailTransport"
CONSOLE = "notifications.transports.console.ConsoleTransport"
LIST = "/admin/notifications/delivery/"


class Recording(Transport):
    """A transport that records the recipients of its messages."""

    def __init__(self) -> None:
        super().__init__(name="email")
        self.sent: list[Any] = []

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="1")]

    async def send(self, message: Message, address: Address) -> str:
        self.sent.append(message.recipient.pk)
        return "taken"


@pytest.fixture
def deliver(signalbox: Any) -> Any:
    def set_delivery(delivery: Any, **more: Any) -> None:
        signalbox.NOTIFICATIONS = {
            "TRANSPORTS": {"email": {"BACKEND": EMAIL}},
            "DEFAULT_TRANSPORTS": ["email"],
            "BASE_URL": "https://shop.example",
            "DELIVERY": delivery,
            **more,
        }

    return set_delivery


async def states() -> list[str]:
    return [row.state async for row in Delivery.objects.order_by("pk")]


async def test_a_held_delivery_waits_until_it_is_released(
    redis_server: RedisServer, keys: Keys, alice: User, deliver: Any, admin_client: Client
) -> None:
    """Also retries that were due when a production database was copied. After the release it is sent once."""
    deliver("hold")
    transport = Recording()
    copied = await sync_to_async(services.notify)(alice, "from production")
    notification = await copied.notifications.aget()
    await Delivery.objects.acreate(notification=notification, transport="email", state="sending", attempts=3)
    await copied.notifications.aupdate(dispatched_at=timezone.now())
    async with working(redis_server.url, keys, Bot({"email": transport}), group="bot", order_field="u") as worker:
        await services.anotify(alice, "from here")
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert await states() == ["held", "held"]
        assert await sync_to_async(refill)(100) == 0
        for url in ("", "?state__exact=held"):
            text = await sync_to_async(page)(admin_client, f"{LIST}{url}")
            assert text.count(">held</span>") == 2
        assert [row.unfinished for row in (await sync_to_async(read_rows)("hour")).transports] == [2]
        assert await sync_to_async(prune.count_old)(timezone.now()) == 0
        chosen = [row.pk async for row in Delivery.objects.all()]
        form = {"action": "release", "_selected_action": chosen}
        answer = await sync_to_async(admin_client.post)(LIST, form, follow=True)
        assert "They would be held again at once" in answer.content.decode()
        with pytest.raises(CommandError, match='is "hold"'):
            await sync_to_async(call_command)("release_deliveries")
        deliver("send")
        answer = await sync_to_async(admin_client.post)(LIST, form, follow=True)
        assert "2 held deliveries are sent within seconds" in answer.content.decode()
        await sync_to_async(refill)(100)
        await wait_until(lambda: len(transport.sent) == 2)
        await wait_until(lambda: worker.statistics().handled_count == 4)
    assert await states() == ["sent", "sent"]


async def test_only_users_on_the_list_get_messages(
    redis_server: RedisServer, keys: Keys, alice: User, bob: User, deliver: Any
) -> None:
    """By email address or domain, on any transport. Deliveries to other users are held."""
    await User.objects.filter(pk=alice.pk).aupdate(email="Alice@Example.com")
    await User.objects.filter(pk=bob.pk).aupdate(email="bob@notexample.com")
    nobody = await User.objects.acreate(username="nobody")
    deliver(["@example.com", "carol@other.example"])
    transport = Recording()
    async with working(redis_server.url, keys, Bot({"email": transport}), group="bot") as worker:
        await services.anotify([alice, bob, nobody], "Hello")
        await wait_until(lambda: worker.statistics().handled_count == 3)
        assert transport.sent == [alice.pk]
        deliver(["BOB@notexample.com"])
        await sync_to_async(call_command)("release_deliveries", transport="email")
        await sync_to_async(refill)(100)
        await wait_until(lambda: worker.statistics().handled_count == 5)
    assert transport.sent == [alice.pk, bob.pk]
    assert sorted(await states()) == ["held", "sent", "sent"]


async def test_console_prints_instead_of_using_any_transport(
    redis_server: RedisServer, keys: Keys, alice: User, deliver: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """SEND_MESSAGE is not called, and no address is needed."""
    deliver("console", SEND_MESSAGE="tests.support.transports.hang")
    async with working(redis_server.url, keys, Bot(), group="bot") as worker:
        await services.anotify(alice, "Hello", url="/a")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert capfd.readouterr().out == f"user {alice.pk}: [email] Hello\\n\\nhttps://shop.example/a\n"
    row = await Delivery.objects.aget()
    assert (row.state, row.answer) == ("sent", 'printed and not sent: NOTIFICATIONS["DELIVERY"] is "console"')


async def test_a_held_delivery_that_is_replaced_is_not_sent(
    redis_server: RedisServer, keys: Keys, alice: User, deliver: Any
) -> None:
    """It is skipped at once."""
    deliver("hold")
    async with working(redis_server.url, keys, Bot({"email": Recording()}), group="bot", order_field="u") as worker:
        for text in ("1", "2"):
            await services.anotify(alice, text, collapse_key="x")
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert await states() == ["skipped", "held"]


async def test_a_digest_is_held_and_released_as_a_whole(
    redis_server: RedisServer, keys: Keys, alice: User, deliver: Any
) -> None:
    """It is sent as one message."""
    deliver("hold")
    transport = Recording()
    now = timezone.now()
    digest = await Digest.objects.acreate(recipient=alice, kind="info", transport="email", ends_at=now)
    for text in ("1", "2"):
        event = await sync_to_async(services.notify)(alice, text)
        notification = await event.notifications.aget()
        await Delivery.objects.acreate(notification=notification, transport="email", digest=digest)
        await event.notifications.aupdate(dispatched_at=now)
    async with working(redis_server.url, keys, Bot({"email": transport}), group="bot", order_field="u") as worker:
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert await states() == ["held", "held"]
        deliver("send")
        await sync_to_async(call_command)("release_deliveries")
        await sync_to_async(refill)(100)
        await wait_until(lambda: worker.statistics().handled_count >= 3)
    assert transport.sent == [alice.pk]
    assert await states() == ["sent", "sent"]


def test_releasing_needs_the_permission_to_send_again(alice: User, deliver: Any) -> None:
    """Staff who may only view deliveries do not have the action."""
    deliver("hold")
    notification = services.notify(alice, "Hello").notifications.get()
    Delivery.objects.create(notification=notification, transport="email", state="held", due_at=None)
    assert "Release held deliveries" not in page(make_staff("view_delivery"), LIST)
    assert "Release held deliveries" in page(make_staff("view_delivery", "resend_delivery"), LIST)


def test_a_check_warns_of_real_transports_in_development(settings: Any, deliver: Any) -> None:
    """Not if no people are reached: because of DELIVERY, a mail backend that sends nothing, or the console."""
    settings.DEBUG = True
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}
    deliver("send")
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.W004" and "email reaches real people" in message.msg
    for delivery in ("hold", "console", ["@example.com"]):
        deliver(delivery)
        assert run_checks(tags=["notifications"]) == []
    console = {"TRANSPORTS": {"console": {"BACKEND": CONSOLE}}, "DEFAULT_TRANSPORTS": []}
    deliver("send", SEND_MESSAGE="tests.support.transports.hang", **console)
    assert [message.id for message in run_checks(tags=["notifications"])] == ["notifications.W004"]
    deliver("send", **console)
    assert run_checks(tags=["notifications"]) == []
    deliver("send")
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}
    assert run_checks(tags=["notifications"]) == []
    settings.DEBUG = False
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}
    assert run_checks(tags=["notifications"]) == []


@pytest.mark.parametrize("wrong", ["off", 7, ["alice"], [7]])
def test_what_cannot_be_is_refused(deliver: Any, wrong: Any) -> None:
    """When the process starts: a misspelt "hold" must not send."""
    deliver(wrong)
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.E001" and 'NOTIFICATIONS["DELIVERY"]' in message.msg
