"""
The WebSocket side of a site. Owns which path leads to which consumer and what stands before it.

An existing project adds two lines to its asgi.py: see `websocket_application`.
"""

from collections.abc import Iterable
from typing import Any

from channels.routing import URLRouter
from django.urls import URLPattern, path, re_path

from realtime.authentication import SessionUsers
from realtime.consumers import RealtimeConsumer
from realtime.origins import OriginCheck

__all__ = ["websocket_application", "websocket_urlpatterns"]

websocket_urlpatterns: list[URLPattern] = [path("ws/", RealtimeConsumer.as_asgi())]


def websocket_application(urlpatterns: Iterable[URLPattern] = websocket_urlpatterns) -> Any:
    """
    The ASGI application for the "websocket" protocol: Origin check, session user, then `urlpatterns`.

    Args:
        urlpatterns: Give `[*websocket_urlpatterns, …]` to add consumers of your own. Their scope has `session` and
            `user`, as behind Channels' AuthMiddlewareStack.

    Returns:
        What goes into `ProtocolTypeRouter({"http": …, "websocket": websocket_application()})`. A path that leads
        nowhere is refused with HTTP 403.
    """
    nowhere = re_path("", _refuse)  # type: ignore[arg-type]  # an ASGI application, as URLRouter has them
    return OriginCheck(SessionUsers(URLRouter([*urlpatterns, nowhere])))


async def _refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    # URLRouter would raise, and a stranger could fill the log with tracebacks.
    await receive()
    await send({"type": "websocket.close"})
