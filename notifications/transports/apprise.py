"""
Apprise: Slack, Telegram, Discord, Matrix and a hundred other services, each by a URL.

Owns which URLs are used. Does not own the services (Apprise does; https://appriseit.com/services/ lists the URLs).
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Address, AddressGone, Message, Transport, destinations_of, disable
from notifications.transports.mentions import without_mentions
from notifications.transports.refusals import is_not_now
from notifications.transports.shortening import shorten
from realtime.exceptions import PermanentError
from realtime.extras import extra

with extra("chat"):
    import apprise

__all__ = ["HOSTED_SERVICES", "AppriseTransport"]

# Services that are reached at hosts of their own, whatever the URL says: a user's URL of one of these cannot make this
# server talk to a host of the user's choice.
HOSTED_SERVICES = frozenset({"discord", "gchat", "line", "pbul", "pover", "slack", "tgram"})
# The prefix of the address keys of the project's own services.
PROJECT_KEY = "project"
# The most messages into which one text is split.
PARTS_LIMIT = 5
# Statuses that the same message would get again. Not 401 and 403, whose cause an operator may fix.
PERMANENT_STATUSES = frozenset({400, 404, 405, 410, 413, 414, 422})
_STATUS = re.compile(r"\berror=(\d{3})\b")
_OVERFLOW = re.compile(r"[?&]overflow=", re.IGNORECASE)

# The call stays in the thread that it is given: Apprise would give it up after a while, and it would go on.
_ASSET = apprise.AppriseAsset(async_mode=False, service_timeout=0)


class AppriseTransport(Transport):
    """
    Args:
        timeout_seconds: How long a service may be silent; Apprise's own limits, 4 s unless a URL says otherwise, count
            if they are shorter.
        urls: The project's own services, each of which gets the notifications of everybody.
        user_services: The services (schemas of URLs) that users may give as their destinations.
        allow_mentions: Whether a text may mention everybody in a chat, as "@everyone" does. By default such mentions
            are made ineffective.

    Guarantees:
        Calls run in threads. Apprise has no idempotency keys: if the result of a call is unknown, the next attempt may
        deliver a copy. A text that is too long for the service is split into at most PARTS_LIMIT messages, and cut
        after these. If one of them fails, all are sent again. An option overflow= in a URL changes this.
    """

    label = _("Chat")
    shows_links = True

    def __init__(
        self,
        *,
        name: str,
        timeout_seconds: float = 20.0,
        urls: Iterable[str] = (),
        user_services: Iterable[str] = HOSTED_SERVICES,
        allow_mentions: bool = False,
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        self._urls = list(urls)
        self._user_services = frozenset(user_services)
        self._allow_mentions = allow_mentions
        for number, url in enumerate(self._urls):
            if _service_of(url) is None:
                raise ImproperlyConfigured(f"urls[{number}] is no URL that Apprise knows")

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The project's services, and the recipient's own."""
        own = [Address(key=f"{PROJECT_KEY} {number}", value=url) for number, url in enumerate(self._urls)]
        return own + [
            Address(key=str(destination.pk), value=destination.address)
            for destination in destinations_of(recipient, self.name)
            if self._is_allowed(destination.address)
        ]

    async def send(self, message: Message, address: Address) -> str:
        """Hand it to Apprise, in a thread."""
        try:
            return await self.in_thread(self._notify, message, address.value)
        except AddressGone as error:
            if address.key.startswith(PROJECT_KEY):
                raise PermanentError(error.reason) from error
            await disable(address, error.reason)

    def check_address(self, address: str) -> None:
        """A URL of one of the services that users may name, without options."""
        if not self._is_allowed(address) or _service_of(address) is None:
            services = ", ".join(sorted(self._user_services))
            raise ValueError(f"not a URL, without options, of one of these services: {services}")

    def _is_allowed(self, url: str) -> bool:
        # Options after a "?" are refused: some name files or addresses that Apprise would then read. And so is what
        # separates one URL from the next in a list.
        return url.partition("://")[0].lower() in self._user_services and not re.search(r"[?,\s]", url)

    def _notify(self, message: Message, url: str) -> str:
        service = _service_of(url)
        if service is None:
            raise PermanentError("not a URL that Apprise knows")
        service.socket_connect_timeout = min(service.socket_connect_timeout, self.timeout_seconds)
        service.socket_read_timeout = min(service.socket_read_timeout, self.timeout_seconds)
        if not _OVERFLOW.search(url):
            service.overflow_mode = apprise.OverflowMode.SPLIT
        scheme = url.partition("://")[0]
        texts = message.texts
        if not self._allow_mentions:
            title, body = without_mentions(texts.subject, scheme), without_mentions(texts.body, scheme)
            texts = dataclasses.replace(texts, subject=title, body=body)
        # The link is never cut: it was checked as a whole.
        room = PARTS_LIMIT * service.body_maxlen - len(texts.link)
        texts = dataclasses.replace(texts, body=shorten(texts.body, lambda text: len(text) <= room))
        # The service, and not its URL, of which Apprise would make several if it looks like a list.
        result = apprise.Apprise(service).notify(
            body=texts.body_with_link, title=texts.subject, body_format=apprise.NotifyFormat.TEXT
        )
        said = " ".join(str(entry.message) for entry in result.logs())
        if not result:
            raise _refusal(scheme, said or "the service refused it")
        return said or "taken by the service"


def _refusal(scheme: str, said: str) -> Exception:
    """The exception for a service's refusal. Apprise gives the HTTP status only in its log text."""
    statuses = {int(status) for status in _STATUS.findall(said)}
    if not statuses or not statuses <= PERMANENT_STATUSES or is_not_now(said):
        return OSError(said)
    if 410 in statuses or (404 in statuses and scheme.lower() in HOSTED_SERVICES):
        return AddressGone(said)
    return PermanentError(said)


def _service_of(url: str) -> Any:
    """None if it is no URL of one service."""
    return apprise.Apprise.instantiate(url, asset=_ASSET, suppress_exceptions=True)
