"""The WebSocket on real web servers, with a client that is not a browser. Notifications pass the whole system."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from os import kill

import pytest
import redis
from websockets.exceptions import InvalidStatus

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.messages import SUBPROTOCOL
from realtime.server import HANDSHAKE_SECONDS
from tests.acceptance.deployed_site import WEB, DeployedSite
from tests.acceptance.listeners import Listener, opening

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

# redis-py 8 by default cuts a connection that was idle for this long; a health check may hide it once.
IDLE_SECONDS = 6.5


@pytest.fixture
def publisher(site: DeployedSite) -> Iterator[redis.Redis]:
    """A foreign program: it knows only the address of Redis."""
    with redis.Redis.from_url(site.redis_url) as client:
        yield client


@pytest.fixture
async def listeners(site: DeployedSite, sessions: dict[int, str]) -> AsyncIterator[dict[int, Listener]]:
    """An open connection for each user."""
    async with AsyncExitStack() as stack:
        yield {user: await stack.enter_async_context(Listener(site, key)) for user, key in sessions.items()}


def tell(publisher: redis.Redis, user_id: int, message: str) -> None:
    assert publisher.publish("notification", json.dumps({"user_id": user_id, "message": message})) == 1


async def test_each_user_hears_what_is_meant_for_them(listeners: dict[int, Listener], publisher: redis.Redis) -> None:
    """Each user gets their own messages in order and nothing else; offsets have no gap."""
    for number in range(20):
        for user in listeners:
            tell(publisher, user, f"{number} for {user}")
    for user, listener in listeners.items():
        assert listener.user_id == user
        heard = [await listener.object() for _ in range(20)]
        assert [each["data"]["message"] for each in heard] == [f"{number} for {user}" for number in range(20)]
        assert {each["topic"] for each in heard} == {f"user.{user}"}
        first = listener.subscribed["offset"] + 1
        assert [each["offset"] for each in heard] == list(range(first, first + 20))


async def test_every_connection_of_a_user_hears_it(
    site: DeployedSite, sessions: dict[int, str], publisher: redis.Redis
) -> None:
    """Two tabs get one notification with the same id. After one tab is closed, the other continues."""
    user, session = next(iter(sessions.items()))
    async with Listener(site, session) as first, Listener(site, session) as second:
        tell(publisher, user, "to both")
        assert (await first.object())["data"]["id"] == (await second.object())["data"]["id"]
        await first.socket.close()
        tell(publisher, user, "to the other")
        assert (await second.object())["data"]["message"] == "to the other"


async def test_what_was_missed_while_away_comes_on_return(
    site: DeployedSite, sessions: dict[int, str], publisher: redis.Redis
) -> None:
    """With the position in the URL: each once, before what comes live."""
    user, session = next(iter(sessions.items()))
    async with Listener(site, session) as listener, Listener(site, session) as witness:
        await listener.socket.close()
        position = listener.subscribed
        for number in range(5):
            tell(publisher, user, f"missed {number}")
            # Now it is published.
            await witness.object()
        path = f"/ws/?offset={position['offset']}&epoch={position['epoch']}"
        async with Listener(site, session, path=path) as returned:
            assert returned.subscribed == {**position, "recovered": True}
            heard = [(await returned.object())["data"]["message"] for _ in range(5)]
            assert heard == [f"missed {number}" for number in range(5)]
            tell(publisher, user, "live")
            assert (await returned.object())["data"]["message"] == "live"


async def test_news_are_heard_by_whoever_asks(site: DeployedSite, listeners: dict[int, Listener]) -> None:
    """`manage.py publish` on a topic of the demo; other connections get nothing."""
    asking, *others = listeners.values()
    assert (await asking.answer(type="subscribe", topic="news.today"))["type"] == "subscribed"
    said = await asyncio.to_thread(site.manage, "publish", "news.today", '{"headline": "It works"}', "--repeat=3")
    assert "3 published" in said
    assert [(await asking.object())["data"] for _ in range(3)] == [{"headline": "It works"}] * 3
    assert (await asking.answer(type="unsubscribe", topic="news.today"))["type"] == "unsubscribed"
    for listener in others:
        assert await listener.answer(type="ping") == {"type": "pong"}


async def test_read_marks_reach_the_inbox(site: DeployedSite, sessions: dict[int, str], publisher: redis.Redis) -> None:
    """A notification that a client reports as read is read on every page."""
    user, session = next(iter(sessions.items()))
    async with Listener(site, session) as listener:
        tell(publisher, user, "to be read")
        number = (await listener.object())["data"]["id"]
        await listener.say(type="read", ids=[number])
        assert await listener.answer(type="ping") == {"type": "pong"}
        code = f"from notifications.models import Notification; print(Notification.objects.get(pk={number}).read_at)"
        assert "None" not in await asyncio.to_thread(site.manage, "shell", "-v0", "-c", code)


@pytest.mark.parametrize("session", [None, "0" * 32, "../../etc/passwd"])
async def test_who_is_not_logged_in_is_told_not_to_come_back(site: DeployedSite, session: str | None) -> None:
    """Accepted and then closed with a final code, which a browser can see."""
    listener = Listener(site, session or "")
    listener.socket = await opening(site, session, subprotocols=[SUBPROTOCOL])
    assert await listener.close_code() == CloseCode.UNAUTHORISED


async def test_a_program_that_is_not_logged_in_is_not_let_in(site: DeployedSite) -> None:
    """By HTTP 403, if the client can see it."""
    with pytest.raises(InvalidStatus) as refused:
        await opening(site)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null"])
async def test_a_foreign_page_is_refused(site: DeployedSite, sessions: dict[int, str], origin: str) -> None:
    """Even with the victim's cookie: HTTP 403, and one log line says which setting would allow it."""
    session = next(iter(sessions.values()))
    with pytest.raises(InvalidStatus) as refused:
        await opening(site, session, origin=origin)
    assert refused.value.response.status_code == 403
    (line,) = [line for line in site.logs()[WEB].splitlines() if repr(origin) in line]
    assert "ALLOWED_ORIGINS" in line


