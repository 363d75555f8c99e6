"""
The open connections of one event loop, by user. A connection is ended when its session or account is no longer valid.

Owns the list of connections, the effect of the orders of `access` on them, and the recheck. The recheck runs in rounds
and looks up connections in batches. It finds changes that send no signal, such as a session that expires or a row that
is changed by SQL. Does not own looking up sessions (authentication), permissions for topics (topics) nor the sockets
(client).

If the database is unavailable, connections are kept and checked again in the next round.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from django.contrib.auth import get_user_model

from realtime import access
from realtime.access import Cause, Order
from realtime.hub.hub import Hub
from realtime.layer import RedisChannelLayer
from realtime.live.views import Views
from realtime.protocol.close_codes import CloseCode
from realtime.pubsub.subscriptions import Attachment
from realtime.redis.outage import Outage
from realtime.untrusted.text import LimitedLog
from realtime.websocket import authentication
from realtime.websocket.permissions import PermissionRecheck, TopicSubscriber

__all__ = ["Connection", "Roster"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

# Users, or urgent connections, that are looked up together: with two queries for Django's own session and auth
# backends.
BATCH_SIZE = 100
# Slots of a round. Each user belongs to one, so that two checks of a user are one round apart, however many users there
# are.
SLOT_COUNT = 15
# Urgent checks wait this long, so that several go together.
GATHER_SECONDS = 0.1
# How long an order is remembered: it may concern a connection that is just being opened.
ORDER_SECONDS = 15.0
# The most orders that are remembered; the oldest are forgotten first.
ORDERS_LIMIT = 10_000
# The wait before a client whose session may have been replaced reconnects: its browser needs time to get the new
# cookie.
RENEWAL_SECONDS = (1.0, 3.0)
# The wait before a client whose connection was only too old reconnects. The ends are spread out already.
RETURN_SECONDS = (0.0, 1.0)

_decode = msgspec.json.Decoder(Order).decode
_database_observer = Outage("the database (to recheck connections)").observer()


class Connection(TopicSubscriber, Protocol):
    """An open connection as the roster sees it; implemented by `client.Client`."""

    # The key of the session that authenticated it; None if something else did.
    session_key: str | None
    # When it reaches its longest life, by the event loop's clock.
    ends_at: float

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    def end(self, code: CloseCode, reason: str) -> None:
        """Close it from the server's side. Idempotent."""

    def refresh(self, user: Any) -> None:
        """Replace the user by the one that was just read, and drop the cached permissions."""


