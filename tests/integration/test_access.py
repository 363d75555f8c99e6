"""A connection ends when its session or account does: at once after a signal, else by the recheck."""

import asyncio
import socket
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.db import database_sync_to_async as in_thread
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from django.contrib.auth import alogout
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import OperationalError, transaction
from django.http import HttpRequest
from django.test import Client as Browser

from realtime import access
from realtime.access import Cause
from realtime.protocol.close_codes import CloseCode
from realtime.redis.clients import CALLER_TIMEOUT_SECONDS
from realtime.redis.outage import Outage
from realtime.statistics import collect
from realtime.websocket import authentication, django_signals
from realtime.websocket.authentication import SessionUsers
from realtime.websocket.consumer import RealtimeConsumer
from tests.integration.clients import Client, Connect, tell
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

# Where a test waits for an order, the recheck is not to be what brings it.
NEVER_SECONDS = 3_600.0
SOON_SECONDS = 0.2

End = Callable[[User, str], None]


@pytest.fixture
def without_recheck(signalbox: Any) -> None:
    signalbox.REALTIME = {**signalbox.REALTIME, "RECHECK_SECONDS": NEVER_SECONDS}


@pytest.fixture
def with_recheck(signalbox: Any) -> None:
    signalbox.REALTIME = {**signalbox.REALTIME, "RECHECK_SECONDS": SOON_SECONDS}


async def greeted(connect: Connect, user: User, count: int = 1) -> list[Client]:
    clients = [await connect(user) for _ in range(count)]
    for client in clients:
        await client.greeted()
    # What was ordered before they came is known.
    return clients


async def still_hears(client: Client, user: User) -> bool:
    """Nothing came before what is published now."""
    await tell(user, "still here")
    said = await client.object()
    return bool(said.get("data") == "still here")


def browser_of(session_key: str) -> Browser:
    browser = Browser()
    browser.cookies[django_settings.SESSION_COOKIE_NAME] = session_key
    return browser


# By a signal, at once -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_recheck")
async def test_logging_out_ends_the_connections_of_that_session(
    connect: Connect, alice: User, bob: User, sessions: dict[User, str]
) -> None:
    """All of them, for good; not those of another browser of the same user, nor anybody else's."""
    two, (his,) = await greeted(connect, alice, 2), await greeted(connect, bob)
    first = sessions[alice]
    browser = Browser()
    await in_thread(browser.force_login)(alice)
    sessions[alice] = browser.cookies["sessionid"].value
    (other,) = await greeted(connect, alice)
    await in_thread(browser_of(first).logout)()
    for client in two:
        assert (await client.closed())["code"] == CloseCode.SIGNED_OUT
    assert await still_hears(other, alice)
    assert await still_hears(his, bob)


@pytest.mark.usefixtures("without_recheck")
async def test_logging_out_in_async_code_ends_them_too(
    connect: Connect, alice: User, sessions: dict[User, str]
) -> None:
    """`alogout`, as an async view calls it."""
    (client,) = await greeted(connect, alice)
    request = HttpRequest()
    request.session = import_module(django_settings.SESSION_ENGINE).SessionStore(sessions[alice])
    request.user = alice
    await alogout(request)
    assert (await client.closed())["code"] == CloseCode.SIGNED_OUT


@pytest.mark.usefixtures("without_recheck")
async def test_a_session_that_is_its_own_cookie_has_to_be_shown_anew(
    signalbox: Any, connect: Connect, alice: User, sessions: dict[User, str]
) -> None:
    """A cookie session has no fixed key: all of the user's connections have to come back and authenticate again."""
    signalbox.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    browser = Browser()
    await in_thread(browser.force_login)(alice)
    sessions[alice] = browser.cookies["sessionid"].value
    (client,) = await greeted(connect, alice)
    await in_thread(browser.logout)()
    event = await client.closed()
    assert event["code"] == CloseCode.SESSION_ENDED
    assert event["reason"].startswith("retry_after=")


def _deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def _change_password(user: User) -> None:
    user.set_password("another")
    user.save(update_fields=["password"])


@pytest.mark.usefixtures("without_recheck")
@pytest.mark.parametrize(
    ("end", "code"),
    [
        (_deactivate, CloseCode.DEACTIVATED),
        (User.delete, CloseCode.DEACTIVATED),
        (_change_password, CloseCode.PASSWORD_CHANGED),
        (lambda user: access.disconnect(user.pk), CloseCode.DISCONNECTED),
    ],
    ids=["deactivated", "deleted", "password", "by hand"],
)
async def test_what_ends_an_account_ends_all_of_its_connections(
    connect: Connect, alice: User, bob: User, end: Callable[[User], Any], code: CloseCode
) -> None:
    """And nobody else's."""
    hers, (his,) = await greeted(connect, alice, 2), await greeted(connect, bob)
    # A copy: Django takes the primary key off one that it deletes.
    await in_thread(end)(await User.objects.aget(pk=alice.pk))
    for client in hers:
        assert (await client.closed())["code"] == code
    assert await still_hears(his, bob)


