"""Invalid input from clients, on real web servers: it is refused, and other clients are not affected."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.messages import FRAME_LIMIT_BYTES
from realtime.websocket.client import MALFORMED_LIMIT
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.listeners import Listener
from tests.conftest import PERMANENT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

PING = '{"type":"ping"}'
# Input → the error that answers it.
ANSWERED = {
    "hello": "bad_json",
    '{"type":"ping"': "bad_json",
    '{"type":"ping","deep":' + "[" * 50_000: "bad_json",
    '{"type":"subscribe","topic":"\\ud800"}': "bad_json",
    "null": "bad_frame",
    "[]": "bad_frame",
    '{"type":"shout"}': "bad_frame",
    '{"type":"subscribe","topic":"news.today","offset":-1}': "bad_frame",
    '{"type":"subscribe","topic":"news.today","offset":1e99}': "bad_frame",
    json.dumps({"type": "subscribe", "topic": "n" * 300}): "bad_frame",
    '{"type":"subscribe","topic":"weather.today"}': "unknown_topic",
    '{"type":"subscribe","topic":"news.*"}': "unknown_topic",
    '{"type":"subscribe","topic":"news.\\u0000"}': "unknown_topic",
    '{"type":"ack","topic":"news.today","offset":1}': "not_subscribed",
    '{"type":"subscribe","topic":"news.today","view":"v1"}': "bad_frame",
    '{"type":"subscribe","topic":"news.today","view":"v1","filter":{}}': "not_filterable",
    '{"type":"subscribe","topic":"news.today","view":"v1","filter":{"zoom":1e400}}': "bad_filter",
    '{"type":"subscribe","topic":"news.today","view":"v1","filter":{"tags":'
    + '{"$not":' * 500
    + "1"
    + "}" * 502: "bad_filter",
    '{"type":"filter","view":"v1","number":1,"filter":{}}': "unknown_view",
}


@pytest.fixture
async def witness(site: DeployedSite, sessions: dict[int, str]) -> AsyncIterator[Listener]:
    """A connection of another user, which still gets messages and answers when the test ends."""
    async with Listener(site, list(sessions.values())[1]) as listener:
        yield listener
        site.publish(f"user.{listener.user_id}", b'"still there"')
        assert (await listener.object())["data"] == "still there"
        assert await listener.answer(type="ping") == {"type": "pong"}


@pytest.fixture
def session(sessions: dict[int, str]) -> str:
    """The connection of an attacker."""
    return next(iter(sessions.values()))


async def test_malformed_is_answered_and_the_connection_stays(
    site: DeployedSite, session: str, witness: Listener
) -> None:
    """Each input gets its error, in order. Then the client is served like any other."""
    async with Listener(site, session) as listener:
        for said, code in ANSWERED.items():
            await listener.socket.send(said)
            answer = await listener.object()
            assert (answer["type"], answer["code"]) == ("error", code), said[:60]
        forbidden = await listener.answer(type="subscribe", topic=f"user.{witness.user_id}")
        assert forbidden["code"] == "forbidden"
        own = f"user.{listener.user_id}"
        assert (await listener.answer(type="ack", topic=own, offset=2**50))["code"] == "bad_offset"
        position = {"offset": listener.subscribed["offset"] + 7, "epoch": listener.subscribed["epoch"]}
        future = await listener.answer(type="subscribe", topic=own, **position)
        assert future == {**listener.subscribed, "recovered": False}
        # It gets nothing from the witness's topic.
        site.publish(f"user.{witness.user_id}", b'"not yours"')
        assert (await witness.object())["data"] == "not yours"
        site.publish(own, b'"yours"')
        assert (await listener.object())["data"] == "yours"


async def _send_a_megabyte(socket: ClientConnection) -> None:
    await socket.send("x" * 1_048_576)


async def _send_a_megabyte_in_fragments(socket: ClientConnection) -> None:
    await socket.send(["x" * 32_768] * 32)


async def _send_a_bit_too_much(socket: ClientConnection) -> None:
    await socket.send(json.dumps({"type": "ping", "padding": "ü" * (FRAME_LIMIT_BYTES // 2)}, ensure_ascii=False))


async def _send_binary(socket: ClientConnection) -> None:
    await socket.send(PING.encode())


async def _send_broken_utf8(socket: ClientConnection) -> None:
    await socket.send(b'{"type":"ping","\xff\xfe":1}', text=True)


async def _flood(socket: ClientConnection) -> None:
    for _ in range(400):
        await socket.send(PING)


async def _flood_in_one_frame(socket: ClientConnection) -> None:
    await socket.send("\n".join([PING] * 1_000))


async def _be_refused_too_often(socket: ClientConnection) -> None:
    await socket.send("\n".join(["garbage"] * (MALFORMED_LIMIT + 1)))


async def _ask_for_more_than_can_be_answered(socket: ClientConnection) -> None:
    await socket.send("\n".join(json.dumps({"type": "subscribe", "topic": f"news.q{n}"}) for n in range(1_000)))


async def _send_without_a_mask(socket: ClientConnection) -> None:
    socket.transport.write(b"\x81\x02hi")


async def _send_reserved_bits(socket: ClientConnection) -> None:
    socket.transport.write(b"\xf1\x80\x00\x00\x00\x00")


@pytest.mark.parametrize(
    ("send", "codes"),
    [
        (_send_a_megabyte, {1009, CloseCode.PROTOCOL_ERROR}),
        # The server closes before all of it has arrived. A client that is still sending may not read the reason.
        (_send_a_megabyte_in_fragments, {1009, CloseCode.PROTOCOL_ERROR, None}),
        (_send_a_bit_too_much, {1009, CloseCode.PROTOCOL_ERROR}),
        (_send_binary, {CloseCode.PROTOCOL_ERROR}),
        (_send_broken_utf8, {1007}),
        (_flood, {CloseCode.RATE_LIMITED}),
        (_flood_in_one_frame, {CloseCode.RATE_LIMITED}),
        (_be_refused_too_often, {CloseCode.PROTOCOL_ERROR}),
        (_ask_for_more_than_can_be_answered, {CloseCode.RATE_LIMITED}),
        (_send_without_a_mask, {1002}),
        (_send_reserved_bits, {1002}),
    ],
)
async def test_what_breaks_the_rules_ends_its_connection_only(
    site: DeployedSite,
    session: str,
    witness: Listener,
    send: Callable[[ClientConnection], Awaitable[None]],
    codes: set[int | None],
) -> None:
    """The close code says what was wrong. The same user is served after connecting again."""
    async with Listener(site, session) as listener:
        with contextlib.suppress(ConnectionClosed):
            await send(listener.socket)
        # Daphne cuts who breaks the rules of WebSockets themselves, or its own limit, without a word.
        is_cut = site.server == "daphne" and (
            not codes & {CloseCode.PROTOCOL_ERROR, CloseCode.RATE_LIMITED} or send is _send_a_megabyte
        )
        cut = {None} if is_cut else set()
        assert await listener.close_code() in codes | cut
    async with Listener(site, session) as listener:
        assert await listener.answer(type="ping") == {"type": "pong"}


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff" * 50_000,
        b"GET /ws/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\n" + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
    ids=["noise", "no key", "long head"],
)
async def test_what_is_no_handshake_is_no_connection(site: DeployedSite, witness: Listener, said: bytes) -> None:
    """An HTTP error or the end of the connection, and never status 101."""
    host, port = site.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            answer = await reader.read(64)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("running_site", ["signalbox"], indirect=True)
async def test_thousands_of_topic_names_leave_nothing_behind(
    site: DeployedSite, sessions: dict[int, str], session: str, witness: Listener
) -> None:
    """
    Thirty connections, each of which hears a hundred topics of its own and goes, some without a word. Afterwards Redis
    has a subscription for nobody and no new key that lives for ever.
    """

    async def hear_a_hundred(listener: Listener, number: int) -> None:
        topics = [f"news.made-up-{number}-{each}" for each in range(100)]
        await listener.socket.send("\n".join(json.dumps({"type": "subscribe", "topic": name}) for name in topics))
        assert [(await listener.object())["topic"] for _ in topics] == topics
        if number % 2:
            listener.socket.transport.abort()
        else:
            await listener.socket.send("\n".join(json.dumps({"type": "unsubscribe", "topic": name}) for name in topics))
            assert [(await listener.object())["type"] for _ in topics] == ["unsubscribed"] * 100

    async with contextlib.AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(Listener(site, session)) for _ in range(30)]
        await asyncio.gather(*(hear_a_hundred(each, number) for number, each in enumerate(listeners)))
    with redis.Redis.from_url(site.redis_url) as client:
        await wait_until(lambda: not client.pubsub_channels("*made-up*"))
        lives = {key: client.pttl(key) for key in client.scan_iter(count=1_000)}
    made_up = [life for key, life in lives.items() if b"made-up" in key]
    assert len(made_up) == 3_000
    assert min(made_up) > 0
    assert max(made_up) <= 600_000
    forever: list[Any] = [key for key, life in lives.items() if life == -1]
    assert [key for key in forever if not any(name in key.decode() for name in PERMANENT)] == []


@pytest.mark.parametrize("query", ["offset=9999999999999999999999", "offset=-1", "epoch=%00%ff", "offset=%31&offset=x"])
async def test_a_position_that_is_none_is_passed_over(
    site: DeployedSite, session: str, witness: Listener, query: str
) -> None:
    """The connection starts at the newest position, and the server says so."""
    async with Listener(site, session, path=f"/ws/?{query}") as listener:
        assert listener.subscribed["recovered"] is False
