"""Who a session cookie belongs to, on a real database: as Django has it, whatever keeps sessions, however many ask."""

import asyncio
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async as in_thread
from django.conf import settings as django_settings
from django.contrib.auth import get_user, login
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import InterfaceError, OperationalError
from django.test import RequestFactory

from realtime.protocol.close_codes import CloseCode
from realtime.statistics import collect
from realtime.websocket import authentication
from realtime.websocket.authentication import SessionUsers, users_of

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
ALL_USERS_BACKEND = "django.contrib.auth.backends.AllowAllUsersModelBackend"


class BrokenStore(DatabaseStore):
    """One session of it cannot be read."""

    def load(self) -> Any:
        if self.session_key == "broken-session":
            raise LookupError(self.session_key)
        return super().load()


class AsyncStore(SessionBase):
    """An engine that has only the async half of the interface."""

    sessions: dict[str, Any] = {}  # noqa: RUF012 - shared on purpose

    async def aload(self) -> Any:
        await asyncio.sleep(0)
        return self.sessions.get(self.session_key or "", {})


def store() -> type[SessionBase]:
    store: type[SessionBase] = import_module(django_settings.SESSION_ENGINE).SessionStore
    return store


def cookie_of(user: User, backend: str = MODEL_BACKEND) -> str:
    """Log in, and give the session cookie."""
    request = RequestFactory().get("/")
    request.session = store()()
    login(request, user, backend=backend)
    request.session.save()
    return str(request.session.session_key)


