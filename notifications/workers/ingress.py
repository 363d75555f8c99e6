"""
Ingress: programs in any language request notifications with a PUBLISH on the Redis channel `notification`.

Owns checking, accepting, refusing and counting requests. Does not own the subscription (realtime.pubsub.multiplexer),
which process listens (realtime.redis.lease), or the limits of content (content.envelope).

Redis pub/sub delivers at most once: a request that is published while no relay listens is lost, and PUBLISH returns 0.
"""

import asyncio
import functools
import logging
import uuid
from collections import Counter
from typing import Annotated, Any

import msgspec
import redis.asyncio
from django.db.models import IntegerField

from notifications import services
from notifications.content.recipients import key_field
from notifications.database.errors import DATABASE_UNAVAILABLE
from notifications.exceptions import InvalidNotification, InvalidRecipient, UnknownRecipients
from realtime.exceptions import SubscriberTooSlow, SubscriptionClosed, SubscriptionGap
from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Subscription
from realtime.redis.lease import Lease
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.statistics import register
from realtime.untrusted.text import LimitedLog, printable

__all__ = ["REQUEST_LIMIT_BYTES", "Ingress", "Refused", "Request", "read_request", "unknown_fields"]

logger = logging.getLogger(__name__)

REQUEST_LIMIT_BYTES = 65_536
# The most requests that wait while the database is slow or unavailable. If there are more, the oldest are dropped,
# logged and counted.
HIGH_WATER_MARK = 4096
# How much of a refused request, and of the reason, is logged, in characters.
EXCERPT_LIMIT = 200
DETAIL_LIMIT = 300
# The most names of unknown fields that are logged by one process.
LOGGED_NAMES_LIMIT = 100


class Refused(Exception):
    """
    A request is not accepted.

    Attributes:
        reason: The name of the counter: oversize, not_json, wrong_shape, unknown_user or invalid.
        detail: What is wrong, and where.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON object that a program publishes. Unknown fields have no effect, and are logged: see `unknown_fields`."""

    # The recipient's primary key. It may be a text only if the keys of the user model are not integers.
    user_id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, msgspec.Meta(max_length=4_096)]
    message: str
    kind: str = "info"
    title: str = ""
    url: str = ""
    data: Any = None
    # A second request with the same key has no effect.
    idempotency_key: str | None = None


