"""
The WebSocket consumer: how a connection begins and ends.

Owns accepting and refusing connections. Does not own finding the user (authentication), the objects that a client sends
(client) nor what it gets (hub). Nothing here uses the database.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from asgiref.sync import iscoroutinefunction
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth import SESSION_KEY
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from realtime.broker.publication import Position
from realtime.conf import RealtimeSettings, get_settings
from realtime.event_loops import before_close
from realtime.hub.hub import Hub
from realtime.hub.sinks import AsgiSink, RawSink
from realtime.layer import RedisChannelLayer
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.closing import send_close
from realtime.websocket.client import Client
from realtime.websocket.counters import counters
from realtime.websocket.daphne import WaitingSend, waiting
from realtime.websocket.roster import Roster

__all__ = ["RealtimeConsumer"]

logger = logging.getLogger(__name__)


class RealtimeConsumer(AsyncConsumer):  # type: ignore[misc]
    """
    One WebSocket of one signed-in user, speaking `signalbox.v1`.

    Must be served behind OriginCheck and SessionUsers, or other middleware that puts a `user` into the scope (see
    `realtime.routing.websocket_application`), with `realtime.layer.RedisChannelLayer` as the channel layer.

    A client resumes its own topic by giving its position in the URL: `/ws/?offset=16&epoch=m1f9`.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        # Not AsyncConsumer's own loop, which creates two tasks and hops to a thread for each message.
        layer = get_channel_layer(self.channel_layer_alias)
        if not isinstance(layer, RedisChannelLayer):
            raise ImproperlyConfigured("RealtimeConsumer needs realtime.layer.RedisChannelLayer as its channel layer")
        await receive()
        # Behind AuthMiddlewareStack the user is a lazy object that holds the whole scope.
        user = getattr(scope["user"], "_wrapped", scope["user"])
        try:
            if user.is_authenticated and user.is_active:
                await send(messages.accept(scope))
                await self._serve(layer, user, scope, receive, send)
            else:
                await _refuse_anonymous(scope, send)
        except OSError:
            # Servers raise it from send() when the client has gone (ASGI 2.4).
            logger.debug("the client has gone", exc_info=True)

    async def _serve(self, layer: RedisChannelLayer, user: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
        settings = get_settings()
        since = _position(scope.get("query_string") or b"")
        client = Client(
            roster=_roster_of(layer, settings),
            user=user,
            session_key=_session_key(scope),
            limits=settings,
            on_read=_read_hook(settings.on_read),
        )
        bounds: dict[str, Any] = {"limit_bytes": settings.unsent_limit_bytes, "on_overflow": client.close_slow}
        server = (scope.get("extensions") or {}).get("signalbox.frames")
        if server is not None:
            socket = server.detach(limit_bytes=messages.FRAME_LIMIT_BYTES)
            client.start(RawSink(socket, **bounds), since)
            socket.start(client)
            return
        throttled_send = waiting(send, limit_bytes=settings.unsent_limit_bytes)
        client.start(AsgiSink(throttled_send, **bounds), since)
        try:
            while (event := await receive())["type"] != "websocket.disconnect":
                if (text := event.get("text")) is None:
                    client.take_binary()
                else:
                    client.take_text(text)
        finally:
            client.close()
            if isinstance(throttled_send, WaitingSend):
                throttled_send.release()


# One roster for each hub, which belongs to one channel layer on one event loop that is not closed.
_rosters: dict[Hub, Roster] = {}


def _roster_of(layer: RedisChannelLayer, settings: RealtimeSettings) -> Roster:
    hub = layer.hub
    roster = _rosters.get(hub)
    if roster is None:
        roster = _rosters[hub] = Roster(layer, recheck_seconds=settings.recheck_seconds)
        before_close(asyncio.get_running_loop(), lambda: _rosters.pop(hub, None))
    return roster


def _session_key(scope: dict[str, Any]) -> str | None:
    """The key of the session that authenticated the user; None if something else did."""
    session = scope.get("session")
    # The session was loaded by authentication: this reads its cache, never the database.
    key: str | None = getattr(session, "session_key", None)
    return key if SESSION_KEY in getattr(session, "_session_cache", ()) else None


async def _refuse_anonymous(scope: dict[str, Any], send: Any) -> None:
    """Refuse a client that is not signed in: with HTTP 403 if it can see that, else with a close code."""
    counters.closed[CloseCode.UNAUTHORISED] += 1
    if messages.sees_only_close_codes(scope):
        await send(messages.accept(scope))
        await send_close(send, code=CloseCode.UNAUTHORISED, reason="sign in first")
    else:
        # HTTP status 403.
        await send({"type": "websocket.close", "code": int(CloseCode.UNAUTHORISED)})


def _position(query_string: bytes) -> Position | None:
    query = parse_qs(query_string.decode("latin1"))
    offset, epoch = query.get("offset", [""])[0], query.get("epoch", [""])[0]
    return Position(int(offset), epoch) if offset.isascii() and offset.isdecimal() and len(offset) < 16 else None


@functools.cache
def _read_hook(path: str) -> Callable[[Any, list[int]], Any] | None:
    if not path:
        return None
    try:
        hook: Callable[[Any, list[int]], Any] = import_string(path)
    except Exception:
        # Logged once in each process, because the result is cached. Clients are served without it.
        logger.exception('REALTIME["ON_READ"] cannot be imported: read marks of clients are refused')
        return None
    if iscoroutinefunction(hook):
        return hook
    # Not in the thread that looks up sessions: a slow write must not delay new connections.
    in_thread: Callable[[Any, list[int]], Any] = database_sync_to_async(hook, thread_sensitive=False)
    return in_thread
