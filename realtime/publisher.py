"""
Publishing on topics from Django: `publish()`, its async twin `apublish()`, and `publish_many()`.

Owns the limits of what is published. Does not own the Redis call (history), the host of a topic (layer) nor which
topics there are (topics).

This path promises at most once: with Redis away the caller gets an error at once, and nothing is kept for later. What
must not be lost goes through `notifications.services.notify`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from realtime.broker.history import Published, PublishRequest
from realtime.exceptions import PublicationRefused, PublicationTooLarge, TopicUnknown, Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import REDIS_ERRORS
from realtime.topics import history_of, resolve

__all__ = ["DATA_LIMIT_BYTES", "apublish", "encode", "publish", "publish_many"]

# The largest `data` of a publication, as JSON.
DATA_LIMIT_BYTES = 65_536

_encode = msgspec.json.Encoder().encode
_check = msgspec.json.Decoder(msgspec.Raw).decode


def publish(topic: str, data: Any, *, idempotency_key: str | None = None) -> Published:
    """
    Publish on a topic: everybody who hears it gets `data` at once.

    Args:
        topic: A name that some app's `topics.py` declares.
        data: Anything that is JSON, at most 64 KiB; `bytes` are taken for JSON text and sent as they are.
        idempotency_key: A second call with the same key within five minutes publishes nothing.

    Returns:
        Where the publication stands.

    Raises:
        TopicUnknown: No app declares it: a misspelt name would be heard by nobody.
        PublicationRefused: The topic's `check_data` refused the data; the error says why.
        PublicationTooLarge, TypeError, ValueError: `data` is over the limit, or no JSON.
        Unavailable: Redis did not take it within two seconds; whether it was published is not known, and it is not
            tried again.

    Guarantees:
        One round trip on a pooled connection of the process; no event loop.
    """
    layer, request = _layer(), _outgoing(topic, data, idempotency_key)
    try:
        return layer.publish_now(request)
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


async def apublish(topic: str, data: Any, *, idempotency_key: str | None = None) -> Published:
    """The async twin of `publish`."""
    layer, request = _layer(), _outgoing(topic, data, idempotency_key)
    try:
        return await layer.publish(request)
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


def publish_many(items: Iterable[tuple[str, Any]]) -> list[Published]:
    """
    Publish (topic, data), in order for each topic, many in one round trip.

    Raises:
        As `publish`. All items are checked before the first is published; with Redis lost in between, the first ones
        may have been published.
    """
    layer = _layer()
    checked = [_outgoing(topic, data) for topic, data in items]
    try:
        return layer.publish_many_now(checked)
    except REDIS_ERRORS as error:
        raise _unavailable(checked[0].topic, error) from error


def encode(data: object) -> bytes:
    """
    Data of a publication as the bytes that are spliced into its frame.

    Args:
        data: What msgspec encodes as JSON; `bytes` are taken for JSON text as it is.

    Raises:
        PublicationTooLarge: More than 64 KiB.
        TypeError, ValueError: It cannot be said in JSON, or is no JSON text in UTF-8.
    """
    raw = data if isinstance(data, bytes) else _encode(data)
    if len(raw) > DATA_LIMIT_BYTES:
        raise PublicationTooLarge(size_bytes=len(raw), limit_bytes=DATA_LIMIT_BYTES)
    if raw is data:
        # One bad byte would end the connection of everybody who hears the topic.
        raw.decode()
        _check(raw)
    return raw


def _outgoing(topic: str, data: Any, idempotency_key: str | None = None) -> PublishRequest:
    match = resolve(topic)
    if match is None:
        raise TopicUnknown(topic)
    raw = encode(data)
    if match.family.check_data is not None:
        try:
            match.family.check_data(raw)
        except ValueError as error:
            raise PublicationRefused(topic, str(error)) from error
    return PublishRequest(topic, raw, history_of(match), idempotency_key)


def _layer() -> RedisChannelLayer:
    layer = get_channel_layer()
    if not isinstance(layer, RedisChannelLayer):
        raise ImproperlyConfigured(
            'publishing needs offsets: set CHANNEL_LAYERS["default"]["BACKEND"] to "realtime.layer.RedisChannelLayer"'
        )
    return layer


def _unavailable(topic: str, error: Exception) -> Unavailable:
    return Unavailable(f"publishing on {topic} failed ({type(error).__name__}: {error}): it is not tried again")
