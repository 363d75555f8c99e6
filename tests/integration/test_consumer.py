"""The WebSocket end on a real channel layer, Redis and database: who gets in, and how a connection begins and ends."""

import asyncio
import json
import logging
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client as Browser

from project.asgi import application
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.messages import SUBPROTOCOL
from realtime.statistics import collect
from realtime.topics import user_topic
from tests.integration.clients import HOST, Connect, nothing_is_left, tell
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database_independent]


async def test_a_signed_in_user_is_greeted(connect: Connect, alice: User) -> None:
    """One frame: hello names the user and how often to ping, and their own topic is live, from its newest on."""
    client = await connect(alice)
    await client.accepted()
    hello, subscribed = [json.loads(line) for line in (await client.receive_from(5)).split("\n")]
    assert hello == {"type": "hello", "user_id": alice.pk, "topic": f"user.{alice.pk}", "ping_seconds": 25}
    position = {"offset": subscribed.pop("offset"), "epoch": subscribed.pop("epoch")}
    assert subscribed == {"type": "subscribed", "topic": f"user.{alice.pk}", "recovered": False}
    assert (await tell(alice, "one")).offset == position["offset"] + 1


async def test_the_subprotocol_is_echoed_when_offered(connect: Connect, alice: User) -> None:
    """A client that offers signalbox.v1 gets it; one that offers others or none is accepted without a subprotocol."""
    for offered, chosen in [((SUBPROTOCOL,), SUBPROTOCOL), (("other", SUBPROTOCOL), SUBPROTOCOL), (("other",), None)]:
        client = await connect(alice, subprotocols=offered)
        assert (await client.accepted())["subprotocol"] == chosen


async def test_what_is_published_after_hello_arrives_in_order(connect: Connect, alice: User) -> None:
    """Offsets have no gap, and the data is the published data, byte for byte."""
    client = await connect(alice)
    offset = (await client.greeted())["offset"]
    for number in range(100):
        await tell(alice, b'{"b": 1.0, "a": "\\u00e9", "n": %d}' % number)
    for number in range(100):
        assert await client.object() == {
            "type": "message",
            "topic": f"user.{alice.pk}",
            "offset": offset + number + 1,
            "data": {"b": 1.0, "a": "é", "n": number},
        }


async def test_a_user_hears_their_own_topic_only(connect: Connect, alice: User, bob: User) -> None:
    """All sockets of alice get what is hers; bob's next object is his own."""
    hers, hers_too, his = await connect(alice), await connect(alice), await connect(bob)
    for client in (hers, hers_too, his):
        await client.greeted()
    await tell(alice, "for alice")
    await tell(bob, "for bob")
    assert (await hers.object())["data"] == (await hers_too.object())["data"] == "for alice"
    assert (await his.object())["data"] == "for bob"


# Coming back ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_comes_back_gets_what_it_missed(connect: Connect, alice: User) -> None:
    """With its last offset and epoch in the URL, it gets later publications, once and in order."""
    first = await connect(alice)
    await first.greeted()
    seen = await tell(alice, "seen")
    await first.object()
    await first.disconnect()
    for number in range(3):
        await tell(alice, f"missed {number}")
    second = await connect(alice, path=f"/ws/?offset={seen.offset}&epoch={seen.epoch}")
    subscribed = await second.greeted()
    assert (subscribed["offset"], subscribed["epoch"], subscribed["recovered"]) == (seen.offset, seen.epoch, True)
    await tell(alice, "live")
    heard = [await second.object() for _ in range(4)]
    assert [each["data"] for each in heard] == ["missed 0", "missed 1", "missed 2", "live"]
    assert [each["offset"] for each in heard] == [seen.offset + number for number in (1, 2, 3, 4)]


async def test_a_client_that_comes_back_from_nowhere_is_told_so(connect: Connect, alice: User) -> None:
    """A position from the future: `recovered` is false, and it continues from the newest publication."""
    await tell(alice, "first")
    newest = [await tell(alice, number) for number in range(150)][-1]
    for position in (
        f"offset={newest.offset + 1}&epoch={newest.epoch}",
        f"offset={2**53 - 1}&epoch={newest.epoch}",
    ):
        client = await connect(alice, path=f"/ws/?{position}")
        subscribed = await client.greeted()
        assert (subscribed["offset"], subscribed["recovered"]) == (newest.offset, False), position
        await client.disconnect()


