"""The WebSocket end on real web servers, with a client that is no browser; the notifications come by the whole way."""

import asyncio
import json
import struct
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.close_codes import CloseCode
from realtime.protocol import FRAME_LIMIT_BYTES, SUBPROTOCOL
from tests.acceptance.deployed_site import STOP_SECONDS, WEB, DeployedSite

pytestmark = pytest.mark.acceptance

# redis-py 8 cuts a connection that has been idle this long, unless told otherwise, and a health check may hide it once.
IDLE_SECONDS = 6.5
DEADLINE_SECONDS = 10


@pytest.fixture(scope="session")
def sessions(running_site: DeployedSite) -> dict[int, str]:
    """Three users of this site who are logged in: user id → session cookie."""
    return running_site.sessions(3)


@pytest.fixture
def publisher(site: DeployedSite) -> Iterator[redis.Redis]:
    """A foreign program: it knows the address of Redis and nothing else."""
    with redis.Redis.from_url(site.redis_url) as client:
        yield client


def tell(publisher: redis.Redis, user_id: int, message: str) -> None:
    assert publisher.publish("notification", json.dumps({"user_id": user_id, "message": message})) == 1


def opening(site: DeployedSite, session: str | None = None, *, path: str = "/ws/", **options: Any) -> connect:
    """A connection that is about to be opened, straight to the site and not by a proxy of the environment."""
    headers = {"Cookie": f"sessionid={session}"} if session else {}
    return connect(f"ws://{site.address}{path}", additional_headers=headers, proxy=None, **options)


# Objects of a frame that were not asked for yet.
_held: weakref.WeakKeyDictionary[ClientConnection, list[Any]] = weakref.WeakKeyDictionary()


async def receive(socket: ClientConnection) -> Any:
    """The next object that says something to the user; where the topic stands is passed over."""
    held = _held.setdefault(socket, [])
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            while held:
                if (answer := held.pop(0))["type"] != "subscribed":
                    return answer
            held += map(json.loads, str(await socket.recv()).split("\n"))


async def close_code(socket: ClientConnection) -> int | None:
    """The code with which the server closes, after whatever else it says; None when it says none."""
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                await socket.recv()
    return closed.value.rcvd.code if closed.value.rcvd else None


@pytest.fixture
async def sockets(site: DeployedSite, sessions: dict[int, str]) -> AsyncIterator[dict[int, ClientConnection]]:
    """An open connection of each user who is logged in, past its hello."""
    async with asyncio.TaskGroup() as tasks:
        opened = {user: tasks.create_task(_greeted(site, user, session)) for user, session in sessions.items()}
    sockets = {user: task.result() for user, task in opened.items()}
    yield sockets
    for socket in sockets.values():
        await socket.close()


async def _greeted(site: DeployedSite, user: int, session: str) -> ClientConnection:
    socket = await opening(site, session, subprotocols=[SUBPROTOCOL])
    assert socket.subprotocol == SUBPROTOCOL
    assert await receive(socket) == {"type": "hello", "user_id": user, "ping_seconds": 25}
    return socket


async def test_each_user_hears_what_is_meant_for_them(
    sockets: dict[int, ClientConnection], publisher: redis.Redis
) -> None:
    """What each hears, in order, is what was said to them and nothing else."""
    for number in range(20):
        for user in sockets:
            tell(publisher, user, f"{number} for {user}")
    for user, socket in sockets.items():
        frames = [await receive(socket) for _ in range(20)]
        assert [frame["data"]["message"] for frame in frames] == [f"{number} for {user}" for number in range(20)]
        assert {frame["topic"] for frame in frames} == {f"user.{user}"}


async def test_every_connection_of_a_user_hears_it(
    site: DeployedSite, sessions: dict[int, str], publisher: redis.Redis
) -> None:
    """Two tabs, one notification, the same id in both; after one tab is closed the other goes on."""
    user, session = next(iter(sessions.items()))
    async with opening(site, session) as first, opening(site, session) as second:
        assert (await receive(first))["type"] == (await receive(second))["type"] == "hello"
        tell(publisher, user, "to both")
        assert (await receive(first))["data"]["id"] == (await receive(second))["data"]["id"]
        await first.close()
        tell(publisher, user, "to the other")
        assert (await receive(second))["data"]["message"] == "to the other"


@pytest.mark.parametrize("session", [None, "0" * 32, "../../etc/passwd"])
async def test_who_is_not_logged_in_is_told_not_to_come_back(site: DeployedSite, session: str | None) -> None:
    """Accepted and then closed with a final code, which a browser can see."""
    async with opening(site, session) as socket:
        assert await close_code(socket) == CloseCode.UNAUTHORISED


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null"])
async def test_a_foreign_page_is_refused(site: DeployedSite, sessions: dict[int, str], origin: str) -> None:
    """With the victim's cookie and all: HTTP 403, and one line in the log that says which setting would allow it."""
    session = next(iter(sessions.values()))
    with pytest.raises(InvalidStatus) as refused:
        await opening(site, session, origin=origin)
    assert refused.value.response.status_code == 403
    (line,) = [line for line in site.logs()[WEB].splitlines() if repr(origin) in line]
    assert "ALLOWED_ORIGINS" in line


