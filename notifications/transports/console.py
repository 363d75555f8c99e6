"""
The console transport: calls the function NOTIFICATIONS["SEND_MESSAGE"], which prints a line by default.

Owns these calls and the printing. Does not own other transports. It is for trying things out, and the shortest way to
send notifications by a function of your own.
"""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from notifications import conf
from notifications.database.threads import Threads
from notifications.transports.base import Address, Message, Transport
from realtime.untrusted.text import escape_unencodable

__all__ = ["ConsoleTransport", "PrintingTransport", "SendMessage", "send_message"]


# Takes the recipient's primary key and the text. An exception means a failed attempt. A sync function runs in a thread.
type SendMessage = Callable[[Any, str], Awaitable[None] | None]
# One thread for `send_message`: lines are printed one after another, and a pipe that is not read blocks only this
# thread.
_printer = Threads(1, name="console")


async def send_message(user_id: Any, message: str) -> None:
    """
    Print one line to the standard output. This is the default, for trying things out.

    Line breaks and terminal controls in the message are escaped, as are characters that the encoding of the output
    does not have.
    """
    line = f"user {user_id}: {message}"
    text = "".join(letter if letter.isprintable() else _escape(letter) for letter in line)
    # A pipe that is not read must not block the event loop, which also renews leases.
    await asyncio.get_running_loop().run_in_executor(_printer.executor, _print, f"{text}\n")


class ConsoleTransport(Transport):
    """
    Args:
        send_message: A function(user id, message), async or sync, or its dotted path; by default SEND_MESSAGE.
    """

    label = _("Console")

    def __init__(
        self, *, name: str, timeout_seconds: float = 10.0, send_message: SendMessage | str | None = None
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        found = send_message or conf.get_settings().send_message
        try:
            self._send_message: SendMessage = import_string(found) if isinstance(found, str) else found
        except ImportError as error:
            raise ImproperlyConfigured(f"SEND_MESSAGE cannot be imported: {error}") from error

    @property
    def reaches_people(self) -> bool:
        """False if it prints. A function of the project may reach people."""
        return self._send_message is not send_message

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """One address for each user."""
        return [Address(key="console")]

    async def send(self, message: Message, address: Address) -> str:
        """Call the function with the body."""
        await self._call(message.recipient.pk, message.texts.body)
        return "called"

    async def _call(self, user_id: Any, text: str) -> None:
        if inspect.iscoroutinefunction(self._send_message):
            await self._send_message(user_id, text)
            return
        # A sync function would block the event loop. It may still return an awaitable, for example as a lambda.
        answer = await self.in_thread(self._send_message, user_id, text)
        if inspect.isawaitable(answer):
            await answer

    def close(self) -> None:
        """Let its threads end, and the thread that prints."""
        super().close()
        _printer.close()


class PrintingTransport(ConsoleTransport):
    """Replaces every transport if NOTIFICATIONS["DELIVERY"] is "console". It always prints and ignores SEND_MESSAGE."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name, send_message=send_message)

    async def send(self, message: Message, address: Address) -> str:
        """Print the message instead of sending it."""
        await self._call(message.recipient.pk, f"[{self.name}] {message.texts.body_with_link}")
        return 'printed and not sent: NOTIFICATIONS["DELIVERY"] is "console"'


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _print(line: str) -> None:
    escape_unencodable(sys.stdout)
    sys.stdout.write(line)
    sys.stdout.flush()
