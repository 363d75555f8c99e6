"""The same idempotency key twice: one event, and the first is returned."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from django.db import connection, transaction

from notifications import services
from notifications.models import Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import make_users, recipients_on_stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]

CALLERS = 8


def test_a_second_call_returns_the_first_event(redis_client: redis.Redis, keys: Keys) -> None:
    """It tells nobody again, whatever else it says."""
    alice, bob = make_users(2)
    first = services.notify(alice, "shipped", idempotency_key="order-7")
    second = services.notify([alice, bob], "shipped again", kind="other", idempotency_key="order-7")
    assert second == first
    assert second.message == "shipped"
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    assert services.notify(alice, "other", idempotency_key="order-8") != first


def test_a_second_call_in_the_same_transaction_returns_the_first_event(redis_client: redis.Redis, keys: Keys) -> None:
    """The first is found before it is committed."""
    (alice,) = make_users()
    with transaction.atomic():
        first = services.notify(alice, "shipped", idempotency_key="order-7")
        assert services.notify(alice, "shipped", idempotency_key="order-7") == first
    assert recipients_on_stream(redis_client, keys) == [alice.pk]


def test_a_key_that_was_rolled_back_is_free_again(redis_client: redis.Redis, keys: Keys) -> None:
    """What never happened does not count."""
    (alice,) = make_users()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.notify(alice, "shipped", idempotency_key="order-7")
        raise ZeroDivisionError
    services.notify(alice, "shipped", idempotency_key="order-7")
    assert recipients_on_stream(redis_client, keys) == [alice.pk]


def test_events_without_a_key_are_never_one() -> None:
    """Two calls, two events."""
    (alice,) = make_users()
    assert services.notify(alice, "Hello") != services.notify(alice, "Hello")


def test_callers_at_the_same_time_get_one_event(redis_client: redis.Redis, keys: Keys) -> None:
    """Whoever commits first made it; the others return it, and none fails."""
    (alice,) = make_users()
    together = threading.Barrier(CALLERS)

    def call(_: int) -> int:
        try:
            together.wait()
            return services.notify(alice, "shipped", idempotency_key="order-7").pk
        finally:
            connection.close()

    with ThreadPoolExecutor(CALLERS) as threads:
        ids = set(threads.map(call, range(CALLERS)))
    assert ids == {Event.objects.get().pk}
    assert Notification.objects.count() == 1
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
