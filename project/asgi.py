"""The site as an ASGI application: HTTP by Django, WebSockets by `realtime`, on any ASGI server."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# Loads the apps, which the imports below need.
http_application: Any = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

from realtime import conf  # noqa: E402
from realtime.routing import websocket_application  # noqa: E402

if settings.DEBUG:
    # In production the proxy serves STATIC_ROOT.
    http_application = ASGIStaticFilesHandler(http_application)


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Close this process's Redis clients when the server stops (uvicorn asks; Daphne does not)."""
    while True:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await conf.close_async_redis()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


application = ProtocolTypeRouter({"http": http_application, "websocket": websocket_application(), "lifespan": lifespan})
