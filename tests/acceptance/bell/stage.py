"""
alice at a browser, and the other end of her WebSocket, which says what a real server says rarely.

Owns what a test does on this stage, and where the parts of a bell are on a page. The fixtures are in conftest.py.
"""

import json
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from playwright.async_api import BrowserContext, Locator, Page, Request, WebSocketRoute, expect

from notifications.models import Notification
from notifications.services import notify

__all__ = ["BELL_PATH", "COUNT", "LIST", "PANEL", "TOGGLE", "Stage", "is_seen", "texts", "wait_for_focus"]

LIST = "[data-signalbox-list=bell] [data-notification-id]"
TOGGLE = "[data-signalbox-toggle]"
COUNT = "[data-signalbox-count]"
PANEL = "[data-signalbox-panel]"
BELL_PATH = "**/notifications/bell/"


class Stage:
    """alice at a browser, and the server's end of her connections."""

    def __init__(self, context: BrowserContext, url: str, user: User) -> None:
        self.context = context
        self.url = url
        self.user = user
        self.sockets: list[WebSocketRoute] = []
        self.complaints: list[str] = []

    async def open(self, path: str = "/") -> Page:
        """Open a page in a tab of its own; its bell is live and has read the inbox when this returns."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))
        # The inbox is its own rendering; any other page asks for the bell's.
        rendering = f"{self.url}{path if path == '/notifications/' else '/notifications/bell/'}"
        async with page.expect_event("requestfinished", lambda request: _is_fetch(request, rendering)):
            await page.goto(self.url + path)
        await expect(page.locator("[data-signalbox-state=open]")).to_be_attached()
        return page

    def connected(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        self.greet(socket, self.user.pk)

    def greet(self, socket: WebSocketRoute, user_id: int) -> None:
        """What the server sends first: `hello`, and that earlier messages cannot be recovered."""
        hello = {"type": "hello", "user_id": user_id, "ping_seconds": 25}
        live = {"type": "subscribed", "topic": f"user.{user_id}", "offset": 0, "epoch": "e1", "recovered": False}
        socket.send(f"{json.dumps(hello)}\n{json.dumps(live)}")

    async def commit(self, message: str, **fields: Any) -> dict[str, Any]:
        """Write a notification for alice; returns the message that the relay would publish to her browsers."""
        return await sync_to_async(self._commit)(message, **fields)

    def publish(self, *envelopes: Any, topic: str = "") -> None:
        """Send these to each tab, in one frame."""
        topic = topic or f"user.{self.user.pk}"
        frames = [json.dumps({"type": "message", "topic": topic, "data": envelope}) for envelope in envelopes]
        for socket in self.sockets:
            socket.send("\n".join(frames))

    def _commit(self, message: str, **fields: Any) -> dict[str, Any]:
        event = notify(self.user, message, **fields)
        notification = event.notifications.get()
        return {
            "id": notification.pk,
            **({} if notification.replaces is None else {"replaces": notification.replaces}),
            "event_id": event.pk,
            "kind": event.kind,
            "title": event.title,
            "message": event.message,
            "url": event.url,
            "data": event.data,
            "created_at": event.created_at.isoformat(),
        }


def _is_fetch(request: Request, url: str) -> bool:
    return request.resource_type == "fetch" and request.url == url


async def texts(items: Locator) -> list[str]:
    return await items.locator("[data-signalbox-message]").all_text_contents()


async def is_seen(envelope: dict[str, Any]) -> bool:
    return (await Notification.objects.aget(pk=envelope["id"])).seen_at is not None


async def wait_for_focus(page: Page, selector: str) -> None:
    await expect(page.locator(selector).first).to_be_focused()
