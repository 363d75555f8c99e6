"""
The contract of a transport.

Owns what a transport is told and what it answers. A transport of your own subclasses `Transport`, and the setting
NOTIFICATIONS["TRANSPORTS"] names it.
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

# The most addresses that one user has on one transport; the newest count.
ADDRESS_LIMIT = 10
# The part of a claim's time that a call in a thread may take: what is left is for beginning and for the record.
CLAIM_PART = 0.8
# The most threads of one transport: more than there are slots, because a call that was given up may hang on.
THREADS_LIMIT = 100
# When the call of this context is given up, and when at the latest, by the event loop's clock.
_limit: contextvars.ContextVar[tuple[asyncio.Timeout, float]] = contextvars.ContextVar("_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a notification says on one transport, in the recipient's language."""

    # One line; may be empty.
    subject: str
    # Plain text.
    body: str
    # The same as HTML; empty where the kind has no template for it.
    html: str = ""
    # The absolute URL of the notification. Empty if it is not known, or if the body comes from a template, which
    # contains the URL where it wants to.
    link: str = ""

    @property
    def body_with_link(self) -> str:
        """The body, followed by the link on a line of its own, unless the body contains it already."""
        return f"{self.body}\n\n{self.link}" if self.link and self.link not in self.body else self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    What is to be sent to one recipient.

    Attributes:
        key: The effect key: 32 hexadecimal digits, the same in every attempt. A provider that takes an idempotency key
            gets this one.
        recipient: The user.
        notification: The envelope as browsers get it, except that `url` is absolute if the site's address is known.
        texts: The same in words for this transport.
        attempt: From 1; those of processes that died count.
        digest: Of a digest, all that it tells of, the oldest first; `notification` is then the newest.
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
    Where a transport reaches a recipient.

    Attributes:
        key: What stays the same when the delivery is tried again; unique among the recipient's addresses.
        value: The address itself; only its transport looks at it. It may hold a secret, so `repr` leaves it out.
    """

    key: str
    value: Any = field(default=None, repr=False)


class AddressGone(PermanentError):
    """The address no longer exists and was disabled: nothing failed, and nothing is sent to it again."""


class Transport:
    """
    One way of delivering. Made once a process with its OPTIONS from the settings as keyword arguments.

    Args:
        name: Its name in the settings; preferences and deliveries refer to it.
        timeout_seconds: The longest that one `send` may take. With calls in a thread, which nobody can end, the longest
            that the provider may be silent.

    Raises:
        ImproperlyConfigured: An option cannot be; a system check says so when the process starts.
    """

    # What the admin and a page of preferences call it.
    label: ClassVar[Any] = ""
    # Whether its messages show links as text. Links must then be absolute, and a system check requires the site's
    # address.
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
        """How long one `send_in_time` may take: beyond `timeout_seconds` where it is in a thread."""
        return max(self.timeout_seconds, conf.get_settings().delivery_claim_seconds * CLAIM_PART)

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """
        Where `recipient` is reached; nowhere, and the delivery is skipped.

        Runs in a thread and may use the ORM. All are used: bound what users can add, as `destinations_of` does.
        """
        raise NotImplementedError

    def addresses_of(self, recipient: Any) -> Sequence[Address]:
        """What the bot uses: `find_addresses`, and nothing for somebody who may no longer sign in."""
        return list(self.find_addresses(recipient)) if recipient.is_active else []

    async def send(self, message: Message, address: Address) -> str:
        """
        Send `message` to one address.

        Returns:
            What the provider answered, for people; 500 characters of it are kept.

        Raises:
            Retry: The provider says when to try again.
            PermanentError: It will never take it.
            AddressGone: The address is no longer there.
            Unavailable: What the transport itself needs is away; no attempt is counted.
            Exception: Anything else is a failed attempt, with others after it.

        Guarantees:
            Called at most once at a time for a delivery. It is called again with the same `message.key` when it is not
            known what became of a call: after an error, and after a process died in the middle of it.
        """
        raise NotImplementedError

    async def send_in_time(self, message: Message, address: Address) -> str:
        """
        What the bot calls: `send`, which is given up after `timeout_seconds`.

        A call in a thread goes on all the same, so it is waited for until shortly before the claim lapses, and what
        came of it counts: another attempt beside it would send twice.

        Raises:
            TimeoutError: It was given up.
        """
        latest = asyncio.get_running_loop().time() + conf.get_settings().delivery_claim_seconds * CLAIM_PART
        async with asyncio.timeout(self.timeout_seconds) as limit:
            token = _limit.set((limit, latest))
            try:
                return await self.send(message, address)
            finally:
                _limit.reset(token)

    def close(self) -> None:
        """Release what the transport holds, its threads at least; called when the bot stops. It may be used again."""
        self._threads.close()

    def check_address(self, address: str) -> None:
        """Refuse what a user gives as an address of theirs. Raises ValueError, which goes on after "the address is"."""
        raise ValueError(f"not taken: {self.name} uses none that users add")

    async def in_thread[**Parameters, Answer](
        self, function: Callable[Parameters, Answer], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Answer:
        """
        As asyncio.to_thread, in threads of this transport's own: where it hangs, nobody else waits for a thread.

        Within `send` the call may take until shortly before the claim lapses: give what it calls a timeout of its own.
        """
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        limit, latest = _limit.get((None, 0.0))
        if limit is not None and not limit.expired():
            limit.reschedule(latest)
        return await loop.run_in_executor(self._threads.executor, call)


async def disable(address: Address, reason: str) -> NoReturn:
    """
    Disable a destination from `destinations_of`, because its provider says that it no longer exists.

    Raises:
        AddressGone: Always, after the destination is disabled.
    """
    await database_sync_to_async(disable_destination)(int(address.key), reason)
    raise AddressGone(f"{reason} (the address is disabled)")


def destinations_of(recipient: Any, transport: str) -> list[Destination]:
    """The enabled addresses that the recipient has added for a transport, the newest first."""
    # Never from a replica, which may lag: without an address that was just added, the delivery would be skipped for
    # good.
    rows = Destination.objects.using(router.db_for_write(Destination))
    enabled = rows.filter(transport=transport, disabled_at=None)
    return newest_of(recipient.pk, enabled, key=transport, limit=ADDRESS_LIMIT)
