"""
Ends open connections: `disconnect()` for a project's own code, and the messages that Django's signals cause.

Owns the orders: messages to all web processes on one Redis channel. Does not own the open connections nor how
an order is applied to them (roster), nor when Django's signals send an order (django_signals).

A session key is never sent: an order names a session by a digest that only this project's SECRET_KEY can produce.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

from realtime.exceptions import Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import REDIS_ERRORS

__all__ = ["CHANNEL", "Cause", "Order", "adisconnect", "digest", "digests", "disconnect", "permissions_changed", "send"]

# The orders use the Redis channel that a topic of this name would have. No client can subscribe to that topic.
CHANNEL: Final = "signalbox.access"
_SALT: Final = "realtime.access"
# The most users in one call of `disconnect`: each is one message, and all are sent in one round trip.
USERS_LIMIT: Final = 1_000


class Cause(StrEnum):
    """Why open connections must end or be checked again."""

    # The user has signed out of one session, or of a session that cannot be named.
    SIGNED_OUT = "signed_out"
    # The account was deactivated or deleted.
    DEACTIVATED = "deactivated"
    # The account was saved: connections that were opened with another password end.
    SAVED = "saved"
    # The user's permissions may have changed: the permission for each topic is checked again.
    PERMISSIONS = "permissions"
    # Staff or the project's code ends them.
    DISCONNECTED = "disconnected"


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message to all web processes."""

    cause: Cause
    # The user's primary key as text; None for all users.
    user: str | None = None
    # The digest of one session; None for all sessions of the user.
    session: str | None = None
    # With SAVED: digests of the session auth hashes that are valid now.
    valid: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


def disconnect(*user_ids: Any, cause: Cause = Cause.DISCONNECTED, session_key: str | None = None) -> int:
    """
    End the open connections of users, in all web processes.

    Args:
        user_ids: Primary keys, at most 1,000.
        cause: Decides the close code: Cause.DISCONNECTED, Cause.SIGNED_OUT or Cause.DEACTIVATED.
        session_key: Ends only the connections that were opened with this session; with one user and SIGNED_OUT.

    Returns:
        How many web processes received the order.

    Raises:
        ValueError: There are too many users, or the cause is not one of these three.
        Unavailable: Redis did not accept the order within two seconds.

    Guarantees:
        A web process that is connected to Redis ends the connections at once. Sessions and accounts stay as they are:
        if the user is still signed in, a page that is reloaded connects again.
    """
    return send(_orders(user_ids, cause, session_key))


async def adisconnect(*user_ids: Any, cause: Cause = Cause.DISCONNECTED, session_key: str | None = None) -> int:
    """The async twin of `disconnect`."""
    payloads = [_encode(order) for order in _orders(user_ids, cause, session_key)]
    try:
        return max(await _layer().broadcast(CHANNEL, payloads), default=0)
    except REDIS_ERRORS as error:
        raise _unavailable(error) from error


def permissions_changed(*user_ids: Any) -> int:
    """
    Check again the permission for each topic that these users are subscribed to; for all users if none is given.

    Call it when a permission depends on the project's own rows and these have changed. Without this call, a revoked
    permission is noticed within REALTIME["RECHECK_SECONDS"]. Errors and return value are those of `disconnect`.
    """
    if not user_ids:
        return send([Order(cause=Cause.PERMISSIONS)])
    _check_count(user_ids)
    return send([Order(cause=Cause.PERMISSIONS, user=str(user_id)) for user_id in user_ids])


def send(orders: Iterable[Order]) -> int:
    """Send orders in one round trip; raises Unavailable. Returns how many web processes received them."""
    try:
        return max(_layer().broadcast_now(CHANNEL, [_encode(order) for order in orders]), default=0)
    except REDIS_ERRORS as error:
        raise _unavailable(error) from error


def digest(secret_text: str) -> str:
    """The text that stands for a session key or a session auth hash in an order."""
    return _digest(secret_text, settings.SECRET_KEY)


def digests(secret_text: str) -> frozenset[str]:
    """All digests that other processes may send for this text: with SECRET_KEY, and with each of its fallbacks."""
    return frozenset(_digest(secret_text, key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


def _digest(secret_text: str, secret_key: str) -> str:
    return salted_hmac(_SALT, secret_text, secret=secret_key, algorithm="sha256").hexdigest()[:32]


def _orders(user_ids: tuple[Any, ...], cause: Cause, session_key: str | None) -> list[Order]:
    if cause not in (Cause.DISCONNECTED, Cause.SIGNED_OUT, Cause.DEACTIVATED):
        raise ValueError(f"the cause {cause!r} cannot end connections: give DISCONNECTED, SIGNED_OUT or DEACTIVATED")
    if session_key is not None and (len(user_ids) != 1 or cause is not Cause.SIGNED_OUT):
        raise ValueError("session_key needs exactly one user and Cause.SIGNED_OUT")
    _check_count(user_ids)
    session = None if session_key is None else digest(session_key)
    return [Order(cause=cause, user=str(user_id), session=session) for user_id in user_ids]


def _check_count(user_ids: tuple[Any, ...]) -> None:
    if len(user_ids) > USERS_LIMIT:
        raise ValueError(f"{len(user_ids)} users, the limit is {USERS_LIMIT}: call it several times, with fewer users")


def _layer() -> RedisChannelLayer:
    layer = get_channel_layer()
    if not isinstance(layer, RedisChannelLayer):
        raise ImproperlyConfigured(
            "connections are ended through realtime.layer.RedisChannelLayer: make it the default channel layer"
        )
    return layer


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        f"the web processes could not be notified ({type(error).__name__}: {error}), and this is not retried"
    )