async def test_a_client_that_comes_back_too_late_gets_what_is_kept(connect: Connect, alice: User) -> None:
    """After `"recovered": false`, and the number of lost publications where it is known."""
    await tell(alice, "first")
    newest = [await tell(alice, number) for number in range(150)][-1]
    start = newest.offset - 100
    for position, lost in (
        (f"offset={newest.offset}&epoch=another", {}),
        (f"offset={newest.offset}", {}),
        (f"offset=1&epoch={newest.epoch}", {"lost": start - 1}),
    ):
        client = await connect(alice, path=f"/ws/?{position}")
        assert await client.greeted() == {
            **{"type": "subscribed", "topic": f"user.{alice.pk}", "offset": start, "epoch": newest.epoch},
            **{"recovered": False, **lost},
        }
        assert [(await client.object())["data"] for _ in range(100)] == list(range(50, 150))
        await client.disconnect()


@pytest.mark.parametrize(
    "query",
    ["offset=-1", "offset=1e3", "offset=", "offset=9999999999999999", "offset=٣", "offset=a&epoch=b", "%ff=%fe&&;"],
)
async def test_a_position_that_is_none_is_passed_over(connect: Connect, alice: User, query: str) -> None:
    """It is ignored."""
    client = await connect(alice, path=f"/ws/?{query}")
    assert (await client.greeted())["recovered"] is False


# Who does not get in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", [{"subprotocols": (SUBPROTOCOL,)}, {"headers": ((b"origin", b"http://testserver"),)}], ids=["named", "page"]
)
async def test_who_is_not_signed_in_is_told_so_by_a_close_code(connect: Connect, told: dict[str, Any]) -> None:
    """A page sees the code of a close, not the status of a handshake: so accept, then close, and stop retrying."""
    forged = (*told.get("headers", ()), (b"cookie", b"sessionid=forged"))
    for client in (await connect(**told), await connect(**{**told, "headers": forged})):
        await client.accepted()
        close = await client.closed()
        assert close["code"] == CloseCode.UNAUTHORISED
        assert CloseCode(close["code"]).is_final
        assert close["reason"] == "sign in first"


async def test_a_program_that_is_not_signed_in_is_not_let_in(connect: Connect) -> None:
    """It is not a browser and does not offer the protocol, so it sees the HTTP status, without an open connection."""
    before = collect().clients.closed_counts.get(CloseCode.UNAUTHORISED, 0)
    for client in (await connect(), await connect(headers=((b"cookie", b"sessionid=forged"),))):
        # Before accept, so servers answer with HTTP status 403.
        assert (await client.receive_output())["type"] == "websocket.close"
    assert collect().clients.closed_counts[CloseCode.UNAUTHORISED] == before + 2


async def test_an_inactive_user_is_refused(connect: Connect, alice: User) -> None:
    """The session still exists after its user was deactivated; the connection is refused."""
    alice.is_active = False
    await alice.asave()
    client = await connect(alice, subprotocols=(SUBPROTOCOL,))
    await client.accepted()
    assert (await client.closed())["code"] == CloseCode.UNAUTHORISED


async def test_a_session_ended_by_logout_opens_nothing(
    connect: Connect, sessions: dict[User, str], alice: User
) -> None:
    """The cookie of a deleted session counts as none."""
    browser = Browser()
    browser.cookies["sessionid"] = sessions[alice]
    await browser.alogout()
    client = await connect(alice, subprotocols=(SUBPROTOCOL,))
    await client.accepted()
    assert (await client.closed())["code"] == CloseCode.UNAUTHORISED


async def test_a_user_has_only_so_many_connections(connect: Connect, signalbox: Any, alice: User, bob: User) -> None:
    """One more gets a final close code, however many connect at once; each user has an own count."""
    signalbox.REALTIME = {**signalbox.REALTIME, "CONNECTIONS_PER_USER": 3}
    clients = await asyncio.gather(*(connect(alice) for _ in range(10)))
    for client in clients:
        await client.accepted()
    events = [await client.receive_output(5) for client in clients]
    assert sorted(event["type"] for event in events) == ["websocket.close"] * 7 + ["websocket.send"] * 3
    assert {event["code"] for event in events if "code" in event} == {CloseCode.TOO_MANY_CONNECTIONS}
    assert collect().clients.closed_counts[CloseCode.TOO_MANY_CONNECTIONS] >= 7
    await (await connect(bob)).greeted()
    for client, event in zip(clients, events, strict=True):
        if event["type"] == "websocket.send":
            await client.disconnect()
            break
    await (await connect(alice)).greeted()


