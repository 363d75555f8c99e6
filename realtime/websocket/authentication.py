"""
Finds the users of WebSocket sessions, also when a thousand clients reconnect at once.

Owns the look-up in batches: sessions that arrive during a look-up share the next one. With Django's own session and
auth backends, a batch costs one hop to a thread and two queries; Channels' AuthMiddlewareStack needs these for each
connection. Does not own what a user may do (topics).
"""

import asyncio
import contextlib
import logging
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from channels.db import aclose_old_connections, database_sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model, load_backend
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.core.exceptions import ValidationError
from django.db import InterfaceError, OperationalError, router
from django.db.models import QuerySet
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import send_close
from realtime.redis.batcher import Batcher
from realtime.redis.outage import Outage
from realtime.websocket.counters import counters

__all__ = ["DATABASE_UNAVAILABLE", "SessionUsers", "fresh_users", "users_of", "users_of_keys"]

logger = logging.getLogger(__name__)

# What Django raises when the database is unavailable.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError)
# Shared by all connections of the process, so that an outage is logged once.
_database_observer = Outage("the database for the sessions of clients").observer()

# The most sessions in one look-up; further ones wait for the next.
BATCH_SIZE = 100


class SessionUsers:
    """
    ASGI middleware: puts `cookies`, `session` and `user` into the scope, as Channels' AuthMiddlewareStack does.

    The session is loaded and the user is a plain object. Nothing is written: a session whose user has changed the
    password counts as signed out, and Django deletes it at the next page.

    Args:
        application: The ASGI application behind this middleware.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        cookies = _cookies(scope.get("headers") or ())
        store = import_module(settings.SESSION_ENGINE).SessionStore
        key = cookies.get(settings.SESSION_COOKIE_NAME, "")
        # PostgreSQL refuses NUL, so such a cookie would look like a failure of the database.
        session = store(None if "\0" in key else key)
        if session.session_key is None:
            await self.application(
                {**scope, "cookies": cookies, "session": session, "user": AnonymousUser()}, receive, send
            )
            return
        try:
            user = await _UserLoader.of_loop().user_of(session)
        except DATABASE_UNAVAILABLE as error:
            _database_observer.failed(error)
            await receive()
            await send(messages.accept(scope))
            counters.closed[CloseCode.UNAVAILABLE] += 1
            await send_close(send, code=CloseCode.UNAVAILABLE, reason="come back soon")
            return
        _database_observer.worked()
        await self.application({**scope, "cookies": cookies, "session": session, "user": user}, receive, send)


async def users_of_keys(session_keys: Sequence[str]) -> list[Any]:
    """
    The current user of each session, in the order of the keys.

    For a session that has ended it is AnonymousUser, and for one that cannot be read it is None. The look-up runs in
    the same thread as those for new connections. Raises what the database raises.
    """
    store = import_module(settings.SESSION_ENGINE).SessionStore
    # Each session is looked up once: without a shared worker, each tab of a browser has a connection.
    sessions = {key: store(key) for key in session_keys}
    if store.load is SessionBase.load:
        # An engine that has only the async half of the interface.
        for session in sessions.values():
            await session._aget_session()
    await _close_old_connections()
    try:
        users = dict(zip(sessions, await _users_or_none(list(sessions.values())), strict=True))
    finally:
        await _close_old_connections()
    return [users[key] for key in session_keys]


async def _users_or_none(sessions: Sequence[SessionBase]) -> list[Any]:
    try:
        return await sync_to_async(users_of)(sessions)
    except DATABASE_UNAVAILABLE:
        raise
    except Exception:
        if len(sessions) == 1:
            logger.warning("a session could not be read; its connections stay open for now", exc_info=True)
            return [None]
        # One session fails: look up each alone, so that the others are not affected.
        return [user for each in sessions for user in await _users_or_none([each])]


async def fresh_users(users: Sequence[Any]) -> list[Any]:
    """
    Read users again from the database, for connections that were not authenticated by a session.

    A user that was deleted, or whose password has changed, becomes AnonymousUser.
    """
    fresh: list[Any] = await database_sync_to_async(_read_anew)(users)
    return fresh


def _read_anew(users: Sequence[Any]) -> list[Any]:
    rows = _accounts().in_bulk({user.pk for user in users})
    return [
        row
        if (row := rows.get(user.pk)) is not None
        and (not hasattr(user, "get_session_auth_hash") or _is_verified(row, user.get_session_auth_hash()))
        else AnonymousUser()
        for user in users
    ]


def _cookies(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    # A client may send several Cookie headers over HTTP/2.
    lines = [value.decode("latin1") for name, value in headers if name == b"cookie"]
    return parse_cookie("; ".join(lines)) if lines else {}


class _UserLoader:
    """Looks up the users of sessions in batches, for the new connections of one event loop."""

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, "_UserLoader"]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self._batcher = Batcher[SessionBase, Any](
            _users_or_errors, name="realtime session users", limit=BATCH_SIZE, while_busy=_closing_old_connections
        )

    @classmethod
    def of_loop(cls) -> "_UserLoader":
        loop = asyncio.get_running_loop()
        loader = cls._of_loop.get(loop)
        if loader is None:
            loader = cls._of_loop[loop] = cls()
        return loader

    async def user_of(self, session: SessionBase) -> Any:
        """The user of a session, or AnonymousUser; raises what the database raises."""
        if type(session).load is SessionBase.load:
            # An engine that has only the async half of the interface.
            await session._aget_session()  # type: ignore[attr-defined]
        return await self._batcher.ask(session)


async def _users_or_errors(sessions: Sequence[SessionBase]) -> list[Any]:
    try:
        return await sync_to_async(users_of)(sessions)
    except Exception as error:
        await _close_old_connections()
        if len(sessions) == 1 or isinstance(error, DATABASE_UNAVAILABLE):
            return [error] * len(sessions)
        # One session fails: look up each alone, so that the others are not affected.
        return [user for each in sessions for user in await _users_or_errors([each])]


@contextlib.asynccontextmanager
async def _closing_old_connections() -> AsyncIterator[None]:
    """Between the batches the thread's database connection stays open: opening one may cost more than a batch."""
    await _close_old_connections()
    try:
        yield
    finally:
        await _close_old_connections()


