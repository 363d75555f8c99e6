"""
Publishing on topics from Django: `publish()` and `publish_many()`, and their async twins.

Owns the checks of a publication before it is sent. Does not own the Redis call (broker.publish), the host of a topic
(layer) nor which topics exist (topics).

Delivery is at most once. While Redis is unavailable, the caller gets an error at once and nothing is stored for later.
Messages that must not be lost go through `notifications.services.notify`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from realtime.broker.publish import Keyed, Published, PublishRequest
from realtime.broker.relevance import LEVEL_LIMIT, Relevance, Tag
from realtime.exceptions import PublicationRefused, PublicationTooLarge, SnapshotFull, TopicUnknown, Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import REDIS_ERRORS
from realtime.topics import Topic, history_of, resolve

__all__ = ["DATA_LIMIT_BYTES", "Item", "apublish", "apublish_many", "encode", "publish", "publish_many"]

# The largest `data` of a publication, as JSON.
DATA_LIMIT_BYTES = 65_536

# The longest key of a publication, and the limits of its tags.
KEY_CHARACTERS = 200
TAGS_LIMIT = 16
TAG_NAME_CHARACTERS = 64
TAG_CHARACTERS = 200
# Integers that JSON readers represent exactly.
_NUMBER_LIMIT = 2**53

_encode = msgspec.json.Encoder().encode
_check = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class Item:
    """
    A publication for `publish_many`.

    Attributes:
        topic, data: As for `publish`.
        key, at, bounds, tags, level, removed: As for `publish`.
    """

    topic: str
    data: Any = None
    key: str | None = None
    at: tuple[float, float] | None = None
    bounds: tuple[float, float, float, float] | None = None
    tags: Mapping[str, Tag] | None = None
    level: int = 0
    removed: bool = False


def publish(
    topic: str,
    data: Any,
    *,
    key: str | None = None,
    at: tuple[float, float] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    tags: Mapping[str, Tag] | None = None,
    level: int = 0,
    removed: bool = False,
    idempotency_key: str | None = None,
) -> Published:
    """
    Publish on a topic: all its subscribers get `data` at once.

    Args:
        topic: A name that an app's `topics.py` declares.
        data: Anything that can be encoded as JSON, at most 64 KiB; `bytes` must be JSON text and are sent unchanged.
        key: Names what the publication is about, such as a vehicle: the next publication with this key replaces this
            one. Required on a topic with a `snapshot`. Other topics refuse it, and also `at`, `bounds`, `tags`, `level`
            and `removed`. At most 200 characters.
        at: Its place, (longitude, latitude) in degrees.
        bounds: Its place, if it is larger than a point: (west, south, east, north). West is greater than east if it
            crosses longitude 180. Without a place it is in every view.
        tags: What filters can compare: up to 16 names with a text, a number, or True or False.
        level: The lowest zoom of a map, 0 to 24, at which it is shown.
        removed: The key is gone: subscribers are notified, and the snapshot forgets it. `data` is then None.
        idempotency_key: A second call with the same key within five minutes publishes nothing.

    Returns:
        The position of the publication in its topic.

    Raises:
        TopicUnknown: No app declares the topic, so no client can be subscribed to it.
        PublicationRefused: The topic does not take this; the error says why.
        PublicationTooLarge, TypeError, ValueError: `data` is over the limit, or not JSON.
        SnapshotFull: The topic's snapshot has no room for another key, or for a larger publication of a known one.
        Unavailable: Redis did not accept it within two seconds. Whether it was published is unknown; it is not retried.

    Guarantees:
        One round trip on a pooled connection of the process; no event loop. On a topic with a snapshot there are more
        when a key appears outside the topic's extent, and when the snapshot is full.
    """
    layer = _layer()
    item = Item(topic, data, key, at, bounds, tags, level, removed)
    request = _request(topic, data, item=item, idempotency_key=idempotency_key)
    try:
        return _accepted([request], [layer.publish_now(request)])[0]
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


async def apublish(
    topic: str,
    data: Any,
    *,
    key: str | None = None,
    at: tuple[float, float] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    tags: Mapping[str, Tag] | None = None,
    level: int = 0,
    removed: bool = False,
    idempotency_key: str | None = None,
) -> Published:
    """The async twin of `publish`."""
    layer = _layer()
    item = Item(topic, data, key, at, bounds, tags, level, removed)
    request = _request(topic, data, item=item, idempotency_key=idempotency_key)
    try:
        return _accepted([request], [await layer.publish(request)])[0]
    except REDIS_ERRORS as error:
        raise _unavailable(topic, error) from error


def publish_many(items: Iterable[Item | tuple[str, Any]]) -> list[Published]:
    """
    Publish many items, or (topic, data) pairs, in few round trips; the order within each topic is kept.

    Raises:
        As `publish`. All items are checked before the first is published. If Redis fails in between, the first ones
        may have been published. SnapshotFull comes after all others were published.
    """
    layer = _layer()
    requests = _requests(items)
    try:
        return _accepted(requests, layer.publish_many_now(requests))
    except REDIS_ERRORS as error:
        raise _unavailable(requests[0].topic, error) from error


async def apublish_many(items: Iterable[Item | tuple[str, Any]]) -> list[Published]:
    """The async twin of `publish_many`."""
    layer = _layer()
    requests = _requests(items)
    try:
        return _accepted(requests, await layer.publish_many(requests))
    except REDIS_ERRORS as error:
        raise _unavailable(requests[0].topic, error) from error


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


def _requests(items: Iterable[Item | tuple[str, Any]]) -> list[PublishRequest]:
    # Pairs do not become items, which would make them a tenth slower.
    return [_request(item.topic, item.data, item=item) if isinstance(item, Item) else _request(*item) for item in items]


def _request(topic: str, data: Any, *, item: Item | None = None, idempotency_key: str | None = None) -> PublishRequest:
    """The request to the layer; `item` is None for a pair of topic and data."""
    match = resolve(topic)
    if match is None:
        raise TopicUnknown(topic)
    family = match.family
    raw = encode(data)
    if family.check_data is not None and not (item is not None and item.removed):
        try:
            family.check_data(raw)
        except ValueError as error:
            raise PublicationRefused(topic, str(error)) from error
    if family.snapshot is None:
        if item is not None and (
            item.key is not None or item.removed or item.at or item.bounds or item.tags or item.level
        ):
            raise PublicationRefused(
                topic, "only a topic with a snapshot has keys, places and tags: declare snapshot = Snapshot(…)"
            )
        return PublishRequest(topic, raw, history_of(match), idempotency_key)
    try:
        relevance = _relevance(item or Item(topic, data), family)
    except (TypeError, ValueError) as error:
        raise PublicationRefused(topic, str(error)) from error
    return PublishRequest(
        topic, raw, history_of(match), idempotency_key, Keyed(relevance, family.snapshot, family.family_name)
    )


def _relevance(item: Item, family: type[Topic]) -> Relevance:
    key, level = item.key, item.level
    if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARACTERS or not key.isprintable():
        raise ValueError(f"key= is a text of 1 to {KEY_CHARACTERS} printable characters, not {key!r:.100}")
    if type(level) is not int or not 0 <= level <= LEVEL_LIMIT:
        raise ValueError(f"level= is a whole number from 0 to {LEVEL_LIMIT}, not {level!r:.100}")
    if item.removed:
        if item.data is not None:
            raise ValueError("a removed key has no data: pass None")
        return Relevance(key, is_removed=True)
    return Relevance(key, _place(item, family), _tags(item.tags), level)


def _place(item: Item, family: type[Topic]) -> tuple[int, ...] | None:
    if item.at is None and item.bounds is None:
        return None
    if family.places is None:
        raise ValueError("the topic has no places: declare places = Tiles()")
    if item.at is not None and item.bounds is not None:
        raise ValueError("it has a point or bounds, not both: pass at= or bounds=")
    try:
        return family.places.point(*item.at) if item.at is not None else family.places.box(*item.bounds)  # type: ignore[misc]
    except TypeError:
        form = "at= is (longitude, latitude)" if item.at is not None else "bounds= is (west, south, east, north)"
        raise ValueError(f"{form}, numbers in degrees, not {item.at or item.bounds!r:.100}") from None


def _tags(tags: Mapping[str, Tag] | None) -> dict[str, Tag]:
    if not tags:
        return {}
    if not isinstance(tags, Mapping):
        raise ValueError(f"tags= is a mapping of names to values, not {tags!r:.100}")
    if len(tags) > TAGS_LIMIT:
        raise ValueError(f"there are {len(tags)} tags, the limit is {TAGS_LIMIT}")
    for name, value in tags.items():
        if not isinstance(name, str) or not 0 < len(name) <= TAG_NAME_CHARACTERS or name.startswith("$"):
            raise ValueError(
                f"the name of a tag has 1 to {TAG_NAME_CHARACTERS} characters, the first is not $: {name!r:.100}"
            )
        if isinstance(value, str):
            if len(value) > TAG_CHARACTERS:
                raise ValueError(f"the tag {name!r} has {len(value)} characters, the limit is {TAG_CHARACTERS}")
            # Lone surrogates cannot be sent.
            value.encode()
        elif type(value) not in (int, float, bool) or not -_NUMBER_LIMIT <= value <= _NUMBER_LIMIT:
            raise ValueError(f"the tag {name!r} is a text, a number up to 2^53, True or False, not {value!r:.100}")
    return dict(tags)


def _accepted(requests: Sequence[PublishRequest], published: list[Published]) -> list[Published]:
    """The results; raises SnapshotFull if a snapshot refused some of the publications."""
    refused = [
        (request.topic, request.keyed.relevance.key)
        for request, answer in zip(requests, published, strict=True)
        if answer.is_full and request.keyed is not None
    ]
    if refused:
        raise SnapshotFull(refused)
    return published


def _layer() -> RedisChannelLayer:
    layer = get_channel_layer()
    if not isinstance(layer, RedisChannelLayer):
        raise ImproperlyConfigured(
            'publishing needs offsets: set CHANNEL_LAYERS["default"]["BACKEND"] to "realtime.layer.RedisChannelLayer"'
        )
    return layer


def _unavailable(topic: str, error: Exception) -> Unavailable:
    return Unavailable(f"publishing on {topic} failed ({type(error).__name__}: {error}): it is not retried")
