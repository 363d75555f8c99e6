"""
Apprise: Slack, Telegram, Discord, Matrix and a hundred other services, each by a URL.

Owns which URLs are used. Does not own the services (Apprise does; https://appriseit.com/services/ lists the URLs).
"""

from collections.abc import Iterable
from typing import Any

import apprise
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Address, Message, Transport, destinations_of
from realtime.exceptions import PermanentError

__all__ = ["HOSTED_SERVICES", "AppriseTransport"]

# Services that are reached at hosts of their own, whatever the URL says: a user's URL of one of these cannot make this
# server talk to a host of the user's choice.
HOSTED_SERVICES = frozenset({"discord", "gchat", "line", "pbul", "pover", "slack", "tgram"})


class AppriseTransport(Transport):
    """
    Args:
        urls: The project's own services, each of which gets the notifications of everybody.
        user_services: The services (schemas of URLs) that users may give as their destinations.

    Guarantees:
        Calls run in threads. Apprise passes no idempotency key on: where it is not known what became of a call, the
        next attempt may be a copy.
    """

    label = _("Chat")

    def __init__(
        self,
        *,
        name: str,
        timeout_seconds: float = 20.0,
        urls: Iterable[str] = (),
        user_services: Iterable[str] = HOSTED_SERVICES,
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        self._urls = list(urls)
        self._user_services = frozenset(user_services)
        for number, url in enumerate(self._urls):
            if apprise.Apprise.instantiate(url, suppress_exceptions=True) is None:
                raise ImproperlyConfigured(f"urls[{number}] is no URL that Apprise knows")

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The project's services, and the recipient's own."""
        own = [Address(key=f"project {number}", value=url) for number, url in enumerate(self._urls)]
        return own + [
            Address(key=str(destination.pk), value=destination.address)
            for destination in destinations_of(recipient, self.name)
            if self._is_allowed(destination.address)
        ]

    async def send(self, message: Message, address: Address) -> str:
        """Hand it to Apprise, in a thread."""
        return await self.in_thread(self._notify, message, address.value)

    def check_address(self, address: str) -> None:
        """A URL of one of the services that users may name, without options."""
        if not self._is_allowed(address) or apprise.Apprise.instantiate(address, suppress_exceptions=True) is None:
            services = ", ".join(sorted(self._user_services))
            raise ValueError(f"not a URL, without options, of one of these services: {services}")

    def _is_allowed(self, url: str) -> bool:
        # Options after a "?" are refused: some name files or addresses that Apprise would then read.
        return url.partition("://")[0].lower() in self._user_services and "?" not in url

    def _notify(self, message: Message, url: str) -> str:
        service = apprise.Apprise()
        if not service.add(url):
            raise PermanentError("not a URL that Apprise knows")
        # A little less than the bot waits, so that the thread has ended when the next attempt begins.
        result = service.notify(
            body=message.texts.body,
            title=message.texts.subject,
            body_format=apprise.NotifyFormat.TEXT,
            timeout=self.timeout_seconds * 0.9,
        )
        said = " ".join(str(entry.message) for entry in result.logs())
        if not result:
            raise OSError(said or "the service did not take it")
        return said or "taken by the service"