class Roster:
    """
    The open connections of one event loop.

    Args:
        layer: The channel layer that brings the orders.
        recheck_seconds: The length of a round.

    Guarantees:
        Each connection is checked once in a round, for the first time within one round. It is checked before all others
        if an order about its user arrived while it was being opened, or may have been missed.
    """

    def __init__(self, layer: RedisChannelLayer, *, recheck_seconds: float) -> None:
        self.hub: Hub = layer.hub
        self.views: Views = layer.views
        self._layer, self._recheck_seconds = layer, recheck_seconds
        self._now = asyncio.get_running_loop().time
        # Slot → primary key of a user → open connections, at least one. The hash of the key decides the slot.
        self._slots: list[dict[Any, tuple[Connection, ...]]] = [{} for _ in range(SLOT_COUNT)]
        # The subscription to the orders; None while there are no connections.
        self._attachment: Attachment | None = None
        # Primary key of a user → when the last order about the user arrived; oldest first.
        self._ordered_at: dict[Any, float] = {}
        # Connections to check before all others.
        self._urgent: dict[Connection, None] = {}
        # Set while `_urgent` has something.
        self._urgent_came = asyncio.Event()
        # A task of its own, so that a slow permission hook does not hold up the other checks.
        self._permissions = PermissionRecheck(self._of_user)
        # The recheck and the permissions; empty while there are no connections.
        self._tasks: list[asyncio.Task[None]] = []

    def count_of(self, user_id: Any) -> int:
        """How many connections a user has in this process."""
        return len(self._of_user(user_id))

    def add(self, connection: Connection) -> None:
        """Add a connection. Await `listening` before anything is sent to it."""
        user_id = connection.user.pk
        self._slot(user_id)[user_id] = (*self._of_user(user_id), connection)
        if not self._tasks:
            self._start()
        has_no_orders = self._attachment is None or not self._attachment.is_live
        if has_no_orders or self._now() - self._ordered_at.get(user_id, float("-inf")) < ORDER_SECONDS:
            self._check_soon([connection])

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended. Idempotent."""
        user_id = connection.user.pk
        left = tuple(each for each in self._of_user(user_id) if each is not connection)
        if left:
            self._slot(user_id)[user_id] = left
            return
        self._slot(user_id).pop(user_id, None)
        if not any(self._slots):
            self._stop()

    async def listening(self) -> None:
        """Wait until orders can be received; raises SubscriptionClosed if the channel layer is flushed meanwhile."""
        if self._attachment is not None:
            await self._attachment.ready()

    def _slot(self, user_id: Any) -> dict[Any, tuple[Connection, ...]]:
        return self._slots[hash(user_id) % SLOT_COUNT]

    def _of_user(self, user_id: Any) -> tuple[Connection, ...]:
        return self._slot(user_id).get(user_id, ())

    def _connections(self) -> Iterator[Connection]:
        return (each for slot in self._slots for connections in slot.values() for each in connections)

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
        """Orders may have been lost while Redis was unavailable: check all connections."""
        self._check_soon(self._connections())

    def _take(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            try:
                order = _decode(self._layer.decrypted(payload))
                user_id = None if order.user is None else get_user_model()._meta.pk.to_python(order.user)
            except Exception as error:
                # It may come from another release, another key or another program: its content is not logged.
                _log.warning("order", "an order to end connections cannot be read: %s", type(error).__name__)
                continue
            self._handle_order(order, user_id)

    def _handle_order(self, order: Order, user_id: Any) -> None:
        if user_id is None:
            if order.cause is Cause.PERMISSIONS:
                self._check_soon(each for each in self._connections() if each.is_rechecked)
            return
        self._remember(user_id)
        for connection in self._of_user(user_id):
            self._apply(order, connection)

    def _apply(self, order: Order, connection: Connection) -> None:
        match order.cause:
            case Cause.SIGNED_OUT if order.session is None:
                connection.end(CloseCode.SESSION_ENDED, _retry_after(RENEWAL_SECONDS))
            case Cause.SIGNED_OUT:
                if connection.session_key is not None and order.session in access.digests(connection.session_key):
                    connection.end(CloseCode.SIGNED_OUT, "signed out")
            case Cause.DEACTIVATED:
                connection.end(CloseCode.DEACTIVATED, "the account is not active")
            case Cause.DISCONNECTED:
                connection.end(CloseCode.DISCONNECTED, "ended by the site's staff")
            case Cause.SAVED:
                if not _has_hash(connection.user, among=order.valid):
                    connection.end(CloseCode.PASSWORD_CHANGED, _retry_after(RENEWAL_SECONDS))
                elif connection.is_rechecked:
                    self._check_soon([connection])
            case Cause.PERMISSIONS:
                self._check_soon([connection])

    def _remember(self, user_id: Any) -> None:
        self._ordered_at.pop(user_id, None)
        self._ordered_at[user_id] = self._now()
        for old, ordered_at in tuple(itertools.islice(self._ordered_at.items(), 2)):
            if len(self._ordered_at) > ORDERS_LIMIT or self._now() - ordered_at > ORDER_SECONDS:
                del self._ordered_at[old]

    def _check_soon(self, connections: Iterable[Connection]) -> None:
        self._urgent.update(dict.fromkeys(connections))
        if self._urgent:
            self._urgent_came.set()

    # The recheck ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        due_at = self._now()
        # `_stop` may be called from within this task, when the last connection is ended. The cancellation takes effect
        # only at the next await, so the loop has a condition too.
        while any(self._slots):
            for slot in self._slots:
                batches = list(itertools.batched(slot, BATCH_SIZE)) or [()]
                for batch in batches:
                    # A batch that was late does not shorten the waits after it.
                    due_at = max(due_at + self._recheck_seconds / SLOT_COUNT / len(batches), self._now())
                    await self._wait_until(due_at)
                    await self._look_up([each for user_id in batch for each in self._of_user(user_id)])

    async def _wait_until(self, due_at: float) -> None:
        """Wait until the next batch is due, and check urgent connections meanwhile."""
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

    async def _look_up(self, connections: Sequence[Connection]) -> None:
        if not connections:
            return
        try:
            now = self._now()
            for connection in connections:
                if now >= connection.ends_at:
                    connection.end(CloseCode.AGED, _retry_after(RETURN_SECONDS))
            by_session = [each for each in connections if not each.is_over and each.session_key is not None]
            others = [each for each in connections if not each.is_over and each.session_key is None]
            await self._end_invalid(by_session, authentication.users_of_keys, [each.session_key for each in by_session])
            await self._end_invalid(others, authentication.fresh_users, [each.user for each in others])
        except authentication.DATABASE_UNAVAILABLE as error:
            _database_observer.failed(error)
        except Exception:
            # A failure on our side must not end connections; the next round checks again.
            logger.exception("%d connections could not be checked", len(connections))
        else:
            _database_observer.worked()

    async def _end_invalid(
        self, connections: Sequence[Connection], look_up: Callable[[list[Any]], Awaitable[list[Any]]], claims: list[Any]
    ) -> None:
        """End connections whose user is gone or inactive; keep those for which the look-up returned None."""
        if not connections:
            return
        for connection, user in zip(connections, await look_up(claims), strict=True):
            if user is None or connection.is_over:
                continue
            if not user.is_authenticated or user.pk != connection.user.pk:
                connection.end(CloseCode.SESSION_ENDED, _retry_after(RENEWAL_SECONDS))
            elif not user.is_active:
                connection.end(CloseCode.DEACTIVATED, "the account is not active")
            else:
                connection.refresh(user)
                if connection.is_rechecked:
                    self._permissions.add(user.pk)


def _has_hash(user: Any, *, among: Iterable[str]) -> bool:
    """Whether the digest of the user's session auth hash is among these."""
    hash_of = getattr(user, "get_session_auth_hash", None)
    return hash_of is None or not access.digests(hash_of()).isdisjoint(among)


def _retry_after(bounds: tuple[float, float]) -> str:
    return f"retry_after={random.uniform(*bounds):.2f}"  # noqa: S311 - spreads load
