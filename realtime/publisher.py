"""
Publishing on topics from Django: `publish()`, its async twin `apublish()`, and `publish_many()`.

Owns the checks of a publication before it is sent. Does not own the Redis call (broker.publish), the host of a topic
(layer) nor which topics exist (topics).

Delivery is at most once. While Redis is unavailable, the caller gets an error at once and nothing is stored for later.
Messages that must not be lost go through `notifications.services.notify`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from realtime.broker.publish import Published, PublishRequest
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
    Publish on a topic: all its subscribers get `data` at once.

    Args:
        topic: A name that an app's `topics.py` declares.
        data: Anything that can be encoded as JSON, at most 64 KiB; `bytes` must be JSON text and are sent unchanged.
        idempotency_key: A second call with the same key within five minutes publishes nothing.

    Returns:
        The position of the publication in its topic.

    Raises:
        TopicUnknown: No app declares the topic. Nobody could be subscribed to a misspelt name.
        PublicationRefused: The topic's `check_data` refused the data; the error says why.
        PublicationTooLarge, TypeError, ValueError: `data` is over the limit, or not JSON.
        Unavailable: Redis did not accept it within two seconds. Whether it was published is unknown; it is not retried.

    Guarantees:
        One round trip on a pooled connection of the process; no event loop.
    """
    layer, request = _layer(), _request(topic, data, idempotency_key)
    try:
        return layer.publish_now(request)
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


async def apublish(topic: str, data: Any, *, idempotency_key: str | None = None) -> Published:
    """The async twin of `publish`."""
    layer, request = _layer(), _request(topic, data, idempotency_key)
    try:
        return await layer.publish(request)
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


def publish_many(items: Iterable[tuple[str, Any]]) -> list[Published]:
    """
    Publish many (topic, data) pairs in few round trips; the order within each topic is kept.

    Raises:
        As `publish`. All items are checked before the first is published. If Redis fails in between, the first ones
        may have been published.
    """
    layer = _layer()
    checked = [_request(topic, data) for topic, data in items]
    try:
        return layer.publish_many_now(checked)
    except REDIS_ERRORS as error:
        raise _unavailable(checked[0].topic, error) from error


def encode(data: object) -> bytes:
    """
    Encode the data of a publication as the bytes that are spliced into its frame.

    Args:
        data: Anything that msgspec encodes as JSON; `bytes` must be JSON text and are kept unchanged.

    Raises:
        PublicationTooLarge: More than 64 KiB.
        TypeError, ValueError: It cannot be encoded as JSON, or the bytes are not JSON text in UTF-8.
    """
    raw = data if isinstance(data, bytes) else _encode(data)
    if len(raw) > DATA_LIMIT_BYTES:
        raise PublicationTooLarge(size_bytes=len(raw), limit_bytes=DATA_LIMIT_BYTES)
    if raw is data:
        # One bad byte would end the connections of all subscribers.
        raw.decode()
        _check(raw)
    return raw


def _request(topic: str, data: Any, idempotency_key: str | None = None) -> PublishRequest:
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
    return Unavailable(f"publishing on {topic} failed ({type(error).__name__}: {error}): it is not retried")
