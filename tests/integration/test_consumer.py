"""The WebSocket end on a real channel layer, Redis and database; only the web server is left out."""

import asyncio
import json
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from project.asgi import application
from realtime.close_codes import CloseCode
from realtime.protocol import FRAME_LIMIT_BYTES, SUBPROTOCOL
from realtime.publisher import apublish
from realtime.sessions import REFUSED_LIMIT
from realtime.topics import user_topic
from tests.redis_server import RedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

HOST = (b"host", b"testserver")

Connect = Callable[..., Awaitable[WebsocketCommunicator]]


def session_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def sessions(alice: User, bob: User) -> dict[User, str]:
    """A session cookie of each."""
    return {user: session_of(user) for user in (alice, bob)}


@pytest.fixture
async def connect(signalbox: Any, sessions: dict[User, str]) -> AsyncIterator[Connect]:
    """Open a WebSocket as a user (or as nobody) and return it; all are closed when the test ends."""
    signalbox.ALLOWED_HOSTS = ["testserver"]
    opened: list[WebsocketCommunicator] = []

    async def connect(
        user: User | None = None,
        *,
        path: str = "/ws/",
        headers: tuple[Any, ...] = (),
        subprotocols: tuple[str, ...] = (),
    ) -> WebsocketCommunicator:
        cookies = [(b"cookie", f"sessionid={sessions[user]}".encode())] if user else []
        socket = WebsocketCommunicator(application, path, [HOST, *cookies, *headers], list(subprotocols))
        opened.append(socket)
        await socket.send_input({"type": "websocket.connect"})
        return socket

    yield connect
    for socket in opened:
        if not socket.future.done():
            await socket.disconnect()
    layer = get_channel_layer()
    await wait_until(lambda: layer.hub.statistics().topic_count == 0)
    await wait_until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("realtime")])
    await layer.flush()


# Objects of a frame that were not asked for yet.
_held: weakref.WeakKeyDictionary[WebsocketCommunicator, list[Any]] = weakref.WeakKeyDictionary()


async def opened(socket: WebsocketCommunicator) -> dict[str, Any]:
    """The hello of a connection that is accepted; its own topic is subscribed in the same frame."""
    assert (await socket.receive_output(5))["type"] == "websocket.accept"
    hello, subscribed = await frame(socket), await frame(socket)
    assert subscribed["type"] == "subscribed"
    return hello


async def frame(socket: WebsocketCommunicator) -> Any:
    """The next object."""
    held = _held.setdefault(socket, [])
    if not held:
        held += [json.loads(line) for line in (await socket.receive_from(5)).split("\n")]
    return held.pop(0)


async def message(socket: WebsocketCommunicator) -> Any:
    """The next publication; that a topic has got its first epoch is passed over."""
    while (answer := await frame(socket))["type"] == "subscribed":
        assert answer["recovered"]
    return answer


async def closed(socket: WebsocketCommunicator) -> dict[str, Any]:
    event = await socket.receive_output(5)
    assert event["type"] == "websocket.close", event
    return event


async def publish(user: User, data: bytes) -> None:
    await apublish(user_topic(user.pk), data)


async def test_a_signed_in_user_is_greeted(connect: Connect, alice: User) -> None:
    """Hello names the user and how often to ping."""
    socket = await connect(alice)
    assert await opened(socket) == {"type": "hello", "user_id": alice.pk, "ping_seconds": 25}


async def test_the_subprotocol_is_echoed_when_offered(connect: Connect, alice: User) -> None:
    """A client that names signalbox.v1 gets it, one that names others or none is accepted without."""
    for offered, chosen in [((SUBPROTOCOL,), SUBPROTOCOL), (("other", SUBPROTOCOL), SUBPROTOCOL), (("other",), None)]:
        socket = await connect(alice, subprotocols=offered)
        assert (await socket.receive_output(5)) == {"type": "websocket.accept", "subprotocol": chosen}


async def test_what_is_published_after_hello_arrives_in_order(connect: Connect, alice: User) -> None:
    """Hello is sent after the group is joined, so nothing published from then on is missed."""
    socket = await connect(alice)
    await opened(socket)
    for number in range(100):
        await publish(alice, b'{"id": %d}' % number)
    for number in range(100):
        assert await message(socket) == {
            "type": "message",
            "topic": f"user.{alice.pk}",
            "offset": number + 1,
            "data": {"id": number},
        }


