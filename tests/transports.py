"""What the bot of a process under test calls; NOTIFICATIONS["SEND_MESSAGE"] names one of them."""

import asyncio
import time
from typing import Any

from notifications.bot import send_message

__all__ = ["hang", "slow", "stuck"]


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
