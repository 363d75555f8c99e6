"""Ingress: a PUBLISH by any program becomes a notification, or one warning; nothing ends the loop."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import OperationalError

from notifications import services
from notifications.models import Event, Notification
from notifications.workers import ingress as ingress_module
from notifications.workers.ingress import REQUEST_LIMIT_BYTES, Ingress
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.lease import Lease
from realtime.untrusted.text import printable
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@contextlib.asynccontextmanager
async def listening(url: str, keys: Keys) -> AsyncIterator[Ingress]:
    """Ingress as the holder of the lease runs it."""
    reader, publisher = clients.async_reader(url), clients.async_publisher(url)
    lease = Lease(publisher, keys.lease("ingress"))
    ingress = Ingress(publisher, channel=keys.ingress_channel(), counters_key=keys.counters("ingress"), lease=lease)

    async def work() -> None:
        async with Multiplexer(reader, publisher=publisher, probe_channel=keys.probe_channel()) as multiplexer:
            await ingress.run(multiplexer)

    task = asyncio.create_task(lease.run_while_held(work), name="ingress under test")
    try:
        await wait_until(lambda: has_listener(publisher, keys))
        yield ingress
    finally:
        task.cancel()
        await asyncio.wait([task])
        await reader.aclose()
        await publisher.aclose()


async def has_listener(client: Any, keys: Keys) -> bool:
    return dict(await client.pubsub_numsub(keys.ingress_channel()))[keys.ingress_channel().encode()] == 1


def counters(client: redis.Redis, keys: Keys) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in client.hgetall(keys.counters("ingress")).items()}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_another_program_notifies_with_two_fields(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """PUBLISH returns 1. The notification is in the database and on the stream."""
    (alice,) = await sync_to_async(make_users)(1)
    body = json.dumps({"user_id": alice.pk, "message": "Your order is on its way!"})
    async with listening(redis_server.url, keys) as ingress:
        assert redis_client.publish(keys.ingress_channel(), body) == 1
        await wait_until(lambda: counters(redis_client, keys))
    assert ingress.counts == counters(redis_client, keys) == {"accepted": 1}
    event = await Event.objects.aget()
    assert (event.message, event.kind) == ("Your order is on its way!", "info")
    assert event.published_at is not None
    assert await Notification.objects.filter(recipient=alice).acount() == 1
    assert warnings(caplog) == []


async def test_all_fields_arrive_and_a_key_notifies_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """So a program that does not know whether its PUBLISH arrived may repeat it."""
    (alice,) = await sync_to_async(make_users)(1)
    fields = {"kind": "order.shipped", "title": "Order 7", "url": "/orders/7", "data": {"order": 7}}
    body = {"user_id": alice.pk, "message": "m", **fields, "idempotency_key": "order-7-shipped"}
    async with listening(redis_server.url, keys) as ingress:
        for _ in range(3):
            redis_client.publish(keys.ingress_channel(), json.dumps(body))
        await wait_until(lambda: ingress.counts["accepted"] == 3)
    event = await Event.objects.aget()
    assert {name: getattr(event, name) for name in fields} == fields
    assert event.idempotency_key == "order-7-shipped"


# Form is checked in the unit tests; here is what takes the domain or the loop to find. {user} is an id that exists.
REFUSED: dict[str, tuple[Callable[[int], bytes], str]] = {
    "bad JSON": (lambda user: b"Your order is on its way!", "not_json"),
    "an unknown user": (lambda user: b'{"user_id": %d, "message": "m"}' % (user + 1), "unknown_user"),
    "a negative user": (lambda user: b'{"user_id": -1, "message": "m"}', "unknown_user"),
    "no user": (lambda user: b'{"message": "m"}', "wrong_shape"),
    "a wrong type": (lambda user: b'{"user_id": "%d", "message": "m"}' % user, "wrong_shape"),
    "an empty message": (lambda user: b'{"user_id": %d, "message": " "}' % user, "invalid"),
    "a long message": (lambda user: b'{"user_id": %d, "message": "%b"}' % (user, b"m" * 4001), "invalid"),
    "a script as url": (lambda user: b'{"user_id": %d, "message": "m", "url": "javascript:x"}' % user, "invalid"),
    "a bad kind": (lambda user: b'{"user_id": %d, "message": "m", "kind": "A B"}' % user, "invalid"),
    "NUL": (lambda user: b'{"user_id": %d, "message": "m\\u0000"}' % user, "invalid"),
    "half a character": (lambda user: b'{"user_id": %d, "message": "\\ud800"}' % user, "not_json"),
    "an oversize body": (
        lambda user: b'{"user_id": %d, "message": "m"}' % user + b" " * REQUEST_LIMIT_BYTES,
        "oversize",
    ),
    "lines for the log": (lambda user: b'{"user_id": %d,\nCRITICAL root: "\r\x1b[2J": 1' % user, "not_json"),
}


async def test_unknown_fields_are_logged_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be misspelt. The request is accepted all the same."""
    (alice,) = await sync_to_async(make_users)(1)
    async with listening(redis_server.url, keys):
        for number in range(3):
            request = {"user_id": alice.pk, "message": f"{number}", "titel": "Order 7", "deliver_after": 60}
            redis_client.publish(keys.ingress_channel(), json.dumps(request))
        await wait_until(lambda: counters(redis_client, keys).get("accepted") == 3)
    assert warnings(caplog) == ["a request has unknown fields, which may be misspelt: 'deliver_after', 'titel'"]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_request_is_logged_and_counted_and_the_next_is_accepted(
    name: str, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line has the reason and the first 200 characters. Nothing is written."""
    (alice,) = await sync_to_async(make_users)(1)
    make, reason = REFUSED[name]
    body = make(alice.pk)
    async with listening(redis_server.url, keys) as ingress:
        redis_client.publish(keys.ingress_channel(), body)
        redis_client.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": "good"}))
        # Redis is told after this process has counted.
        await wait_until(lambda: "accepted" in counters(redis_client, keys))
    assert [event.message async for event in Event.objects.all()] == ["good"]
    assert counters(redis_client, keys) == {"accepted": 1, f"refused:{reason}": 1} == dict(ingress.counts)
    (warning,) = warnings(caplog)
    assert f"({reason}: " in warning
    assert printable(body, limit=150).removesuffix("…") in warning
    assert len(warning) < 1000
    assert warning.isprintable()


async def test_a_burst_of_requests_is_handled_in_order(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It arrives faster than the database can write."""
    (alice,) = await sync_to_async(make_users)(1)
    async with listening(redis_server.url, keys) as ingress:
        with redis_client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": str(number)}))
            pipeline.execute()
        await wait_until(lambda: ingress.counts["accepted"] == 100)
    assert [event.message async for event in Event.objects.order_by("id")] == [str(number) for number in range(100)]


async def test_draining_completes_received_requests(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A stop loses no request that PUBLISH has counted as received. After that, nobody listens."""
    (alice,) = await sync_to_async(make_users)(1)
    async with listening(redis_server.url, keys) as ingress:
        with redis_client.pipeline(transaction=False) as pipeline:
            for number in range(30):
                pipeline.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": str(number)}))
            assert pipeline.execute() == [1] * 30
        await wait_until(lambda: ingress.counts["accepted"] > 0)
        await ingress.drain()
        assert ingress.counts == {"accepted": 30}
        await wait_until(lambda: redis_client.publish(keys.ingress_channel(), b"") == 0)
    await ingress.drain()


async def test_requests_that_wait_when_the_lease_ends_are_logged_and_counted(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other process has received them."""
    gate = asyncio.Event()

    async def waiting(*arguments: Any, **fields: Any) -> None:
        await gate.wait()

    monkeypatch.setattr(services, "anotify", waiting)
    async with listening(redis_server.url, keys) as ingress:
        for _ in range(5):
            redis_client.publish(keys.ingress_channel(), b'{"user_id": 1, "message": "m"}')
        await wait_until(lambda: ingress.waiting_count == 4)
    assert ingress.counts == {"dropped": 4}
    assert "4 requests were lost" in caplog.text


async def test_a_flood_beyond_the_limit_is_dropped_and_logged(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The accepted, refused and dropped requests add up to the published ones."""
    monkeypatch.setattr(ingress_module, "HIGH_WATER_MARK", 20)
    async with listening(redis_server.url, keys) as ingress:
        with redis_client.pipeline(transaction=False) as pipeline:
            for _ in range(1000):
                pipeline.publish(keys.ingress_channel(), b"{}")
            pipeline.execute()
        await wait_until(lambda: ingress.counts.total() == 1000)
        assert ingress.counts["dropped"] > 0
        assert set(ingress.counts) == {"dropped", "refused:wrong_shape"}
        await wait_until(lambda: counters(redis_client, keys) == dict(ingress.counts))
    assert any("requests were lost" in warning for warning in warnings(caplog))


async def test_requests_wait_for_the_end_of_a_database_outage(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The outage is logged once. No request is lost or handled twice."""
    (alice,) = await sync_to_async(make_users)(1)
    anotify, failures = services.anotify, iter(range(3))

    async def failing(*arguments: Any, **fields: Any) -> Event:
        event = await anotify(*arguments, **fields)
        # The worst case: it was committed, and the answer was lost.
        if next(failures, None) is not None:
            raise OperationalError("server closed the connection unexpectedly")
        return event

    monkeypatch.setattr(services, "anotify", failing)
    async with listening(redis_server.url, keys) as ingress:
        for number in range(3):
            redis_client.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": str(number)}))
        await wait_until(lambda: ingress.counts["accepted"] == 3)
    assert [event.message async for event in Event.objects.order_by("id")] == ["0", "1", "2"]
    assert [re.sub(r" \(.*| [\d.]+ s", "", warning) for warning in warnings(caplog)] == [
        "the database is unavailable",
        "the database is available again after",
    ]


async def test_an_unexpected_error_ends_one_request_and_not_the_loop(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is logged with its traceback and counted."""
    (alice,) = await sync_to_async(make_users)(1)
    anotify = services.anotify

    async def failing(user_id: int, message: str, **fields: Any) -> Event:
        if message == "bad":
            raise ZeroDivisionError
        return await anotify(user_id, message, **fields)

    monkeypatch.setattr(services, "anotify", failing)
    async with listening(redis_server.url, keys):
        for message in ("bad", "good"):
            redis_client.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": message}))
        await wait_until(lambda: "accepted" in counters(redis_client, keys))
    assert counters(redis_client, keys) == {"accepted": 1, "refused:error": 1}
    assert "ZeroDivisionError" in caplog.text


async def test_a_lost_subscription_is_restored_and_logged(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests published in between are lost: pub/sub delivers at most once."""
    (alice,) = await sync_to_async(make_users)(1)
    async with listening(redis_server.url, keys) as ingress:
        redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: "the subscription was interrupted" in caplog.text)
        redis_client.publish(keys.ingress_channel(), json.dumps({"user_id": alice.pk, "message": "after"}))
        await wait_until(lambda: ingress.counts["accepted"] == 1)


async def test_a_request_read_after_the_lease_was_lost_is_left_to_the_next_holder(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A process that was suspended must not repeat the work of another one."""
    (alice,) = await sync_to_async(make_users)(1)
    client = clients.async_publisher(redis_server.url)
    lease = Lease(client, keys.lease("ingress"))
    ingress = Ingress(client, channel=keys.ingress_channel(), counters_key=keys.counters("ingress"), lease=lease)
    await ingress.take(json.dumps({"user_id": alice.pk, "message": "theirs"}).encode())
    assert not await Event.objects.aexists()
    assert ingress.counts == {"left to others": 1}
    await client.aclose()


async def test_a_failed_count_does_not_fail_the_request(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of Redis does not turn an accepted request into a refused one."""
    (alice,) = await sync_to_async(make_users)(1)
    with RedisServer() as server:
        client = clients.async_publisher(server.url)
        lease = Lease(client, keys.lease("ingress"))
        await lease.acquire()
        server.kill()
        ingress = Ingress(client, channel=keys.ingress_channel(), counters_key=keys.counters("ingress"), lease=lease)
        await ingress.take(json.dumps({"user_id": alice.pk, "message": "m"}).encode())
        assert ingress.counts == {"accepted": 1}
        assert await Event.objects.acount() == 1
        assert "'accepted' was counted in this process only" in caplog.text
        await client.aclose()