@pytest.mark.usefixtures("without_recheck")
async def test_what_ends_nothing_ends_nothing(connect: Connect, alice: User) -> None:
    """Logging in elsewhere, a new address, and a deactivation that is rolled back."""
    (client,) = await greeted(connect, alice)

    def change() -> None:
        Browser().force_login(alice)
        alice.email = "alice@example.com"
        alice.save()
        with transaction.atomic():
            User(pk=alice.pk, is_active=False).save(update_fields=["is_active"])
            transaction.set_rollback(True)

    await in_thread(change)()
    assert await still_hears(client, alice)


@pytest.mark.usefixtures("without_recheck")
async def test_an_order_that_comes_while_somebody_is_let_in_is_not_missed(
    connect: Connect, alice: User, sessions: dict[User, str]
) -> None:
    """The session was valid at the look-up and ended right after it: the connection is checked before all others."""
    consumer, first = RealtimeConsumer.as_asgi(), sessions[alice]

    async def log_out_and_serve(scope: Any, receive: Any, send: Any) -> None:
        await in_thread(browser_of(first).logout)()
        # The others have obeyed it.
        assert (await other.closed())["code"] == CloseCode.SIGNED_OUT
        await consumer(scope, receive, send)

    (other,) = await greeted(connect, alice)
    # Without it, nobody would be connected, and the process would hear no orders.
    browser = Browser()
    await in_thread(browser.force_login)(alice)
    cookie = (b"cookie", f"sessionid={first}".encode())
    sessions[alice] = browser.cookies["sessionid"].value
    await greeted(connect, alice)
    late = ApplicationCommunicator(SessionUsers(log_out_and_serve), {"type": "websocket", "headers": [cookie]})
    await late.send_input({"type": "websocket.connect"})
    assert [(await late.receive_output(5))["type"] for _ in range(2)] == ["websocket.accept", "websocket.send"]
    event = await late.receive_output(5)
    assert (event["type"], event["code"]) == ("websocket.close", CloseCode.SESSION_ENDED)
    await late.send_input({"type": "websocket.disconnect", "code": 4005})
    await late.wait(5)


