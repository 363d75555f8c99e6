"""
The bot: from the stream to `send_message(user_id, message)`.

Owns the call and its default, which prints. Does not own the stream nor retries (realtime.streams).
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from notifications.handlers import DATABASE_AWAY, REDIS_AWAY, outages, read_entry
from realtime.exceptions import EntryRejected
from realtime.streams import Entry

__all__ = ["Bot", "SendMessage", "send_message"]

# Takes the recipient's primary key and the text; what it raises is a failed attempt.
type SendMessage = Callable[[Any, str], Awaitable[None]]


async def send_message(user_id: Any, message: str) -> None:
    """
    Print one line to the standard output: the default, for trying things out.

    Whatever the message says, it is one line, and nothing in it controls a terminal.
    """
    text = "".join(letter if letter.isprintable() else _escape(letter) for letter in message)
    # A pipe that nobody reads must not hold up the event loop, and with it the leases.
    await asyncio.to_thread(_print, f"user {user_id}: {text}\n")


class Bot:
    """
    The handler of the consumer group `bot`.

    Args:
        send: Called for each notification; the entry is acked after it returns.
    """

    def __init__(self, send: SendMessage = send_message) -> None:
        self._send = send

    async def __call__(self, entries: Sequence[Entry]) -> None:
        """
        Send each entry's message to its user.

        Raises:
            EntryRejected: An entry is malformed.
            Unavailable: Redis or the database is away. Other errors of `send`, a provider's refused connection among
                them, are failed attempts: one receiver that is away must not hold up the others.
        """
        for entry in entries:
            notification = read_entry(entry)
            try:
                user_id = get_user_model()._meta.pk.to_python(notification.user_id)
            except ValidationError as error:
                raise EntryRejected(f"u is not the id of a user: {error.messages[0]}") from error
            with outages(*DATABASE_AWAY, *REDIS_AWAY):
                await self._send(user_id, notification.envelope.message)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
