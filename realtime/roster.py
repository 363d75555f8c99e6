"""
The connections that are open on one event loop, by user: ended when what let them in has ended.

Owns who is here, what the orders of `access` do to them, and the recheck: in rounds, batch after batch, it looks up
anew what gives no signal, such as a session that expires or a row changed by SQL. Does not own what a session is worth
(authentication), the permission of a topic (topics) nor the sockets (sessions).

What cannot be looked up, because the database is away, is kept and asked again in the next round.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from django.contrib.auth import get_user_model

from realtime import access, authentication
from realtime.access import Cause, Order
from realtime.close_codes import CloseCode
from realtime.hub import Hub
from realtime.layer import RedisChannelLayer
from realtime.outage import Outage
from realtime.permissions import PermissionRecheck, TopicHearer
from realtime.subscriptions import Attachment

__all__ = ["Resident", "Roster"]

logger = logging.getLogger(__name__)

# Connections looked up together, by two queries with Django's own session and auth backends.
BATCH_SIZE = 100
# Parts of a round. Each user belongs to one, so that a round lies between two looks, whoever comes and goes.
SLOT_COUNT = 15
# What is to be looked at now waits this long for more of its kind.
GATHER_SECONDS = 0.1
# An order is remembered for so long: it may be about a session that is just being looked up for a new connection.
ORDER_SECONDS = 15.0
ORDERS_LIMIT = 10_000
# A client whose session may have a successor comes back when its browser has had time to hear of it.
RENEWAL_SECONDS = (1.0, 3.0)
# One that is only too old comes back at once; ages are spread already.
RETURN_SECONDS = (0.0, 1.0)

_decode = msgspec.json.Decoder(Order).decode
_database_observer = Outage("the database for the recheck of connections").observer()


class Resident(TopicHearer, Protocol):
    """One open connection; `sessions.ClientSession`."""

    # The key of the session that let it in; None where it was something else.
    session_key: str | None
    # When it is too old, by the event loop's clock.
    ends_at: float

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    def end(self, code: CloseCode, reason: str) -> None:
        """Close it from this side. Idempotent."""

    def refresh(self, user: Any) -> None:
        """Take the account as it is now; what its permissions were does not count any more."""


class Roster:
    """
    Who is connected on one event loop.

    Args:
        layer: Brings the orders.
        recheck_seconds: The length of a round.

    Guarantees:
        Each connection is looked at once in a round, the first time within one; and before all others, if an order
        about its user came while it was being let in, or may have been missed.
    """

    def __init__(self, layer: RedisChannelLayer, *, recheck_seconds: float) -> None:
        self.hub: Hub = layer.hub
        self._layer, self._recheck_seconds = layer, recheck_seconds
        self._now = asyncio.get_running_loop().time
        # The connections by the user's primary key, in slots by its hash; no user is without one.
        self._slots: list[dict[Any, tuple[Resident, ...]]] = [{} for _ in range(SLOT_COUNT)]
        # Hears the orders; None while nobody is connected.
        self._attachment: Attachment | None = None
        # Users of whom an order has come lately, oldest first, and when.
        self._ordered_at: dict[Any, float] = {}
        # To be looked up before all others.
        self._urgent: dict[Resident, None] = {}
        self._urgent_came = asyncio.Event()
        # Apart from the rest, which a slow permission must not hold up.
        self._permissions = PermissionRecheck(self._of_user)
        self._tasks: list[asyncio.Task[None]] = []

    def count_of(self, user_id: Any) -> int:
        """How many connections a user has here."""
        return len(self._of_user(user_id))

    def add(self, resident: Resident) -> None:
        """A connection was let in. `listening` has to be awaited before it is told anything."""
        user_id = resident.user.pk
        self._slot(user_id)[user_id] = (*self._of_user(user_id), resident)
        if not self._tasks:
            self._start()
        is_deaf = self._attachment is None or not self._attachment.is_live
        if is_deaf or self._now() - self._ordered_at.get(user_id, float("-inf")) < ORDER_SECONDS:
            self._hurry([resident])

    def remove(self, resident: Resident) -> None:
        """It has ended. Idempotent."""
        user_id = resident.user.pk
        left = tuple(each for each in self._of_user(user_id) if each is not resident)
        if left:
            self._slot(user_id)[user_id] = left
            return
        self._slot(user_id).pop(user_id, None)
        if not any(self._slots):
            self._stop()

    async def listening(self) -> None:
        """Wait until orders come; raises SubscriptionClosed when the channel layer is flushed meanwhile."""
        if self._attachment is not None:
            await self._attachment.ready()

    def _slot(self, user_id: Any) -> dict[Any, tuple[Resident, ...]]:
        return self._slots[hash(user_id) % SLOT_COUNT]

    def _of_user(self, user_id: Any) -> tuple[Resident, ...]:
        return self._slot(user_id).get(user_id, ())

    def _residents(self) -> Iterator[Resident]:
        return (each for slot in self._slots for residents in slot.values() for each in residents)

    def _start(self) -> None:
        self._attachment = self._layer.attach(access.CHANNEL, on_payloads=self._take, on_gap=self._missed_orders)
        self._tasks = [
            asyncio.create_task(self._run(), name="realtime recheck"),
            asyncio.create_task(self._permissions.run(), name="realtime permissions"),
        ]

    def _stop(self) -> None:
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._urgent.clear()

    # Orders -----------------------------------------------------------------------------------------------------------

    def _missed_orders(self) -> None:
        """Redis was lost and is back: whatever was ordered meanwhile, everybody is looked at."""
        self._hurry(self._residents())

    def _take(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            try:
                order = _decode(self._layer.opened(payload))
                user_id = None if order.user is None else get_user_model()._meta.pk.to_python(order.user)
            except Exception as error:
                # Of another version or key, or not of this project; one line, without what it says.
                logger.warning("an order about connections cannot be read: %s", type(error).__name__)
                continue
            self._obey(order, user_id)

    def _obey(self, order: Order, user_id: Any) -> None:
        if user_id is None:
            if order.cause is Cause.PERMISSIONS:
                self._hurry(each for each in self._residents() if each.rechecked_topics())
            return
        self._remember(user_id)
        for resident in self._of_user(user_id):
            self._apply(order, resident)

    def _apply(self, order: Order, resident: Resident) -> None:
        match order.cause:
            case Cause.SIGNED_OUT if order.session is None:
                resident.end(CloseCode.SESSION_ENDED, _retry_after(RENEWAL_SECONDS))
            case Cause.SIGNED_OUT:
                if resident.session_key is not None and order.session in access.digests(resident.session_key):
                    resident.end(CloseCode.SIGNED_OUT, "signed out")
            case Cause.DEACTIVATED:
                resident.end(CloseCode.DEACTIVATED, "the account is not active")
            case Cause.DISCONNECTED:
                resident.end(CloseCode.DISCONNECTED, "ended by the site's staff")
            case Cause.SAVED:
                if not _has_hash(resident.user, among=order.valid):
                    resident.end(CloseCode.PASSWORD_CHANGED, _retry_after(RENEWAL_SECONDS))
                elif resident.rechecked_topics():
                    self._hurry([resident])
            case Cause.PERMISSIONS:
                self._hurry([resident])

    def _remember(self, user_id: Any) -> None:
        self._ordered_at.pop(user_id, None)
        self._ordered_at[user_id] = self._now()
        for old, ordered_at in tuple(itertools.islice(self._ordered_at.items(), 2)):
            if len(self._ordered_at) > ORDERS_LIMIT or self._now() - ordered_at > ORDER_SECONDS:
                del self._ordered_at[old]

    def _hurry(self, residents: Iterable[Resident]) -> None:
        self._urgent.update(dict.fromkeys(residents))
        if self._urgent:
            self._urgent_came.set()

    # The recheck ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        due_at = self._now()
        # Ended by its own hand, it is cancelled only where it waits.
        while any(self._slots):
            for slot in self._slots:
                batches = list(itertools.batched(slot, BATCH_SIZE)) or [()]
                for batch in batches:
                    # What was late before does not make it hurry.
                    due_at = max(due_at + self._recheck_seconds / SLOT_COUNT / len(batches), self._now())
                    await self._wait_until(due_at)
                    await self._look_up([each for user_id in batch for each in self._of_user(user_id)])

    async def _wait_until(self, due_at: float) -> None:
        """Wait for the next batch, and look meanwhile at those who cannot wait."""
        while True:
            try:
                async with asyncio.timeout_at(due_at):
                    await self._urgent_came.wait()
            except TimeoutError:
                return
            await asyncio.sleep(GATHER_SECONDS)
            self._urgent_came.clear()
            urgent, self._urgent = self._urgent, {}
            for batch in itertools.batched(urgent, BATCH_SIZE):
                await self._look_up(batch)

    async def _look_up(self, residents: Sequence[Resident]) -> None:
        if not residents:
            return
        try:
            now = self._now()
            for resident in residents:
                if now >= resident.ends_at:
                    resident.end(CloseCode.AGED, _retry_after(RETURN_SECONDS))
            by_session = [each for each in residents if not each.is_over and each.session_key is not None]
            others = [each for each in residents if not each.is_over and each.session_key is None]
            await self._judge(by_session, authentication.users_of_keys, [each.session_key for each in by_session])
            await self._judge(others, authentication.fresh_users, [each.user for each in others])
        except authentication.AWAY as error:
            _database_observer.failed(error)
        except Exception:
            # Nobody is thrown out by a failure of ours; the next round asks again.
            logger.exception("%d connections could not be looked at", len(residents))
        else:
            _database_observer.worked()

    async def _judge(
        self, residents: Sequence[Resident], look_up: Callable[[list[Any]], Awaitable[list[Any]]], claims: list[Any]
    ) -> None:
        """End those whose claim gives no user any more; one that could not be looked up gives None, and stays."""
        if not residents:
            return
        for resident, user in zip(residents, await look_up(claims), strict=True):
            if user is None or resident.is_over:
                continue
            if not user.is_authenticated or user.pk != resident.user.pk:
                resident.end(CloseCode.SESSION_ENDED, _retry_after(RENEWAL_SECONDS))
            elif not user.is_active:
                resident.end(CloseCode.DEACTIVATED, "the account is not active")
            else:
                resident.refresh(user)
                if resident.rechecked_topics():
                    self._permissions.add(user.pk)


def _has_hash(user: Any, *, among: Iterable[str]) -> bool:
    """Whether what the user's sessions are verified by is among these digests."""
    hash_of = getattr(user, "get_session_auth_hash", None)
    return hash_of is None or not access.digests(hash_of()).isdisjoint(among)


def _retry_after(bounds: tuple[float, float]) -> str:
    return f"retry_after={random.uniform(*bounds):.2f}"  # noqa: S311 - spreads load
