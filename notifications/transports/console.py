"""
The console: calls `send_message(user_id, message)`, which prints a line by default.

For trying things out, and the shortest way to a transport of one's own: NOTIFICATIONS["SEND_MESSAGE"] names the
function.
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


# Takes the recipient's primary key and the text. An exception is a failed attempt. A sync function runs in a thread.
type SendMessage = Callable[[Any, str], Awaitable[None] | None]
# One thread for `send_message`: lines are printed one after another, and an output that nobody reads blocks only this
# thread.
_printer = Threads(1, name="console")


async def send_message(user_id: Any, message: str) -> None:
    """
    Print one line to the standard output: the default, for trying things out.

    The line contains no line breaks or terminal controls, whatever the message says. Characters that the encoding of
    the output lacks are escaped.
    """
    line = f"user {user_id}: {message}"
    text = "".join(letter if letter.isprintable() else _escape(letter) for letter in line)
    # A pipe that nobody reads must not hold up the event loop, and with it the leases.
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
        """False if it prints; a function of the project may reach anybody."""
        return self._send_message is not send_message

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """Everybody is reached."""
        return [Address(key="console")]

    async def send(self, message: Message, address: Address) -> str:
        """Call the function with what was said."""
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
        """Let its threads end, and the one that prints."""
        super().close()
        _printer.close()


class PrintingTransport(ConsoleTransport):
    """Replaces every transport if NOTIFICATIONS["DELIVERY"] is "console". It prints, whatever SEND_MESSAGE is."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name, send_message=send_message)

    async def send(self, message: Message, address: Address) -> str:
        """Print what it would have said."""
        await self._call(message.recipient.pk, f"[{self.name}] {message.texts.body_with_link}")
        return 'printed and not sent: NOTIFICATIONS["DELIVERY"] is "console"'


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _print(line: str) -> None:
    escape_unencodable(sys.stdout)
    sys.stdout.write(line)
    sys.stdout.flush()