async def _close_old_connections() -> None:
    """Close database connections that are broken or too old; a failure is logged and does not stop the look-ups."""
    try:
        await aclose_old_connections()
    except Exception:
        logger.warning("a database connection could not be closed", exc_info=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """The claim of a session about its user."""

    user_id: Any
    backend_path: str
    auth_hash: str = field(repr=False)


def users_of(sessions: Sequence[SessionBase]) -> list[Any]:
    """
    Find the users of sessions, in their order; AnonymousUser where there is none.

    Sync: it queries the database. The rules are those of `django.contrib.auth.get_user`: the session's backend is in
    AUTHENTICATION_BACKENDS and returns the user, and the session auth hash matches, with SECRET_KEY or one of its
    fallbacks.
    """
    _load(sessions)
    claims = [_claim(session) for session in sessions]
    wanted: defaultdict[str, set[Any]] = defaultdict(set)
    for claim in claims:
        if claim is not None:
            wanted[claim.backend_path].add(claim.user_id)
    users = {(path, pk): user for path, pks in wanted.items() for pk, user in _get_users(path, pks).items()}
    return [
        user
        if claim is not None
        and (user := users.get((claim.backend_path, claim.user_id))) is not None
        and _is_verified(user, claim.auth_hash)
        else AnonymousUser()
        for claim in claims
    ]


def _load(sessions: Sequence[SessionBase]) -> None:
    """Load the sessions that are not loaded; those of a stock database engine with one query."""
    by_class: defaultdict[type[SessionBase], list[SessionBase]] = defaultdict(list)
    for session in sessions:
        if session.session_key is not None and not hasattr(session, "_session_cache"):
            by_class[type(session)].append(session)
    for store, group in by_class.items():
        is_stock = (
            issubclass(store, DatabaseStore)
            and store.load is DatabaseStore.load
            and store._get_session_from_db is DatabaseStore._get_session_from_db  # type: ignore[attr-defined]
        )
        if not is_stock:
            continue
        model: Any = store.get_model_class()  # type: ignore[attr-defined]
        # Never from a replica, which may lag: a new session would be missing, and an ended one would still be there.
        live = model.objects.using(router.db_for_write(model)).filter(expire_date__gt=timezone.now())
        rows = {row.session_key: row for row in live.filter(session_key__in={each.session_key for each in group})}
        for session in group:
            row = rows.get(session.session_key)
            session._session_cache = {} if row is None else session.decode(row.session_data)  # type: ignore[attr-defined]


def _claim(session: SessionBase) -> _Claim | None:
    # Reading an item loads the session, if that was not done before.
    try:
        text, path = session[SESSION_KEY], session[BACKEND_SESSION_KEY]
        user_id = get_user_model()._meta.pk.to_python(text)
    except (KeyError, ValidationError):
        return None
    if path not in settings.AUTHENTICATION_BACKENDS:
        return None
    return _Claim(user_id=user_id, backend_path=path, auth_hash=session.get(HASH_SESSION_KEY) or "")


def _get_users(backend_path: str, user_ids: set[Any]) -> dict[Any, Any]:
    backend = load_backend(backend_path)
    if isinstance(backend, ModelBackend) and type(backend).get_user is ModelBackend.get_user:
        found = _accounts().in_bulk(user_ids)
        return {pk: user for pk, user in found.items() if backend.user_can_authenticate(user)}
    return {user_id: backend.get_user(user_id) for user_id in user_ids}


def _accounts() -> QuerySet[Any]:
    """All accounts, never read from a replica, which may lag."""
    model: Any = get_user_model()
    rows: QuerySet[Any] = model._default_manager.using(router.db_for_write(model))
    return rows


def _is_verified(user: Any, auth_hash: str) -> bool:
    if not hasattr(user, "get_session_auth_hash"):
        return True
    if not auth_hash:
        return False
    return constant_time_compare(auth_hash, user.get_session_auth_hash()) or any(
        constant_time_compare(auth_hash, fallback) for fallback in user.get_session_auth_fallback_hash()
    )