async def served(cookie: str | None, middleware: Any = SessionUsers, headers: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The scope that an application behind the middleware gets."""
    scopes: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    line = [(b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={cookie}".encode())] if cookie else []
    await middleware(application)({"type": "websocket", "headers": [*line, *headers]}, None, None)
    (scope,) = scopes
    return scope


def djangos(cookie: str | None) -> Any:
    """Whom Django takes a page's session for."""
    return get_user(SimpleNamespace(session=store()(cookie)))


async def agree(cookie: str | None) -> Any:
    """The user, whom Django, Channels and we agree on."""
    ours = (await served(cookie))["user"]
    theirs = (await served(cookie, AuthMiddlewareStack))["user"]
    assert ours == theirs
    assert ours == await in_thread(djangos)(cookie)
    return ours


@pytest.mark.parametrize("engine", ENGINES)
async def test_every_session_engine_tells_the_user(settings: Any, tmp_path: Any, engine: str) -> None:
    """Alone and among others, those who are logged in and those who are not."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    users = [await User.objects.acreate(username=f"user{number}") for number in range(5)]
    cookies = [await in_thread(cookie_of)(user) for user in users]
    assert await agree(cookies[0]) == users[0]
    assert await agree("0" * 32) == await agree(None) == AnonymousUser()
    scopes = await asyncio.gather(*(served(cookie) for cookie in [*cookies, "f" * 32, *cookies, None]))
    assert [scope["user"] for scope in scopes] == [*users, AnonymousUser(), *users, AnonymousUser()]
    assert [scope["session"].get("_auth_user_id") for scope in scopes[:5]] == [str(user.pk) for user in users]
    assert scopes[0]["cookies"] == {"sessionid": cookies[0]}


async def test_a_session_is_worth_what_django_says() -> None:
    """Switched off, deleted, another password, a backend that is no longer used, a session that has expired."""
    off, gone, changed, expired, plain = [
        await User.objects.acreate(username=name) for name in ("off", "gone", "changed", "expired", "plain")
    ]
    cookies = {user: await in_thread(cookie_of)(user) for user in (off, gone, changed, expired, plain)}
    await User.objects.filter(pk=off.pk).aupdate(is_active=False)
    changed.set_password("new")
    await changed.asave()
    session = DatabaseStore(cookies[expired])
    await session.aset_expiry(-1)
    await session.asave()
    gone_cookie = cookies[gone]
    await gone.adelete()
    lone = [
        (await served(cookie))["user"] for cookie in (cookies[off], gone_cookie, cookies[changed], cookies[expired])
    ]
    assert lone == [AnonymousUser()] * 4
    together = await asyncio.gather(
        *(served(cookie) for cookie in (cookies[off], gone_cookie, cookies[changed], cookies[plain], cookies[expired]))
    )
    assert [scope["user"] for scope in together] == [AnonymousUser()] * 3 + [plain, AnonymousUser()]


async def test_the_backend_that_logged_in_decides(settings: Any) -> None:
    """One that lets users in who are switched off; and none that the settings do not name any more."""
    settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND, ALL_USERS_BACKEND]
    off = await User.objects.acreate(username="off", is_active=False)
    on = await User.objects.acreate(username="on")
    cookies = [
        await in_thread(cookie_of)(off, ALL_USERS_BACKEND),
        await in_thread(cookie_of)(off, MODEL_BACKEND),
        await in_thread(cookie_of)(on, ALL_USERS_BACKEND),
    ]
    for expected in ([off, AnonymousUser(), on], [AnonymousUser()] * 3):
        assert [scope["user"] for scope in await asyncio.gather(*map(served, cookies))] == expected
        assert [(await served(cookie))["user"] for cookie in cookies] == expected
        settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND]


async def test_a_changed_secret_keeps_its_sessions(settings: Any) -> None:
    """As long as the old one is in SECRET_KEY_FALLBACKS; and the cookie stays what it is: we cannot send another."""
    user = await User.objects.acreate(username="user")
    cookie = await in_thread(cookie_of)(user)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [django_settings.SECRET_KEY]
    assert (await served(cookie))["user"] == user
    assert await DatabaseStore().aexists(cookie)
    settings.SECRET_KEY_FALLBACKS = []
    assert (await served(cookie))["user"] == AnonymousUser()


@pytest.mark.parametrize(
    "cookie", ["x", "short", "../../etc/passwd", "a" * 5_000, "\x00" * 32, "ü" * 32, "'; DROP TABLE", "%00" * 12]
)
async def test_rubbish_is_nobody(cookie: str) -> None:
    """And not an error, alone or among others."""
    assert (await served(cookie))["user"] == AnonymousUser()
    user = await User.objects.acreate(username="user")
    good = await in_thread(cookie_of)(user)
    users = [scope["user"] for scope in await asyncio.gather(served(good), served(cookie), served(good))]
    assert users == [user, AnonymousUser(), user]


async def test_a_session_of_no_user_is_nobody() -> None:
    """An anonymous visitor's, and one whose user id was written by something else."""
    cookies = []
    for data in ({"basket": [1]}, {"_auth_user_id": "no number", "_auth_user_backend": MODEL_BACKEND}):
        session = DatabaseStore()
        await session.aupdate(data)
        await session.asave()
        cookies.append(session.session_key)
    assert [scope["user"] for scope in await asyncio.gather(*map(served, cookies))] == [AnonymousUser()] * 2


async def test_cookies_may_come_in_several_headers() -> None:
    """As HTTP/2 has them, which a proxy may hand on."""
    user = await User.objects.acreate(username="user")
    cookie = await in_thread(cookie_of)(user)
    scope = await served(None, headers=((b"cookie", b"a=1"), (b"cookie", f"sessionid={cookie}".encode())))
    assert (scope["user"], scope["cookies"]["a"]) == (user, "1")


def test_a_hundred_sessions_cost_two_queries(django_assert_num_queries: Any) -> None:
    """And one costs two."""
    users = User.objects.bulk_create(User(username=f"user{number}") for number in range(100))
    cookies = [cookie_of(user) for user in users]
    for count in (100, 1):
        with django_assert_num_queries(2):
            assert users_of([DatabaseStore(cookie) for cookie in cookies[:count]]) == users[:count]


async def test_a_session_that_cannot_be_read_harms_nobody_else(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's error is the one client's, as it would be on a page."""
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore", BrokenStore)
    user = await User.objects.acreate(username="user")
    cookie = await in_thread(cookie_of)(user)
    results = await asyncio.gather(
        *(served(each) for each in (cookie, "broken-session", cookie, "broken-session")), return_exceptions=True
    )
    assert [type(result) for result in results] == [dict, LookupError, dict, LookupError]
    assert results[0]["user"] == results[2]["user"] == user  # type: ignore[index]


async def test_an_engine_that_is_async_only_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions are loaded on the event loop, its users in the thread."""
    user = await User.objects.acreate(username="user")
    session = await in_thread(lambda: dict(DatabaseStore(cookie_of(user)).items()))()
    monkeypatch.setattr(AsyncStore, "sessions", {"async-session": session})
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore", AsyncStore)
    users = [scope["user"] for scope in await asyncio.gather(served("async-session"), served("unknown-session"))]
    assert users == [user, AnonymousUser()]


async def test_while_the_database_is_away_clients_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a close code, one line in the log for all of them, and one when it is back."""
    user = await User.objects.acreate(username="user")
    cookie = await in_thread(cookie_of)(user)

    def away(sessions: Any) -> Any:
        raise OperationalError("the server closed the connection unexpectedly")

    async def turned_away() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(event: Any) -> None:
            sent.append(event)

        headers = [(b"cookie", f"sessionid={cookie}".encode())]
        scope = {"type": "websocket", "headers": headers, "subprotocols": ["other", "signalbox.v1"]}
        await SessionUsers(None)(scope, receive, send)
        return sent

    before = collect().clients.closed_counts.get(CloseCode.UNAVAILABLE, 0)
    with monkeypatch.context() as patch:
        patch.setattr(authentication, "users_of", away)
        for accept, close in await asyncio.gather(*(turned_away() for _ in range(20))):
            # A browser that is not answered by its subprotocol does not tell its page the code.
            assert accept == {"type": "websocket.accept", "subprotocol": "signalbox.v1"}
            assert (close["type"], close["code"]) == ("websocket.close", CloseCode.UNAVAILABLE)
    assert collect().clients.closed_counts[CloseCode.UNAVAILABLE] == before + 20
    assert (await served(cookie))["user"] == user
    away_line, back_line = [record.getMessage() for record in caplog.records]
    assert "the database for the sessions of clients is unavailable (OperationalError" in away_line
    assert "available again after" in back_line


async def test_a_database_connection_that_cannot_be_closed_locks_nobody_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those who wait then nor those who come later."""
    user = await User.objects.acreate(username="user")
    cookie = await in_thread(cookie_of)(user)

    async def fail() -> None:
        raise InterfaceError("connection already closed")

    with monkeypatch.context() as patch:
        patch.setattr(authentication, "aclose_old_connections", fail)
        assert (await served(cookie))["user"] == user
    assert (await served(cookie))["user"] == user
    assert {record.getMessage() for record in caplog.records} == {"a database connection could not be closed"}