def read_request(body: bytes) -> Request:
    """
    Check the form of a request. The user and the texts are checked later, by notify().

    Raises:
        Refused: The form is wrong.
    """
    if len(body) > REQUEST_LIMIT_BYTES:
        raise Refused("oversize", f"it has {len(body)} bytes, the limit is {REQUEST_LIMIT_BYTES}")
    try:
        request = _decode(body)
        # Decode the names of all fields too: a request that cannot be decoded must be refused before it has any effect.
        _decode_fields(body)
    except msgspec.ValidationError as error:
        raise Refused("wrong_shape", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("not_json", str(error)) from error
    if isinstance(request.user_id, str) and _user_ids_are_numbers():
        raise Refused("wrong_shape", "Expected `int`, got `str` - at `$.user_id`")
    return request


def unknown_fields(body: bytes) -> set[str]:
    """The names of a request's unknown fields, which may be misspelt."""
    return _decode_fields(body).keys() - _FIELDS


class Ingress:
    """
    Args:
        redis: Client for the counters (`clients.async_publisher`).
        channel: The Redis channel to listen on.
        counters_key: A hash of counters that outlive the process: accepted, refused:<reason>, dropped,
            left to others.
        lease: Held while this listens. After the lease is lost, requests are left to the next holder.
        database_outage: The state of the database, shared by all its users in the process.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        *,
        channel: str,
        counters_key: str,
        lease: Lease,
        database_outage: Outage | None = None,
    ) -> None:
        # The counters of this process, with the same names as in Redis.
        self.counts: Counter[str] = Counter()
        register(self, "ingress")
        self._redis = redis
        self._channel = channel
        self._counters_key = counters_key
        self._lease = lease
        self._database_outage = database_outage or Outage("the database")
        self._log = LimitedLog(logger)
        # Names of unknown fields that were logged.
        self._logged_names: set[str] = set()
        # Set while it listens.
        self._multiplexer: Multiplexer | None = None
        self._subscription: Subscription | None = None
        self._ended = asyncio.Event()

    def statistics(self) -> dict[str, int]:
        """What became of the requests, for `realtime.statistics`."""
        return dict(self.counts)

    @property
    def waiting_count(self) -> int:
        """How many received requests wait; at most HIGH_WATER_MARK."""
        return self._subscription.held_count if self._subscription is not None else 0

    async def run(self, multiplexer: Multiplexer) -> None:
        """
        Listen until `drain()`.

        Guarantees:
            Requests are handled one after another, in the order in which they were published. No request ends the loop:
            a refused one is counted, and logged with the reason and its first 200 characters, with a rate limit. If the
            database is unavailable, requests wait. Those that exceed the subscription's limit are dropped, logged and
            counted.
        """
        self._ended.clear()
        self._multiplexer = multiplexer
        self._subscription = multiplexer.subscribe(self._channel, high_water_mark=HIGH_WATER_MARK)
        try:
            async with self._subscription as subscription:
                logger.info("listening for requests on the Redis channel %s", self._channel)
                await self._take_all(subscription)
        except SubscriptionClosed:
            pass
        finally:
            if lost_count := self.waiting_count:
                logger.warning("%d requests were lost: the lease or the deadline of the stop has expired", lost_count)
                self.counts["dropped"] += lost_count
            self._log.flush()
            self._multiplexer = self._subscription = None
            self._ended.set()

    async def drain(self) -> None:
        """Stop listening, and return when all requests that were received are done."""
        if self._multiplexer is not None:
            await self._multiplexer.stop()
            await self._ended.wait()

    async def _take_all(self, subscription: Subscription) -> None:
        while True:
            try:
                message = await subscription.receive()
            except SubscriberTooSlow as error:
                logger.warning("requests were lost: %s", error)
                await self._count("dropped", error.dropped_count)
            except SubscriptionGap:
                logger.warning("the subscription was interrupted: requests may have been lost")
            else:
                await self.take(message.data)

    async def take(self, body: bytes) -> None:
        """Notify the user of one request, or refuse it."""
        try:
            request = read_request(body)
            is_ours = await self._notify(request)
        except Refused as error:
            detail, excerpt = printable(str(error), limit=DETAIL_LIMIT), printable(body, limit=EXCERPT_LIMIT)
            self._log.warning(error.reason, "refused a request (%s): %s", detail, excerpt)
            await self._count(f"refused:{error.reason}")
        except Exception:
            logger.exception("failed on the request %s", printable(body, limit=EXCERPT_LIMIT))
            await self._count("refused:error")
        else:
            # Not inside the try: an error from here on must not count the request as refused.
            await self._count("accepted" if is_ours else "left to others")
            self._log_unknown_fields(body)

    async def _notify(self, request: Request) -> bool:
        """Notify the user. Returns False if the lease was lost before that: the request is left to the next holder."""
        # With a key, trying again after a commit whose answer was lost does not notify twice.
        key = request.idempotency_key or f"ingress:{uuid.uuid4()}"
        failures = 0
        observer = self._database_outage.observer()
        while self._lease.is_held:
            try:
                await services.anotify(
                    request.user_id,
                    request.message,
                    kind=request.kind,
                    title=request.title,
                    url=request.url,
                    data=request.data,
                    idempotency_key=key,
                )
            except (UnknownRecipients, InvalidRecipient) as error:
                raise Refused("unknown_user", str(error)) from error
            except InvalidNotification as error:
                raise Refused("invalid", str(error)) from error
            except DATABASE_UNAVAILABLE as error:
                await observer.wait(error, failures)
                failures += 1
            else:
                observer.worked()
                return True
        observer.leave()
        return False

    def _log_unknown_fields(self, body: bytes) -> None:
        """Log the unknown fields of a request, each name once."""
        new = unknown_fields(body) - self._logged_names
        if new and len(self._logged_names) < LOGGED_NAMES_LIMIT:
            self._logged_names |= new
            names = ", ".join(repr(printable(name, limit=EXCERPT_LIMIT)) for name in sorted(new)[:10])
            logger.warning("a request has unknown fields, which may be misspelt: %s", names)

    async def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] += by
        try:
            await self._redis.hincrby(self._counters_key, name, by)
        except REDIS_ERRORS as error:
            logger.warning("%r was counted in this process only (%s: %s)", name, type(error).__name__, error)


_decode = msgspec.json.Decoder(Request).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_FIELDS = frozenset(Request.__struct_fields__)


@functools.cache
def _user_ids_are_numbers() -> bool:
    return isinstance(key_field(), IntegerField)