async def test_who_leaves_its_own_topic_is_still_a_connection(connect: Connect, signalbox: Any, alice: User) -> None:
    """The limit counts connections, whatever their topics are."""
    signalbox.REALTIME = {**signalbox.REALTIME, "CONNECTIONS_PER_USER": 2}
    topic = user_topic(alice.pk)
    clients = [await connect(alice) for _ in range(2)]
    for client in clients:
        await client.greeted()
        assert await client.answer(type="unsubscribe", topic=topic) == {"type": "unsubscribed", "topic": topic}
    third = await connect(alice)
    await third.accepted()
    assert (await third.closed())["code"] == CloseCode.TOO_MANY_CONNECTIONS
    await clients[0].disconnect()
    await (await connect(alice)).greeted()


@pytest.mark.parametrize(
    "headers",
    [
        ((b"origin", b"https://evil.example"),),
        ((b"origin", b"null"),),
        ((b"origin", b"http://testserver"), (b"origin", b"https://evil.example")),
        ((b"origin", b"http://evil.example\r\nforged line"),),
        ((b"origin", b"http://" + b"x" * 10_000),),
    ],
    ids=lambda headers: repr(headers)[:60],
)
async def test_a_foreign_page_is_refused_before_accept(
    connect: Connect, alice: User, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP 403, and one warning of one bounded line that names the origin and the setting."""
    with caplog.at_level(logging.WARNING):
        client = await connect(alice, headers=headers)
        await client.closed()
        await client.wait()
    (record,) = caplog.records
    assert record.name == "realtime.websocket.origins"
    assert 'REALTIME["ALLOWED_ORIGINS"]' in record.getMessage()
    assert repr(headers[-1][1].decode())[1:20] in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 600


async def test_an_origin_of_the_setting_is_let_in(connect: Connect, signalbox: Any, alice: User) -> None:
    """REALTIME["ALLOWED_ORIGINS"] names pages beside the site's own."""
    signalbox.REALTIME = {**signalbox.REALTIME, "ALLOWED_ORIGINS": ["https://partner.example"]}
    for origin in (b"https://partner.example", b"http://testserver", b"https://testserver:8443"):
        subscribed = await (await connect(alice, headers=((b"origin", origin),))).greeted()
        assert subscribed["topic"] == f"user.{alice.pk}"


@pytest.mark.parametrize("host", [b"evil.example", b"", b"test server", b"testserver:port", b"testserver\r\nx"])
async def test_a_host_that_is_not_this_site_is_refused(
    connect: Connect, signalbox: Any, alice: User, host: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As with every page of Django: otherwise a name that somebody points here would count as the site itself."""
    signalbox.USE_X_FORWARDED_HOST = True
    client = await connect(alice, headers=((b"x-forwarded-host", host), (b"origin", b"http://evil.example")))
    await client.closed()
    assert "ALLOWED_HOSTS" in caplog.text


async def test_a_forwarded_host_counts_only_when_django_trusts_it(
    connect: Connect, signalbox: Any, alice: User
) -> None:
    """USE_X_FORWARDED_HOST means for WebSockets what it means for pages."""
    forged = ((b"x-forwarded-host", b"evil.example"), (b"origin", b"http://testserver"))
    subscribed = await (await connect(alice, headers=forged)).greeted()
    assert subscribed["topic"] == f"user.{alice.pk}"
    signalbox.USE_X_FORWARDED_HOST = True
    assert (await (await connect(alice, headers=forged)).closed())["type"] == "websocket.close"


async def test_an_unknown_path_is_refused_without_a_traceback(connect: Connect, alice: User) -> None:
    """The application ends by itself instead of raising into the server's log."""
    for path in ("/", "/ws", "/ws/more", "/wss/", "/ws/../ws/%00"):
        client = await connect(alice, path=path)
        assert (await client.closed())["type"] == "websocket.close"
        await client.wait()


# Ends -----------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_ends_leaves_its_topic(connect: Connect, alice: User) -> None:
    """The topic's subscription ends with its last client."""
    first, second = await connect(alice), await connect(alice)
    await first.greeted()
    await second.greeted()
    hub = get_channel_layer().hub
    await first.disconnect()
    assert hub.statistics().membership_count == 1
    await second.disconnect()
    assert hub.statistics().topic_count == 0


async def test_a_client_that_goes_before_it_is_greeted_leaves_nothing(connect: Connect, alice: User) -> None:
    """At any point of joining."""
    for turns in range(12):
        client = await connect(alice)
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.disconnect()
        await wait_until(lambda: collect().clients.open_count == 0)
        await nothing_is_left()
        assert get_channel_layer().hub.statistics().topic_count == 0


async def test_a_server_that_cancels_the_connection_leaves_no_trace(connect: Connect, alice: User) -> None:
    """Daphne cancels its applications when it stops."""
    client = await connect(alice)
    await client.greeted()
    client.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.future
    assert get_channel_layer().hub.statistics().topic_count == 0


async def test_a_client_that_vanishes_while_written_to_is_no_error(
    connect: Connect, sessions: dict[User, str], alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers raise OSError from send() then; what is published meanwhile goes to the others."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    said: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        said.append(event["type"])
        if len(said) > 2:
            raise ConnectionResetError

    scope = {"type": "websocket", "path": "/ws/", "subprotocols": [], "query_string": b""}
    scope |= {"headers": [HOST, (b"cookie", f"sessionid={sessions[alice]}".encode())]}
    inbox.put_nowait({"type": "websocket.connect"})
    served = asyncio.create_task(application(scope, inbox.get, send))
    await wait_until(lambda: len(said) == 2)
    other = await connect(alice)
    await other.greeted()
    for number in range(3):
        await tell(alice, number)
    assert [(await other.object())["data"] for _ in range(3)] == [0, 1, 2]
    assert said == ["websocket.accept", "websocket.send", "websocket.send"]
    inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await served
    assert not caplog.records


async def test_without_redis_clients_are_told_to_come_back(
    connect: Connect, signalbox: Any, alice: User, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close code lets clients retry; the log has one line for all, and one when Redis is available again."""
    monkeypatch.setattr("realtime.websocket.client.JOIN_TIMEOUT_SECONDS", 0.5)
    previous = signalbox.CHANNEL_LAYERS
    with RedisServer() as lost:
        backend = {**previous["default"], "CONFIG": {"hosts": [lost.url]}}
        signalbox.CHANNEL_LAYERS = {"default": backend}
        lost.kill()
        for _ in range(2):
            client = await connect(alice)
            await client.accepted()
            assert (await client.closed())["code"] == CloseCode.UNAVAILABLE
            await client.disconnect()
        assert not CloseCode.UNAVAILABLE.is_final
        lines = [record.getMessage() for record in caplog.records if record.name == "realtime.redis.outage"]
        assert len([line for line in lines if line.startswith("Redis for the topics of clients is unavailable")]) == 1

        lost.start()
        monkeypatch.setattr("realtime.websocket.client.JOIN_TIMEOUT_SECONDS", 5.0)
        client = await connect(alice)
        await client.greeted()
        assert "Redis for the topics of clients is available again after" in caplog.text
        await client.disconnect()
        await nothing_is_left()
        await get_channel_layer().flush()
    signalbox.CHANNEL_LAYERS = previous


@pytest.mark.parametrize(
    "backend", ["channels_redis.pubsub.RedisPubSubChannelLayer", "channels.layers.InMemoryChannelLayer"]
)
async def test_another_channel_layer_is_a_mistake_that_is_named(
    connect: Connect, signalbox: Any, alice: User, backend: str
) -> None:
    """Offsets are made by ours alone; the relay works with any (test_relay)."""
    previous = signalbox.CHANNEL_LAYERS
    signalbox.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    client = await connect(alice)
    with pytest.raises(ImproperlyConfigured, match=r"realtime\.layer\.RedisChannelLayer"):
        await client.receive_output(5)
    signalbox.CHANNEL_LAYERS = previous