async def test_a_user_hears_their_own_topic_only(connect: Connect, alice: User, bob: User) -> None:
    """All sockets of alice get what is hers; bob's next frame is his own."""
    hers, hers_too, his = await connect(alice), await connect(alice), await connect(bob)
    for socket in (hers, hers_too, his):
        await opened(socket)
    await publish(alice, b'"for alice"')
    await publish(bob, b'"for bob"')
    assert (await message(hers))["data"] == (await message(hers_too))["data"] == "for alice"
    assert (await message(his))["data"] == "for bob"


async def test_who_is_not_signed_in_is_told_so_by_a_close_code(connect: Connect) -> None:
    """A page sees the code of a close, not the status of a handshake: so accept, then close, and stop retrying."""
    for socket in (await connect(), await connect(headers=((b"cookie", b"sessionid=forged"),))):
        assert (await socket.receive_output(5))["type"] == "websocket.accept"
        close = await closed(socket)
        assert close["code"] == CloseCode.UNAUTHORISED
        assert CloseCode(close["code"]).is_final
        assert close["reason"] == "sign in first"


async def test_an_inactive_user_is_refused(connect: Connect, alice: User) -> None:
    """A session outlives the moment when its user was switched off; the connection does not begin."""
    alice.is_active = False
    await alice.asave()
    socket = await connect(alice)
    assert (await socket.receive_output(5))["type"] == "websocket.accept"
    assert (await closed(socket))["code"] == CloseCode.UNAUTHORISED


async def test_a_session_ended_by_logout_opens_nothing(
    connect: Connect, sessions: dict[User, str], alice: User
) -> None:
    """The cookie of a session that is gone is as good as none."""
    client = Client()
    client.cookies["sessionid"] = sessions[alice]
    await client.alogout()
    socket = await connect(alice)
    assert (await socket.receive_output(5))["type"] == "websocket.accept"
    assert (await closed(socket))["code"] == CloseCode.UNAUTHORISED


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
        socket = await connect(alice, headers=headers)
        await closed(socket)
        await socket.wait()
    (record,) = caplog.records
    assert record.name == "realtime.origins"
    assert 'REALTIME["ALLOWED_ORIGINS"]' in record.getMessage()
    assert repr(headers[-1][1].decode())[1:20] in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 600


async def test_an_origin_of_the_setting_is_let_in(connect: Connect, signalbox: Any, alice: User) -> None:
    """REALTIME["ALLOWED_ORIGINS"] names pages beside the site's own."""
    signalbox.REALTIME = {**signalbox.REALTIME, "ALLOWED_ORIGINS": ["https://partner.example"]}
    for origin in (b"https://partner.example", b"http://testserver", b"https://testserver:8443"):
        assert (await opened(await connect(alice, headers=((b"origin", origin),))))["type"] == "hello"


