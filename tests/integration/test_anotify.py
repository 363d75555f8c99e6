"""`anotify()`, the async twin: the same guarantees on an event loop."""

import asyncio
from collections.abc import Callable

import pytest
import redis
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.utils.functional import SimpleLazyObject

from notifications import services
from notifications.exceptions import UnknownRecipients
from notifications.models import Event
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


async def test_an_async_view_notifies(redis_client: redis.Redis, keys: Keys) -> None:
    """Its lazy request.user and a queryset are evaluated off the event loop."""
    alice, bob = await sync_to_async(make_users)(2)

    async def order(request: HttpRequest) -> HttpResponse:
        event = await services.anotify(User.objects.order_by("pk"), "Ordered", actor=request.user, data={"order": 7})
        return HttpResponse(str(event.pk))

    request = AsyncRequestFactory().post("/order/")
    request.user = SimpleLazyObject(lambda: User.objects.get(username=bob.username))  # type: ignore[assignment]
    response = await order(request)

    event = await Event.objects.aget()
    assert response.content.decode() == str(event.pk)
    assert event.published_at is not None
    assert event.actor_id == bob.pk
    assert [entry["e"]["data"] for entry in entries_on_stream(redis_client, keys)] == [{"order": 7}] * 2
    assert recipients_on_stream(redis_client, keys) == [alice.pk, bob.pk]


@pytest.mark.parametrize("notify", [services.notify, services.send_notification])
async def test_the_sync_one_in_a_coroutine_says_what_to_await(notify: Callable[..., Event]) -> None:
    """Of Django's own class, whose text names no way out."""
    (alice,) = await sync_to_async(make_users)(1)
    with pytest.raises(SynchronousOnlyOperation, match="await anotify"):
        notify(alice.pk, "Hello")
    assert not await Event.objects.aexists()


async def test_the_event_knows_that_it_is_published() -> None:
    """As the one that notify() returns."""
    (alice,) = await sync_to_async(make_users)(1)
    assert (await services.anotify(alice, "Hello")).published_at is not None
    assert (await services.anotify([], "Hello")).published_at is not None


async def test_many_at_once_are_all_published(redis_client: redis.Redis, keys: Keys) -> None:
    """Fifty tasks on one loop."""
    users = await sync_to_async(make_users)(50)
    events = await asyncio.gather(*(services.anotify(user, "Hello") for user in users))
    assert len({event.pk for event in events}) == 50
    assert sorted(recipients_on_stream(redis_client, keys)) == [user.pk for user in users]
    assert not await Event.objects.filter(published_at=None).aexists()


async def test_a_refused_call_raises_as_notify_does() -> None:
    """And writes nothing."""
    with pytest.raises(UnknownRecipients):
        await services.anotify([10**9], "Hello")
    assert not await Event.objects.aexists()


def test_within_a_transaction_it_waits_for_the_commit(redis_client: redis.Redis, keys: Keys) -> None:
    """Sync code holds a transaction and calls async code, which notifies."""
    (alice,) = make_users()
    with transaction.atomic():
        event = async_to_sync(services.anotify)(alice, "Hello")
        assert redis_client.xlen(keys.stream("notifications")) == 0
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    event.refresh_from_db()
    assert event.published_at is not None


def test_a_rollback_leaves_nothing(redis_client: redis.Redis, keys: Keys) -> None:
    """Likewise."""
    (alice,) = make_users()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        async_to_sync(services.anotify)(alice, "Hello")
        raise ZeroDivisionError
    assert not Event.objects.exists()
    assert redis_client.xlen(keys.stream("notifications")) == 0


async def test_the_same_key_twice_is_one_event(redis_client: redis.Redis, keys: Keys) -> None:
    """Also from tasks that run at the same time."""
    (alice,) = await sync_to_async(make_users)(1)
    calls = (services.anotify(alice, "Hello", idempotency_key="order-7") for _ in range(5))
    assert len({event.pk for event in await asyncio.gather(*calls)}) == 1
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
