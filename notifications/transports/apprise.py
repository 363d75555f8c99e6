"""
Apprise: Slack, Telegram, Discord, Matrix and a hundred other services, each given by a URL.

Owns which URLs are used, and what a service's refusal means. Does not own the services (Apprise does;
https://appriseit.com/services/ lists the URLs).
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

# Services with fixed hosts. A user's URL for one of these cannot make this server connect to a host that the user
# chooses.
HOSTED_SERVICES = frozenset({"discord", "gchat", "line", "pbul", "pover", "slack", "tgram"})
# The prefix of the address keys of the project's own services.
PROJECT_KEY = "project"
# The most messages into which one text is split.
PARTS_LIMIT = 5
# Statuses that a repeated message would get again. Not 401 and 403, because an operator may fix their cause.
PERMANENT_STATUSES = frozenset({400, 404, 405, 410, 413, 414, 422})
_STATUS = re.compile(r"\berror=(\d{3})\b")
_OVERFLOW = re.compile(r"[?&]overflow=", re.IGNORECASE)

# Apprise makes the call in the current thread. In a thread of its own, Apprise would stop waiting for it at some point,
# but the call would continue.
_ASSET = apprise.AppriseAsset(async_mode=False, service_timeout=0)


class AppriseTransport(Transport):
    """
    Args:
        timeout_seconds: How long to wait for a service. Apprise's own limits apply if they are shorter: 4 s unless a
            URL says otherwise.
        urls: The project's own services. Each gets the notifications of all users.
        user_services: The services (schemes of URLs) that users may add as their destinations.
        allow_mentions: Whether a text may mention everybody in a chat, as "@everyone" does. By default such mentions
            are disarmed.

    Guarantees:
        Calls run in threads. Apprise has no idempotency keys: if the result of a call is unknown, the next attempt may
        deliver a copy. A text that is too long for the service is split into at most PARTS_LIMIT messages; the rest is
        cut off. If one of them fails, all are sent again. The option overflow= in a URL changes this.
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
                raise ImproperlyConfigured(f"urls[{number}] is not a URL that Apprise supports")

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The project's services, and those of the recipient."""
        own = [Address(key=f"{PROJECT_KEY} {number}", value=url) for number, url in enumerate(self._urls)]
        return own + [
            Address(key=str(destination.pk), value=destination.address)
            for destination in destinations_of(recipient, self.name)
            if self._is_allowed(destination.address)
        ]

    async def send(self, message: Message, address: Address) -> str:
        """Send it with Apprise, in a thread."""
        try:
            return await self.in_thread(self._notify, message, address.value)
        except AddressGone as error:
            if address.key.startswith(PROJECT_KEY):
                raise PermanentError(error.reason) from error
            await disable(address, error.reason)

    def check_address(self, address: str) -> None:
        """Accept the URL of a service that users may add, without options."""
        if not self._is_allowed(address) or _service_of(address) is None:
            services = ", ".join(sorted(self._user_services))
            raise ValueError(f"not a URL, without options, of one of these services: {services}")

    def _is_allowed(self, url: str) -> bool:
        # Options after a "?" are refused, because some name files or addresses that Apprise would read. Commas and
        # white space are refused, because they would separate several URLs.
        return url.partition("://")[0].lower() in self._user_services and not re.search(r"[?,\s]", url)

    def _notify(self, message: Message, url: str) -> str:
        service = _service_of(url)
        if service is None:
            raise PermanentError("not a URL that Apprise supports")
        service.socket_connect_timeout = min(service.socket_connect_timeout, self.timeout_seconds)
        service.socket_read_timeout = min(service.socket_read_timeout, self.timeout_seconds)
        if not _OVERFLOW.search(url):
            service.overflow_mode = apprise.OverflowMode.SPLIT
        scheme = url.partition("://")[0]
        texts = message.texts
        if not self._allow_mentions:
            title, body = without_mentions(texts.subject, scheme), without_mentions(texts.body, scheme)
            texts = dataclasses.replace(texts, subject=title, body=body)
        # The body is shortened so that the link after it is never cut.
        room = PARTS_LIMIT * service.body_maxlen - len(texts.link)
        texts = dataclasses.replace(texts, body=shorten(texts.body, lambda text: len(text) <= room))
        # The service object, and not the URL: Apprise would split a URL that looks like a list.
        result = apprise.Apprise(service).notify(
            body=texts.body_with_link, title=texts.subject, body_format=apprise.NotifyFormat.TEXT
        )
        log = " ".join(str(entry.message) for entry in result.logs())
        if not result:
            raise _refusal(scheme, log or "the service refused it")
        return log or "accepted by the service"


def _refusal(scheme: str, log: str) -> Exception:
    """The exception for a service's refusal. Apprise gives the HTTP status only in its log."""
    statuses = {int(status) for status in _STATUS.findall(log)}
    if not statuses or not statuses <= PERMANENT_STATUSES or is_not_now(log):
        return OSError(log)
    if 410 in statuses or (404 in statuses and scheme.lower() in HOSTED_SERVICES):
        return AddressGone(log)
    return PermanentError(log)


def _service_of(url: str) -> Any:
    """The service of a URL; None if it is not the URL of one service."""
    return apprise.Apprise.instantiate(url, asset=_ASSET, suppress_exceptions=True)
