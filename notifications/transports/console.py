"""
The console: calls `send_message(user_id, message)`, which prints a line by default.

For trying things out, and the shortest way to a transport of one's own: NOTIFICATIONS["SEND_MESSAGE"] names the
function.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from notifications import conf
from notifications.transports.base import Address, Message, Transport

__all__ = ["ConsoleTransport", "PrintingTransport", "SendMessage"]

# Prints a line.
PRINTS = "notifications.bot.send_message"

# Takes the recipient's primary key and the text; what it raises is a failed attempt.
type SendMessage = Callable[[Any, str], Awaitable[None]]


class ConsoleTransport(Transport):
    """
    Args:
        send_message: An async function(user id, message), or its dotted path; by default the setting SEND_MESSAGE.
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
        """Not if it prints; what a function of the project's does, nobody knows."""
        return self._send_message is not import_string(PRINTS)

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """Everybody is reached."""
        return [Address(key="console")]

    async def send(self, message: Message, address: Address) -> str:
        """Call the function with what was said."""
        await self._send_message(message.recipient.pk, message.texts.body)
        return "called"


class PrintingTransport(ConsoleTransport):
    """What stands in for every transport where NOTIFICATIONS["DELIVERY"] is "console", whatever SEND_MESSAGE does."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name, send_message=PRINTS)

    async def send(self, message: Message, address: Address) -> str:
        """Print what it would have said."""
        await self._send_message(message.recipient.pk, f"[{self.name}] {message.texts.body_with_link}")
        return 'printed and not sent: NOTIFICATIONS["DELIVERY"] is "console"'