@pytest.mark.usefixtures("without_recheck")
async def test_an_order_that_makes_no_sense_is_passed_over(
    connect: Connect, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each; the next is obeyed."""
    (client,) = await greeted(connect, alice)
    orders = [b"\xff", b"null", b'{"cause":"unheard of"}', b'{"cause":"disconnected","user":"x"}']
    await get_channel_layer().broadcast(access.CHANNEL, orders)
    await access.adisconnect(alice.pk)
    assert (await client.closed())["code"] == CloseCode.DISCONNECTED
    assert caplog.text.count("an order to end connections cannot be read") == len(orders)


@pytest.mark.usefixtures("without_recheck")
async def test_orders_that_redis_lost_are_made_good(connect: Connect, alice: User, redis_client: Any) -> None:
    """When its subscription is made again, a process checks all connections."""
    (client,) = await greeted(connect, alice)
    await in_thread(Session.objects.all().delete)()
    redis_client.client_kill_filter(_type="pubsub")
    assert (await client.closed())["code"] == CloseCode.SESSION_ENDED


def test_an_outage_of_redis_fails_nothing_and_holds_nobody_up(
    signalbox: Any, alice: User, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once; after a try that failed, the next saves do not wait for another."""
    monkeypatch.setattr(django_signals, "_PAUSE_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr(django_signals, "_redis_observer", Outage("Redis").observer())
    # It takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        layer = {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [url]}}
        signalbox.CHANNEL_LAYERS = {"default": layer}
        alice.save()
        began = time.monotonic()
        for _ in range(100):
            alice.save()
        assert time.monotonic() - began < 100 * CALLER_TIMEOUT_SECONDS / 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert User.objects.filter(pk=alice.pk).exists()


def test_orders_are_checked_before_they_are_sent(signalbox: Any) -> None:
    """What would end nothing, or too much at once."""
    with pytest.raises(ValueError, match="cannot end connections"):
        access.disconnect(1, cause=Cause.SAVED)
    with pytest.raises(ValueError, match="one user"):
        access.disconnect(1, 2, cause=Cause.SIGNED_OUT, session_key="x")
    with pytest.raises(ValueError, match="the limit is 1000"):
        access.disconnect(*range(1_001))


def test_a_session_key_does_not_travel(signalbox: Any, alice: User, redis_client: Any) -> None:
    """Somebody who can read Redis's channels cannot sign in with what is sent there."""
    heard = redis_client.pubsub()
    heard.subscribe(get_channel_layer().redis_channel(access.CHANNEL))
    assert heard.get_message(timeout=60)["type"] == "subscribe"
    browser = Browser()
    browser.force_login(alice)
    key = browser.cookies["sessionid"].value
    hash_text = alice.get_session_auth_hash()
    browser.logout()
    alice.save()
    said = b"".join(heard.get_message(timeout=60)["data"] for _ in range(2))
    heard.close()
    assert b"signed_out" in said
    assert b"saved" in said
    assert key.encode() not in said
    assert hash_text.encode() not in said


# By the recheck -------------------------------------------------------------------------------------------------------


def _delete_session(user: User, key: str) -> None:
    Session.objects.filter(session_key=key)._raw_delete("default")


def _expire_session(user: User, key: str) -> None:
    Session.objects.filter(session_key=key).update(expire_date="2001-01-01T00:00:00Z")


def _deactivate_by_query(user: User, key: str) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def _change_password_by_query(user: User, key: str) -> None:
    User.objects.filter(pk=user.pk).update(password="another")


@pytest.mark.usefixtures("with_recheck")
@pytest.mark.parametrize("end", [_delete_session, _expire_session, _deactivate_by_query, _change_password_by_query])
async def test_what_gives_no_signal_is_found(
    connect: Connect, alice: User, bob: User, sessions: dict[User, str], end: End
) -> None:
    """Of many connections, exactly those whose sessions have ended."""
    hers, (his,) = await greeted(connect, alice, 2), await greeted(connect, bob)
    await in_thread(end)(alice, sessions[alice])
    for client in hers:
        event = await client.closed()
        assert event["code"] == CloseCode.SESSION_ENDED
        assert event["reason"].startswith("retry_after=")
    assert await still_hears(his, bob)


@pytest.mark.usefixtures("with_recheck")
@pytest.mark.parametrize("engine", ["cached_db", "cache", "file", "signed_cookies"])
async def test_every_session_engine_is_rechecked(
    signalbox: Any, tmp_path: Any, connect: Connect, alice: User, sessions: dict[User, str], engine: str
) -> None:
    """A good session stays good; one that has ended ends the connection."""
    signalbox.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    signalbox.SESSION_FILE_PATH = str(tmp_path)
    browser = Browser()
    await in_thread(browser.force_login)(alice)
    sessions[alice] = browser.cookies["sessionid"].value
    (client,) = await greeted(connect, alice)
    before = collect().clients.closed_counts
    await asyncio.sleep(3 * SOON_SECONDS)
    assert collect().clients.closed_counts == before
    if engine == "signed_cookies":
        await User.objects.filter(pk=alice.pk).aupdate(password="another")
    else:
        store = import_module(signalbox.SESSION_ENGINE).SessionStore
        await in_thread(store(sessions[alice]).delete)()
    assert (await client.closed())["code"] == CloseCode.SESSION_ENDED


@pytest.mark.usefixtures("with_recheck")
async def test_clearsessions_ends_what_has_expired(connect: Connect, alice: User, sessions: dict[User, str]) -> None:
    (client,) = await greeted(connect, alice)
    await in_thread(_expire_session)(alice, sessions[alice])
    await in_thread(call_command)("clearsessions")
    assert (await client.closed())["code"] == CloseCode.SESSION_ENDED


async def test_an_old_connection_comes_back(signalbox: Any, connect: Connect, alice: User) -> None:
    """At once, and with what it missed."""
    young = signalbox.REALTIME
    signalbox.REALTIME = {**young, "RECHECK_SECONDS": 0.1, "CONNECTION_AGE_SECONDS": 2.0}
    client = await connect(alice)
    position = await client.greeted()
    event = await client.closed()
    assert event["code"] == CloseCode.AGED
    assert not CloseCode.AGED.is_final
    assert float(event["reason"].removeprefix("retry_after=")) <= 1
    await tell(alice, "meanwhile")
    signalbox.REALTIME = young
    again = await connect(alice, path=f"/ws/?offset={position['offset']}&epoch={position['epoch']}")
    assert (await again.greeted())["recovered"]
    assert (await again.object())["data"] == "meanwhile"


@pytest.mark.usefixtures("with_recheck")
async def test_nobody_is_thrown_out_while_the_database_is_away(
    connect: Connect, alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; when the database is back, the next round finds what has ended meanwhile."""
    (client,) = await greeted(connect, alice)
    real = authentication.users_of
    calls: list[int] = []

    def away(sessions: Any) -> Any:
        calls.append(len(sessions))
        raise OperationalError("the database is away")

    monkeypatch.setattr(authentication, "users_of", away)
    await wait_until(lambda: len(calls) > 2)
    assert await still_hears(client, alice)
    assert caplog.text.count("the database (to recheck connections) is unavailable") == 1
    monkeypatch.setattr(authentication, "users_of", real)
    await in_thread(Session.objects.all().delete)()
    assert (await client.closed())["code"] == CloseCode.SESSION_ENDED


@pytest.mark.usefixtures("with_recheck")
async def test_a_session_is_not_loaded_for_who_has_none(
    connect: Connect, alice: User, sessions: dict[User, str]
) -> None:
    """Behind middleware of the project's own, the account alone is looked at."""
    scope = {"type": "websocket", "path": "/ws/", "user": await User.objects.aget(pk=alice.pk)}
    client = ApplicationCommunicator(RealtimeConsumer.as_asgi(), scope)
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output(5))["type"] == "websocket.accept"
    assert "hello" in (await client.receive_output(5))["text"]
    await in_thread(_change_password_by_query)(alice, "")
    event = await client.receive_output(5)
    assert (event["type"], event["code"]) == ("websocket.close", CloseCode.SESSION_ENDED)
    await client.send_input({"type": "websocket.disconnect", "code": 4005})
    await client.wait(5)
