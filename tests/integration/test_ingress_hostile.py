"""Requests that mean harm: each has one outcome, and a flood of them fills no log."""

import json
import logging
from collections.abc import AsyncIterator

import pytest
from asgiref.sync import sync_to_async

from notifications.models import Event
from notifications.workers.ingress import Ingress
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.lease import Lease
from realtime.untrusted import text
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture
async def ingress(redis_server: RedisServer, keys: Keys) -> AsyncIterator[Ingress]:
    """Ingress with the lease; the test passes requests to it."""
    client = clients.async_publisher(redis_server.url)
    lease = Lease(client, keys.lease("ingress"))
    await lease.acquire()
    yield Ingress(client, channel=keys.ingress_channel(), counters_key=keys.counters("ingress"), lease=lease)
    await lease.release()
    await client.aclose()


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id":%d,"message":"told","\x88":1}',
        b'{"user_id":%d,"message":"told","other":"\xff"}',
        b'{"user_id":%d,"message":"told","deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
async def test_an_unreadable_request_is_refused_before_it_has_any_effect(ingress: Ingress, body: bytes) -> None:
    """Even if only an unknown field is unreadable. Nothing fails after the commit, and one counter is incremented."""
    (alice,) = await sync_to_async(make_users)()
    await ingress.take(body.replace(b"%d", b"%d" % alice.pk))
    told_count = await Event.objects.acount()
    assert dict(ingress.counts) == ({"accepted": 1} if told_count else {"refused:not_json": 1})


async def test_a_field_name_that_is_not_text_is_refused(ingress: Ingress) -> None:
    """The name of the field is not UTF-8."""
    (alice,) = await sync_to_async(make_users)()
    await ingress.take(b'{"user_id":%d,"message":"told","\x88":1}' % alice.pk)
    assert dict(ingress.counts) == {"refused:not_json": 1}
    assert not await Event.objects.aexists()


async def test_a_flood_of_bad_requests_is_logged_in_a_few_lines(
    ingress: Ingress, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them is counted."""
    for number in range(300):
        await ingress.take(b'{"bad": %d, \x1b[2J' % number)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) <= text.LINES_AT_ONCE + 1
    assert not any("\x1b" in line for line in lines)
    assert ingress.counts["refused:not_json"] == 300
    await ingress.take(json.dumps({"user_id": 10**12, "message": "m"}).encode())
    assert "unknown_user" in caplog.records[-1].getMessage()
