"""What the bot of a process under test calls; NOTIFICATIONS["SEND_MESSAGE"] or ["TRANSPORTS"] name one of them."""

import asyncio
import os
import signal
import time
from typing import Any

import httpx

from notifications.transports import Address, Message
from notifications.transports.console import send_message
from notifications.transports.webhook import WebhookTransport

__all__ = ["WebhookInThread", "WebhookWithDeath", "hang", "slow", "spin", "stuck"]


class WebhookWithDeath(WebhookTransport):
    """A webhook whose process kills itself where the environment's DIE says: "before" or "after" the call."""

    async def send(self, message: Message, address: Address) -> str:
        _die("before")
        answer = await super().send(message, address)
        _die("after")
        return answer


class WebhookInThread(WebhookTransport):
    """A webhook called as mail servers are: in a thread, which nobody can end after `timeout_seconds`."""

    async def send(self, message: Message, address: Address) -> str:
        url, _ = address.value
        return await self.in_thread(_post, url, {"webhook-id": message.key})


async def slow(user_id: Any, message: str) -> None:
    """Takes a second for each message."""
    await send_message(user_id, f"begin {message}")
    await asyncio.sleep(1)
    await send_message(user_id, f"end {message}")


async def hang(user_id: Any, message: str) -> None:
    """Never comes to an end."""
    await send_message(user_id, f"begin {message}")
    await asyncio.sleep(3600)


async def stuck(user_id: Any, message: str) -> None:
    """Sits in a thread, as in a database driver, where it cannot be cancelled."""
    await send_message(user_id, f"begin {message}")
    await asyncio.to_thread(time.sleep, 3600)


async def spin(user_id: Any, message: str) -> None:
    """Never gives the event loop back."""
    await send_message(user_id, f"begin {message}")
    while message:
        pass


def _post(url: str, headers: dict[str, str]) -> str:
    return httpx.post(url, headers=headers, timeout=60).text


def _die(moment: str) -> None:
    if os.environ.get("DIE") == moment:
        os.kill(os.getpid(), signal.SIGKILL)
