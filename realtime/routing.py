"""
The WebSocket part of a site's ASGI application.

Owns which path leads to which consumer, and the middleware in front of it. An existing project adds two lines to its
asgi.py: see `websocket_application`.
"""

from collections.abc import Iterable
from typing import Any

from channels.routing import URLRouter
from django.core.handlers.asgi import get_script_prefix
from django.urls import URLPattern, path, re_path

from realtime.websocket.authentication import SessionUsers
from realtime.websocket.consumer import RealtimeConsumer
from realtime.websocket.origins import OriginCheck

__all__ = ["websocket_application", "websocket_urlpatterns"]

# The one path of a site without WebSockets of its own: `ws/`.
websocket_urlpatterns: list[URLPattern] = [path("ws/", RealtimeConsumer.as_asgi())]


def websocket_application(urlpatterns: Iterable[URLPattern] = websocket_urlpatterns) -> Any:
    """
    The ASGI application for the "websocket" protocol: Origin check, session user, then `urlpatterns`.

    Args:
        urlpatterns: Give `[*websocket_urlpatterns, …]` to add consumers of your own. Their scope has `session` and
            `user`, as behind Channels' AuthMiddlewareStack.

    Returns:
        The application for `ProtocolTypeRouter({"http": …, "websocket": websocket_application()})`. A path that
        matches no pattern is refused with HTTP 403.
    """
    fallback = re_path("", _refuse)  # type: ignore[arg-type]  # an ASGI application, as URLRouter has them
    return OriginCheck(SessionUsers(_UnderScriptName(URLRouter([*urlpatterns, fallback]))))


class _UnderScriptName:
    """
    ASGI middleware that removes the site's root path before URL patterns are matched, as Django does.

    The root path is FORCE_SCRIPT_NAME or the server's root path. A proxy may have removed it already: uvicorn puts it
    back, Daphne does not. So a path that does not begin with it is matched as it is. URLRouter alone raises for such a
    path, and does not know FORCE_SCRIPT_NAME.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path, prefix = scope["path"], get_script_prefix(scope).rstrip("/")
        remaining = path.removeprefix(prefix) if f"{path}/".startswith(f"{prefix}/") else path
        await self.application({**scope, "path_remaining": remaining}, receive, send)


async def _refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    # URLRouter would raise, and a stranger could fill the log with tracebacks.
    await receive()
    await send({"type": "websocket.close"})