async def test_a_page_of_the_site_is_let_in(site: DeployedSite, sessions: dict[int, str]) -> None:
    """As a browser sends it."""
    session = next(iter(sessions.values()))
    async with opening(site, session, origin=site.url) as socket:
        assert (await receive(socket))["type"] == "hello"


async def test_a_path_that_leads_nowhere_is_refused(site: DeployedSite, sessions: dict[int, str]) -> None:
    """HTTP 403 and no traceback."""
    for path in ("/", "/ws", "/ws/user.1/", "/admin/"):
        with pytest.raises(InvalidStatus) as refused:
            await opening(site, next(iter(sessions.values())), path=path)
        assert refused.value.response.status_code == 403


async def test_rubbish_ends_only_the_connection_that_sends_it(
    site: DeployedSite, sessions: dict[int, str], sockets: dict[int, ClientConnection], publisher: redis.Redis
) -> None:
    """Objects that are refused are answered, what is no text or too long ends the connection, the others go on."""
    user, session = next(iter(sessions.items()))
    async with opening(site, session) as socket:
        await receive(socket)
        for rubbish in ("{", '{"type":"subscribe_all"}', "[" * 10_000, '{"type":"ping"}\n\n', "null"):
            await socket.send(rubbish)
        answers = await receive_objects(socket, 7)
        assert [answer.get("code", answer["type"]) for answer in answers] == [
            "bad_json", "bad_frame", "bad_frame", "pong", "bad_json", "bad_json", "bad_frame"
        ]  # fmt: skip
        await socket.send(b'{"type":"ping"}')
        assert await close_code(socket) == CloseCode.PROTOCOL_ERROR
    for size, text in ((FRAME_LIMIT_BYTES + 1, True), (1024 * 1024, True), (1024 * 1024, False)):
        async with opening(site, session) as socket:
            await receive(socket)
            await socket.send(b" " * size, text=text)
            # The server itself refuses to read that much: 1009, or (Daphne) without a word.
            assert await close_code(socket) in (1009, None)
    tell(publisher, user, "still here")
    assert (await receive(sockets[user]))["data"]["message"] == "still here"


async def receive_objects(socket: ClientConnection, count: int) -> list[Any]:
    """The next `count` objects, over as many frames as they take."""
    objects: list[Any] = []
    while len(objects) < count:
        async with asyncio.timeout(DEADLINE_SECONDS):
            objects += [json.loads(line) for line in str(await socket.recv()).split("\n")]
    return objects


async def test_bytes_that_are_no_websocket_harm_nobody(
    site: DeployedSite, sockets: dict[int, ClientConnection], publisher: redis.Redis
) -> None:
    """Half a handshake, no HTTP at all, a frame that lies about its length, a connection that is reset in mid-frame."""
    request = f"GET /ws/ HTTP/1.1\r\nHost: {site.address}\r\n"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    for sent in (
        b"\x00" * 64,
        request.encode(),
        (request + upgrade + "\r\n").encode(),
        (request + upgrade + "Sec-WebSocket-Key: short\r\n\r\n").encode(),
        (request + upgrade + key).encode() + b"\x81\xff" + struct.pack("!Q", 2**62) + b"\x00" * 8,
        (request + upgrade + key).encode() + b"\x81\xfe",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        writer.transport.abort()
        del reader
    for user, socket in sockets.items():
        tell(publisher, user, "still here")
        assert (await receive(socket))["data"]["message"] == "still here"


async def test_an_idle_connection_lives(sockets: dict[int, ClientConnection], publisher: redis.Redis) -> None:
    """
    After a silence longer than redis-py 8 allows by default (channels_redis#422), the next notification arrives.

    This test waits on purpose: the silence is what it is about, and there is no fact that tells of it sooner.
    """
    await asyncio.sleep(IDLE_SECONDS)
    for user, socket in sockets.items():
        tell(publisher, user, "after the silence")
        assert (await receive(socket))["data"]["message"] == "after the silence"
        await socket.send('{"type":"ping"}')
        assert await receive(socket) == {"type": "pong"}


async def test_a_server_that_stops_does_not_wait_for_open_connections(
    site: DeployedSite, sessions: dict[int, str], sockets: dict[int, ClientConnection]
) -> None:
    """SIGTERM: the process ends in time, every connection learns of it, and the next process serves them again."""
    seconds = await asyncio.to_thread(site.stop, WEB)
    try:
        assert seconds < STOP_SECONDS / 2
        codes = {await close_code(socket) for socket in sockets.values()}
        # Ours says "restart" and when to come back, uvicorn's own "service restart"; Daphne only closes the connection.
        expected = {"signalbox": {CloseCode.RESTART}, "uvicorn": {1012}, "daphne": {None}}
        assert codes == expected[site.server]
    finally:
        await asyncio.to_thread(site.start_web)
    for user, session in sessions.items():
        await (await _greeted(site, user, session)).close()