@pytest.mark.parametrize("host", [b"evil.example", b"", b"test server", b"testserver:port", b"testserver\r\nx"])
async def test_a_host_that_is_not_this_site_is_refused(
    connect: Connect, signalbox: Any, alice: User, host: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As with every page of Django: otherwise a name that somebody points here would count as the site itself."""
    signalbox.USE_X_FORWARDED_HOST = True
    socket = await connect(alice, headers=((b"x-forwarded-host", host), (b"origin", b"http://evil.example")))
    await closed(socket)
    assert "ALLOWED_HOSTS" in caplog.text


async def test_a_forwarded_host_counts_only_when_django_trusts_it(
    connect: Connect, signalbox: Any, alice: User
) -> None:
    """USE_X_FORWARDED_HOST means for WebSockets what it means for pages."""
    forged = ((b"x-forwarded-host", b"evil.example"), (b"origin", b"http://testserver"))
    assert (await opened(await connect(alice, headers=forged)))["type"] == "hello"
    signalbox.USE_X_FORWARDED_HOST = True
    await closed(await connect(alice, headers=forged))


async def test_an_unknown_path_is_refused_without_a_traceback(connect: Connect, alice: User) -> None:
    """The application ends by itself instead of raising into the server's log."""
    for path in ("/", "/ws", "/ws/more", "/wss/", "/ws/../ws/%00"):
        socket = await connect(alice, path=path)
        await closed(socket)
        await socket.wait()


async def test_a_ping_is_answered(connect: Connect, alice: User) -> None:
    """One answer an object."""
    socket = await connect(alice)
    await opened(socket)
    await socket.send_to('{"type":"ping"}')
    assert await socket.receive_from(5) == '{"type":"pong"}'
    await socket.send_to('{"type":"ping"}\n{"type":"ping"}')
    assert [await frame(socket), await frame(socket)] == [{"type": "pong"}] * 2


async def test_rubbish_is_answered_and_the_connection_stays(connect: Connect, alice: User) -> None:
    """Each object that is refused is answered by an error; what comes after it is served."""
    socket = await connect(alice)
    await opened(socket)
    for rubbish, code in [("{", "bad_json"), ('{"type":"shout"}', "bad_frame"), ("\u2028", "bad_json")]:
        await socket.send_to(rubbish)
        answer = await frame(socket)
        assert (answer["type"], answer["code"]) == ("error", code)
    await publish(alice, b'"still here"')
    assert (await message(socket))["data"] == "still here"


@pytest.mark.parametrize(
    "sent",
    [
        {"bytes": b'{"type":"ping"}'},
        {"text": '{"type":"ping","x":"' + "x" * FRAME_LIMIT_BYTES + '"}'},
        # Few characters but many bytes: the limit counts bytes.
        {"text": "😀" * (FRAME_LIMIT_BYTES // 4 + 1)},
        {"text": "\n".join(["x"] * (REFUSED_LIMIT + 1))},
    ],
    ids=["binary", "too long", "too many bytes", "too many refused"],
)
async def test_what_breaks_the_protocol_ends_the_connection(
    connect: Connect, alice: User, sent: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A final close code with a reason, no traceback, and the other connections go on."""
    bad, good = await connect(alice), await connect(alice)
    await opened(bad)
    await opened(good)
    await bad.send_input({"type": "websocket.receive", **sent})
    # What was refused before is answered first.
    while (close := await bad.receive_output(5))["type"] == "websocket.send":
        assert json.loads(close["text"])["type"] == "error"
    assert close["code"] == CloseCode.PROTOCOL_ERROR
    assert close["reason"]
    await bad.wait()
    await publish(alice, b'"still here"')
    assert (await message(good))["data"] == "still here"
    assert not caplog.records


async def test_a_connection_that_ends_leaves_its_topic(connect: Connect, alice: User) -> None:
    """The last one to leave takes the topic's subscription along."""
    first, second = await connect(alice), await connect(alice)
    await opened(first)
    await opened(second)
    hub = get_channel_layer().hub
    await first.disconnect()
    assert hub.member_count(user_topic(alice.pk)) == 1
    await second.disconnect()
    assert hub.statistics().topic_count == 0


async def test_a_server_that_cancels_the_connection_leaves_no_trace(connect: Connect, alice: User) -> None:
    """Daphne cancels its applications when it stops."""
    socket = await connect(alice)
    await opened(socket)
    socket.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.future
    assert get_channel_layer().hub.statistics().topic_count == 0


async def test_a_client_that_vanishes_while_written_to_is_no_error(
    connect: Connect, sessions: dict[User, str], alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers raise OSError from send() then; the connection ends quietly and its group is left."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    said: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        said.append(event["type"])
        if len(said) > 2:
            raise ConnectionResetError

    scope = {"type": "websocket", "path": "/ws/", "query_string": b"", "subprotocols": []}
    scope |= {"headers": [HOST, (b"cookie", f"sessionid={sessions[alice]}".encode())]}
    inbox.put_nowait({"type": "websocket.connect"})
    served = asyncio.create_task(application(scope, inbox.get, send))
    await wait_until(lambda: len(said) == 2)
    for _ in range(3):
        await publish(alice, b'"too late"')
    inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await served
    assert said == ["websocket.accept", "websocket.send", "websocket.send"]
    assert get_channel_layer().hub.statistics().topic_count == 0
    assert not caplog.records


async def test_without_redis_clients_are_told_to_come_back(
    connect: Connect, signalbox: Any, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """The code asks for another try; one line in the log for all of them, and one when Redis is back."""
    previous = signalbox.CHANNEL_LAYERS
    with RedisServer() as lost:
        signalbox.CHANNEL_LAYERS = {
            "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [lost.url]}}
        }
        lost.kill()
        for _ in range(2):
            socket = await connect(alice)
            assert (await socket.receive_output(5))["type"] == "websocket.accept"
            close = await socket.receive_output(10)
            assert (close["type"], close["code"]) == ("websocket.close", CloseCode.REDIS_LOST)
            await socket.disconnect()
        assert not CloseCode.REDIS_LOST.is_final
        lines = [record.getMessage() for record in caplog.records if record.name == "realtime.outage"]
        assert len(lines) == 1 and "is away" in lines[0]

        lost.start()
        socket = await connect(alice)
        assert (await opened(socket))["type"] == "hello"
        assert "back after" in caplog.text
        await socket.disconnect()
        await get_channel_layer().flush()
    signalbox.CHANNEL_LAYERS = previous
