"""
The contract of a transport.

Owns what a transport receives and what it returns. Does not own the transports. For a transport of your own, subclass
`Transport` and add it to NOTIFICATIONS["TRANSPORTS"].
"""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from channels.db import database_sync_to_async
from django.db import router

from notifications import conf
from notifications.content.envelope import Envelope
from notifications.database.threads import Threads
from notifications.models import Destination
from notifications.transports.destinations import disable_destination
from notifications.transports.lookup import newest_of
from realtime.exceptions import PermanentError

__all__ = ["ADDRESS_LIMIT", "Address", "AddressGone", "Message", "Texts", "Transport", "destinations_of", "disable"]

# The most addresses of one user on one transport. If there are more, the newest are used.
ADDRESS_LIMIT = 10
# The part of a claim's time that a call in a thread may take. The rest is for starting it and recording its result.
CLAIM_PART = 0.8
# The most threads of one transport: more than slots, because a call that timed out may still block its thread.
THREADS_LIMIT = 100
# The timeout of the current `send`, and the latest time to which it may be extended, by the event loop's clock.
_limit: contextvars.ContextVar[tuple[asyncio.Timeout, float]] = contextvars.ContextVar("_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of a notification for one transport, in the recipient's language."""

    # One line; may be empty.
    subject: str
    # Plain text.
    body: str
    # The body as HTML; empty if the kind has no template for it.
    html: str = ""
    # The absolute URL of the notification. Empty if it is not known, or if the body comes from a template, which can
    # contain the URL itself.
    link: str = ""

    @property
    def body_with_link(self) -> str:
        """The body, followed by the link on a separate line unless the body already contains it."""
        return f"{self.body}\n\n{self.link}" if self.link and self.link not in self.body else self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    A message to one recipient.

    Attributes:
        key: The effect key: 32 hexadecimal digits, the same in every attempt. Use it as the idempotency key if the
            provider supports one.
        recipient: The user.
        notification: The envelope as browsers get it, except that `url` is absolute if the site's address is known.
        texts: The texts of the notification for this transport.
        attempt: Which attempt this is; the first is 1. Attempts of processes that died count.
        digest: For a digest, its notifications, the oldest first; `notification` is then the newest.
    """

    key: str
    recipient: Any
    notification: Envelope
    texts: Texts
    attempt: int
    digest: tuple[Envelope, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    An address of a recipient for one transport.

    Attributes:
        key: Identifies the address among those of the recipient, in all attempts.
        value: The address itself, for the transport only. It may contain a secret, so `repr` leaves it out.
    """

    key: str
    value: Any = field(default=None, repr=False)


class AddressGone(PermanentError):
    """The address no longer exists and was disabled. It does not count as a failure, and is not used again."""


class Transport:
    """
    A way of delivering. Each process creates it once, with its OPTIONS from the settings as keyword arguments.

    Args:
        name: Its name in the settings; preferences and deliveries refer to it.
        timeout_seconds: The longest time for one `send`. A call in a thread cannot be interrupted: for it, this is the
            longest time without an answer from the provider.

    Raises:
        ImproperlyConfigured: An option is not valid. A system check reports it when the process starts.
    """

    # Its name in the admin and on pages of preferences.
    label: ClassVar[Any] = ""
    # Whether its messages show links as text. Such links must be absolute, so a system check requires the address of
    # the site.
    shows_links: ClassVar[bool] = False

    def __init__(self, *, name: str, timeout_seconds: float = 10.0) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
        # For `in_thread`.
        self._threads = Threads(THREADS_LIMIT, name=name)

    @property
    def reaches_people(self) -> bool:
        """Whether its messages reach real people; with DEBUG on, a system check warns about such transports."""
        return True

    @property
    def longest_call_seconds(self) -> float:
        """How long one `send_in_time` may take: longer than `timeout_seconds` if it uses a thread."""
        return max(self.timeout_seconds, conf.get_settings().delivery_claim_seconds * CLAIM_PART)

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """
        The addresses of `recipient`. If there are none, the delivery is skipped.

        It runs in a thread and may use the ORM. All addresses are used, so limit how many a user can add, as
        `destinations_of` does.
        """
        raise NotImplementedError

    def addresses_of(self, recipient: Any) -> Sequence[Address]:
        """The addresses that the bot uses: those of `find_addresses`, or none if the user is not active."""
        return list(self.find_addresses(recipient)) if recipient.is_active else []

    async def send(self, message: Message, address: Address) -> str:
        """
        Send `message` to one address.

        Returns:
            The provider's answer, for staff to read; 500 characters of it are kept.

        Raises:
            Retry: The provider says when to try again.
            PermanentError: The provider refused the message for good.
            AddressGone: The address no longer exists.
            Unavailable: A service that the transport itself needs is unavailable; no attempt is counted.
            Exception: Any other exception is a failed attempt, and others follow.

        Guarantees:
            For each delivery, one call runs at a time. If the result of a call is unknown, after an error or because
            its process died, `send` is called again with the same `message.key`.
        """
        raise NotImplementedError

    async def send_in_time(self, message: Message, address: Address) -> str:
        """
        Call `send` with the timeout `timeout_seconds`. The bot uses this method.

        A call in a thread cannot be interrupted, and another attempt beside it would send twice. So its result is
        awaited until shortly before the claim lapses.

        Raises:
            TimeoutError: There was no result in time.
        """
        latest = asyncio.get_running_loop().time() + conf.get_settings().delivery_claim_seconds * CLAIM_PART
        async with asyncio.timeout(self.timeout_seconds) as limit:
            token = _limit.set((limit, latest))
            try:
                return await self.send(message, address)
            finally:
                _limit.reset(token)

    def close(self) -> None:
        """Release resources, such as the threads. Called when the bot stops; the transport may be used again."""
        self._threads.close()

    def check_address(self, address: str) -> None:
        """Check an address that a user adds. Raises ValueError with a text that continues "the address is"."""
        raise ValueError(f"not accepted: {self.name} does not use addresses that users add")

    async def in_thread[**Parameters, Answer](
        self, function: Callable[Parameters, Answer], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Answer:
        """
        Like asyncio.to_thread, but in threads of this transport: if it hangs, others still get a thread.

        Inside `send`, the timeout is extended until shortly before the claim lapses. So the function should have a
        timeout of its own.
        """
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        limit, latest = _limit.get((None, 0.0))
        if limit is not None and not limit.expired():
            limit.reschedule(latest)
        return await loop.run_in_executor(self._threads.executor, call)


async def disable(address: Address, reason: str) -> NoReturn:
    """
    Disable a destination from `destinations_of`, because its provider answered that it no longer exists.

    Raises:
        AddressGone: Always, after the destination is disabled.
    """
    await database_sync_to_async(disable_destination)(int(address.key), reason)
    raise AddressGone(f"{reason} (the address is disabled)")


def destinations_of(recipient: Any, transport: str) -> list[Destination]:
    """The enabled addresses that the recipient has added for a transport, the newest first."""
    # Never from a replica, which may lag: if it did not have an address that was just added yet, the delivery would be
    # skipped for good.
    rows = Destination.objects.using(router.db_for_write(Destination))
    enabled = rows.filter(transport=transport, disabled_at=None)
    return newest_of(recipient.pk, enabled, key=transport, limit=ADDRESS_LIMIT)
