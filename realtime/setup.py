"""
The ASGI application of a project.

Owns how pages, WebSockets and static files come together in one application. Does not own which path leads to which
consumer (routing) nor the server (web).
"""

from collections.abc import Iterable
from typing import Any

from django.core.asgi import get_asgi_application
from django.urls import URLPattern

__all__ = ["asgi_application"]


def asgi_application(websocket_urlpatterns: Iterable[URLPattern] = ()) -> Any:
    """
    The whole site as an ASGI application: pages by Django, WebSockets by `realtime`, and static files if DEBUG is on.

    Call it in `asgi.py`, after DJANGO_SETTINGS_MODULE is set; it loads the apps.

    Args:
        websocket_urlpatterns: Your own consumers, besides that of the bell.
    """
    http: Any = get_asgi_application()

    # These can be imported only after the apps are loaded.
    from channels.routing import ProtocolTypeRouter
    from django.apps import apps
    from django.conf import settings

    from realtime import routing

    if settings.DEBUG and apps.is_installed("django.contrib.staticfiles"):
        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

        # In production the proxy or the web server serves STATIC_ROOT.
        http = ASGIStaticFilesHandler(http)
    websocket = routing.websocket_application([*routing.websocket_urlpatterns, *websocket_urlpatterns])
    return ProtocolTypeRouter({"http": http, "websocket": _JoinFirst(websocket), "lifespan": _lifespan})


class _JoinFirst:
    """
    ASGI middleware that joins the embedded server before the first connection, in a thread, so the event loop goes on.

    It is for servers without lifespan events, such as Daphne. Pages do not need it, because they publish from threads.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._is_joined = False

    def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        if self._is_joined:
            return self._application(scope, receive, send)
        return self._join_and_go_on(scope, receive, send)

    async def _join_and_go_on(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await _join()
        self._is_joined = True
        await self._application(scope, receive, send)


async def _join() -> None:
    from asgiref.sync import sync_to_async

    from realtime import conf

    await sync_to_async(conf.join_embedded_server, thread_sensitive=False)()


async def _lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Join the embedded server before the first request, and close this process's Redis clients after the last."""
    from realtime import conf

    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            try:
                await _join()
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        else:
            await conf.close_async_redis()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
