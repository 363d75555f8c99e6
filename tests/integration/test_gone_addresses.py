"""Addresses that no longer exist, as their provider says: they are disabled, and owner and staff can see it."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client

from notifications import services
from notifications.delivery.bot import Bot
from notifications.models import Delivery, Destination
from notifications.signals import address_gone
from notifications.transports.webhook import WebhookTransport
from realtime.redis.keys import Keys
from tests.support.receivers import HttpReceiver, Reply, http_receiver
from tests.support.redis_server import RedisServer
from tests.support.staff import page
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("webhooks")]
COUNT = 60


@pytest.fixture
def webhooks(signalbox: Any) -> None:
    options = {"allow_private": True}
    backend = {"BACKEND": "notifications.transports.webhook.WebhookTransport", "OPTIONS": options}
    signalbox.NOTIFICATIONS = {"TRANSPORTS": {"webhook": backend}, "DEFAULT_TRANSPORTS": ["webhook"]}


@pytest.fixture
def server() -> Iterator[HttpReceiver]:
    with http_receiver() as server:
        server.reply = Reply(status=410)
        yield server


async def test_a_receiver_that_answers_410_is_called_once(
    redis_server: RedisServer, keys: Keys, alice: User, server: HttpReceiver, admin_client: Client
) -> None:
    """For any number of deliveries. There is no dead letter, the project gets a signal, and staff see the reason."""
    told: list[dict[str, Any]] = []

    def tell(**said: Any) -> None:
        told.append(said)

    address_gone.connect(tell)
    destination = await sync_to_async(services.add_destination)(alice.pk, "webhook", server.url)
    for number in range(COUNT):
        await services.anotify(alice, f"Hello {number}")
    bot = Bot({"webhook": WebhookTransport(name="webhook", allow_private=True)})
    async with working(redis_server.url, keys, bot, group="bot", order_field="u", concurrency=20) as worker:
        await wait_until(lambda: worker.statistics().handled_count == COUNT, seconds=60)
        assert worker.statistics().dead_count == 0
    address_gone.disconnect(tell)
    assert len(server.requests) == 1
    assert {row.state async for row in Delivery.objects.all()} == {"skipped"}
    first = await Delivery.objects.order_by("pk").afirst()
    assert first is not None and first.answer == "410 Gone: thanks (the address is disabled)"
    (said,) = told
    assert (said["sender"], said["address"], said["user_id"]) == (Destination, destination, alice.pk)
    assert (said["transport"], said["reason"]) == ("webhook", "410 Gone: thanks")
    for url in ("", "?disabled_at__isempty=0", f"{destination.pk}/change/"):
        text = await sync_to_async(page)(admin_client, f"/admin/notifications/destination/{url}")
        assert "410 Gone: thanks" in text
    assert "410 Gone" not in await sync_to_async(page)(
        admin_client, "/admin/notifications/destination/?disabled_at__isempty=1"
    )


def test_an_address_that_is_added_again_is_enabled(alice: User) -> None:
    """With the same secret."""
    first = services.add_destination(alice.pk, "webhook", "https://alice.example/hook")
    Destination.objects.update(disabled_at=first.created_at, disabled_reason="410 Gone")
    transport = WebhookTransport(name="webhook")
    assert transport.addresses_of(alice) == []
    again = services.add_destination(alice.pk, "webhook", "https://alice.example/hook")
    assert (again.pk, again.secret, again.disabled_at, again.disabled_reason) == (first.pk, first.secret, None, "")
    assert [address.key for address in transport.addresses_of(alice)] == [str(first.pk)]
