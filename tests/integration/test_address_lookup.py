"""Addresses that users have added: a batch of deliveries reads them together, and each delivery gets its own."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from notifications import services
from notifications.content import stream_entry
from notifications.delivery.claim import StreamTask
from notifications.delivery.prepare import PreparedBatch, claim_and_prepare
from notifications.models import Destination, PushSubscription
from notifications.transports.base import ADDRESS_LIMIT, destinations_of
from notifications.transports.lookup import newest_of, shared_lookups
from notifications.transports.webhook import WebhookTransport
from realtime.redis.keys import Keys
from realtime.streams import Entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


@pytest.fixture
def users(signalbox: Any) -> list[User]:
    """Five users, of whom the first has more addresses than count, and the last has none."""
    backend = {"BACKEND": "notifications.transports.webhook.WebhookTransport"}
    signalbox.NOTIFICATIONS = {"TRANSPORTS": {"webhook": backend}, "DEFAULT_TRANSPORTS": ["webhook"]}
    found = [User.objects.create_user(f"user-{number}") for number in range(5)]
    for user, count in zip(found, (ADDRESS_LIMIT + 3, 1, 2, 1, 0), strict=True):
        for number in range(count):
            url = f"https://{user.username}.example/{number}"
            Destination.objects.create(user=user, transport="webhook", address=url, secret=SECRET)
    return found


def prepare(keys: Keys, redis_client: Any) -> list[PreparedBatch]:
    tasks = [
        StreamTask(notification=stream_entry.decode(Entry(id, fields, 1)), entry_id=id.decode(), attempt=1)
        for id, fields in redis_client.xrange(keys.stream("notifications"))
    ]
    prepared = claim_and_prepare({"webhook": WebhookTransport(name="webhook")}, tasks)
    assert all(isinstance(each, PreparedBatch) for each in prepared)
    return prepared  # type: ignore[return-value]


def test_a_batch_reads_the_addresses_of_all_its_recipients_in_one_query(
    users: list[User], keys: Keys, redis_client: Any
) -> None:
    """Each recipient gets their own, the newest first, and no more than the limit."""
    services.notify(User.objects.all(), "Hello")
    with CaptureQueriesContext(connection) as queries:
        batches = prepare(keys, redis_client)
    asked = [query["sql"] for query in queries if "notifications_destination" in query["sql"]]
    assert len(asked) == 1
    urls = {
        prepared.message.recipient.username: [address.value[0] for address in prepared.addresses]
        for batch in batches
        for prepared in batch.prepared
        if prepared.message
    }
    assert urls == {
        user.username: [f"https://{user.username}.example/{number}" for number in reversed(range(count))][
            :ADDRESS_LIMIT
        ]
        for user, count in zip(users, (ADDRESS_LIMIT + 3, 1, 2, 1, 0), strict=True)
    }


def test_a_transport_may_change_the_list_of_addresses_that_it_gets(users: list[User]) -> None:
    """A user with two deliveries in a batch has all addresses in both."""
    with shared_lookups({user.pk for user in users}):
        destinations_of(users[2], "webhook").clear()
        assert len(destinations_of(users[2], "webhook")) == 2


def test_an_address_that_was_disabled_or_added_counts_from_the_next_batch(
    users: list[User], keys: Keys, redis_client: Any
) -> None:
    """Nothing is remembered from one batch to the next."""
    services.notify(users[1], "First")
    ((first,),) = (batch.prepared for batch in prepare(keys, redis_client))
    assert [address.value[0] for address in first.addresses] == ["https://user-1.example/0"]
    Destination.objects.filter(user=users[1]).delete()
    Destination.objects.create(user=users[1], transport="webhook", address="https://new.example/", secret=SECRET)
    redis_client.delete(keys.stream("notifications"))
    services.notify(users[1], "Second")
    ((second,),) = (batch.prepared for batch in prepare(keys, redis_client))
    assert [address.value[0] for address in second.addresses] == ["https://new.example/"]


def test_models_transports_and_users_outside_of_the_batch_are_kept_apart(users: list[User]) -> None:
    """What was read for one is not the answer to another."""
    browser = PushSubscription.objects.create(user=users[1], endpoint="https://push.example/1", p256dh="p", auth="a")
    chat = Destination.objects.create(user=users[1], transport="chat", address="json://chat.example")
    rows = Destination.objects.all()
    with shared_lookups({users[1].pk, users[2].pk}):
        (hook,) = newest_of(users[1].pk, rows.filter(transport="webhook"), key="webhook", limit=5)
        assert newest_of(users[1].pk, rows.filter(transport="chat"), key="chat", limit=5) == [chat]
        assert newest_of(users[1].pk, PushSubscription.objects.all(), limit=5) == [browser]
        assert newest_of(users[2].pk, PushSubscription.objects.all(), limit=5) == []
        (other,) = newest_of(users[3].pk, rows.filter(transport="webhook"), key="webhook", limit=5)
    assert (hook.user_id, other.user_id) == (users[1].pk, users[3].pk)
