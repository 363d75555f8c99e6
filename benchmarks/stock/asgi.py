"""One consumer behind AuthMiddlewareStack, as in the Channels tutorial: group_add, and send_json for each event."""

from typing import Any
from urllib.parse import parse_qs

from django.core.asgi import get_asgi_application

http_application: Any = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

__all__ = ["application"]


class StockConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Sends a signed-in user what comes for ?topic=…, or else for the user."""

    async def connect(self) -> None:
        user = self.scope["user"]
        if not user.is_authenticated:
            await self.close()
            return
        query = parse_qs(self.scope["query_string"].decode())
        self.topic = query["topic"][0] if "topic" in query else f"user.{user.pk}"
        await self.channel_layer.group_add(self.topic, self.channel_name)
        await self.accept()
        await self.send_json({"type": "ready"})

    async def disconnect(self, code: int) -> None:
        if hasattr(self, "topic"):
            await self.channel_layer.group_discard(self.topic, self.channel_name)

    async def bench_message(self, event: dict[str, Any]) -> None:
        """An event of the group."""
        await self.send_json(event["data"])


application = ProtocolTypeRouter(
    {
        "http": http_application,
        "websocket": AuthMiddlewareStack(URLRouter([path("ws/", StockConsumer.as_asgi())])),
    }
)