async def test_a_page_of_the_site_is_let_in(site: DeployedSite, sessions: dict[int, str]) -> None:
    """As a browser sends it."""
    async with opening(site, next(iter(sessions.values())), origin=site.url) as socket:  # type: ignore[arg-type]
        assert '"hello"' in str(await socket.recv())


async def test_a_path_that_leads_nowhere_is_refused(site: DeployedSite, sessions: dict[int, str]) -> None:
    """HTTP 403 and no traceback."""
    for path in ("/", "/ws", "/ws/user.1/", "/admin/"):
        with pytest.raises(InvalidStatus) as refused:
            await opening(site, next(iter(sessions.values())), path=path)
        assert refused.value.response.status_code == 403


async def test_a_user_has_only_so_many_connections(site: DeployedSite, sessions: dict[int, str]) -> None:
    """The thirty-third is closed with a final code; the others stay open."""
    session = list(sessions.values())[1]
    async with AsyncExitStack() as stack:
        many = [await stack.enter_async_context(Listener(site, session)) for _ in range(32)]
        one_more = Listener(site, session)
        one_more.socket = await opening(site, session)
        assert await one_more.close_code() == CloseCode.TOO_MANY_CONNECTIONS
        for listener in many:
            assert await listener.answer(type="ping") == {"type": "pong"}


@pytest.mark.parametrize("running_site", ["signalbox"], indirect=True)
async def test_a_silent_connection_lives_and_an_unfinished_handshake_does_not(
    site: DeployedSite, listeners: dict[int, Listener], publisher: redis.Redis
) -> None:
    """
    After a silence longer than redis-py 8 allows by default (channels_redis#422), the next notification arrives.
    Meanwhile, clients that began to connect and never finished were cut, whatever they had sent.

    This test waits on purpose, because it is about the silence.
    """
    host, port = site.address.split(":")
    unfinished = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
    for said, (_, writer) in zip((b"", b"GET /ws/", b"GET /ws/ HTTP/1.1\r\nUpgrade: w"), unfinished, strict=True):
        writer.write(said)
    started = time.monotonic()
    async with asyncio.timeout(HANDSHAKE_SECONDS + 120):
        answers = [await reader.read() for reader, _ in unfinished]
    # Our server notifies the clients that had begun.
    assert [answer.partition(b"\r\n")[0] for answer in answers] in (
        [b"", *[b"HTTP/1.1 408 Request Timeout"] * 2],
        [b""] * 3,
    )
    assert time.monotonic() - started > IDLE_SECONDS
    for _, writer in unfinished:
        writer.close()
        await writer.wait_closed()
    for user, listener in listeners.items():
        tell(publisher, user, "after the silence")
        assert (await listener.object())["data"]["message"] == "after the silence"
        assert await listener.answer(type="ping") == {"type": "pong"}


async def test_a_server_that_stops_sends_its_clients_away(site: DeployedSite, sessions: dict[int, str]) -> None:
    """Our server tells each client a different time at which to connect again."""
    ends = await _stop_with_two_hundred_connections(site, signal_count=1)
    if site.server == "signalbox":
        assert {code for code, _ in ends} == {CloseCode.RESTART}
        waits = {float(re.fullmatch(r"retry_after=(\d+\.\d\d)", reason)[1]) for _, reason in ends}  # type: ignore[index]
        assert len(waits) > 100
    else:
        # uvicorn sends "restart"; Daphne only closes the connection. After both, a client connects again.
        assert {code for code, _ in ends} <= {1012, None}
    async with Listener(site, next(iter(sessions.values()))) as listener:
        assert await listener.answer(type="ping") == {"type": "pong"}


@pytest.mark.parametrize("running_site", ["signalbox"], indirect=True)
async def test_a_second_sigterm_changes_nothing(site: DeployedSite) -> None:
    """A second SIGTERM changes nothing: each client is told to connect again."""
    ends = await _stop_with_two_hundred_connections(site, signal_count=2)
    assert {code for code, _ in ends} == {CloseCode.RESTART}


async def _stop_with_two_hundred_connections(site: DeployedSite, *, signal_count: int) -> list[tuple[int | None, str]]:
    """Stop the web server by SIGTERM and start the next one. Returns with which code and reason each one ended."""

    async def leave(listener: Listener) -> tuple[int | None, str]:
        closed = await listener.closed()
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")

    many = await asyncio.to_thread(site.sessions, 200)
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(Listener(site, key)) for key in many.values()]
        leaving = asyncio.gather(*(leave(listener) for listener in listeners))
        try:
            for _ in range(signal_count - 1):
                kill(site.pid(WEB), signal.SIGTERM)
            await asyncio.to_thread(site.stop, WEB)
            return await leaving
        finally:
            await asyncio.to_thread(site.start_web)
