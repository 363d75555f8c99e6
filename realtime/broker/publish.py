"""
Publishes on topics: offset, history, idempotency and PUBLISH in one call of a script.

Owns that call and its limits. Does not own the Redis channel and host of a topic (layer), which topics exist (topics),
nor the public functions (publisher).
"""

import enum
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import redis
import redis.asyncio

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Crypter, Position, encode_time, new_epoch, seal, seal_line
from realtime.broker.relevance import Relevance, encode_relevance
from realtime.broker.snapshot import Snapshot
from realtime.redis import scripts
from realtime.redis.keys import Keys
from realtime.statistics import count

__all__ = [
    "CALLS_PER_ROUND_TRIP",
    "PUBLICATIONS_PER_CALL",
    "Keyed",
    "Outcome",
    "PublishCall",
    "PublishRequest",
    "Published",
    "publish_all",
    "publish_all_async",
]

IDEMPOTENCY_SECONDS: Final = 300.0
# A topic without a publication for this long begins a new epoch.
POSITION_SECONDS: Final = 86_400.0
# In one call of the script, which blocks Redis: half a millisecond, and four megabytes at most.
PUBLICATIONS_PER_CALL: Final = 50
# In one round trip: bounds what is buffered in the client and in Redis.
CALLS_PER_ROUND_TRIP: Final = 10
# The shortest time between two publications of this process that carry their time, for `publications.socket_seconds`.
TIMED_EVERY_SECONDS: Final = 0.05
# Topics of Signalbox itself, whose publications are not measured: nobody but staff gets them.
OWN_TOPICS: Final = "signalbox."
# All arguments of the scripts are bytes, also the numbers, because the client packs these fastest.
_IDEMPOTENCY_MS: Final = b"%d" % round(IDEMPOTENCY_SECONDS * 1000)
_POSITION_MS: Final = b"%d" % round(POSITION_SECONDS * 1000)
_NO_WINDOW: Final = b"0"
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode
_PUBLISH: Final = scripts.Script("publish", answer=list, takes_texts=True)
_PUBLISH_KEYED: Final = scripts.Script("publish_keyed", answer=list, takes_texts=True)


class Outcome(enum.IntEnum):
    """A script returns one of these instead of the number of receivers if it did not publish."""

    REPEATED = -1
    FULL = -2
    NOT_SILENT = -3


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of publishing.

    Attributes:
        position: The offset of the publication, and the epoch of the counter.
        receiver_count: How many processes were subscribed to the topic.
        is_repeat: Whether it had been published before with the same idempotency key; then nothing was done.
        is_full: Whether the topic's snapshot had no room for the publication; then nothing was done.
    """

    position: Position
    receiver_count: int
    is_repeat: bool
    is_full: bool = False


class Keyed(NamedTuple):
    """
    The additional parts of a publication on a topic with a snapshot.

    Attributes:
        relevance: Its key, place, tags and level, which decide which views are sent it.
        policy: How much of the topic's state Redis keeps.
        family: The name of the topic's family, for which its extent is registered; "" for none.
        silent_ms: Publish only if the key has been silent for this long; 0 to publish always.
    """

    relevance: Relevance
    policy: Snapshot
    family: str = ""
    silent_ms: int = 0


class PublishRequest(NamedTuple):
    """
    A publication to be sent.

    Attributes:
        topic: The name of the topic.
        data: JSON text, from `publisher.encode`.
        history: How much history Redis keeps of the topic.
        idempotency_key: With the same key, only the first publication within five minutes is sent.
        keyed: For topics with a snapshot; None for all others.
    """

    topic: str
    data: bytes
    history: HistoryPolicy
    idempotency_key: str | None = None
    keyed: Keyed | None = None


class _Timing:
    """Decides which publications carry their time. Only samples do, so that the others cost nothing."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + TIMED_EVERY_SECONDS
        return True


_timing = _Timing()


class PublishCall:
    """
    The keys and arguments of one call of `publish.lua` or `publish_keyed.lua`, for `publish_all`.

    Args:
        items: At most PUBLICATIONS_PER_CALL, all on one host; either all of them are keyed, or none.
        keys: The names of the layer's keys.
        channel_of: Topic → Redis channel.
        crypter: Encrypts the publications; None to send them in plain.
    """

    def __init__(
        self,
        items: Sequence[PublishRequest],
        *,
        keys: Keys,
        channel_of: Callable[[str], str],
        crypter: Crypter | None = None,
    ) -> None:
        self.names: list[str] = []
        self.arguments: list[str | bytes] = []
        if items[0].keyed is None:
            self.script = _PUBLISH
            self._add(items, keys, channel_of, crypter)
        else:
            self.script = _PUBLISH_KEYED
            self._add_keyed(items, keys, channel_of, crypter)
        self.arguments += (_POSITION_MS, new_epoch())

    def _add(
        self,
        items: Sequence[PublishRequest],
        keys: Keys,
        channel_of: Callable[[str], str],
        crypter: Crypter | None,
    ) -> None:
        is_timed = _timing.is_due()
        for topic, data, history, idempotency_key, _ in items:
            position = keys.topic_position(topic)
            once, window_ms = position, _NO_WINDOW
            if idempotency_key is not None:
                once, window_ms = keys.topic_idempotency(topic, idempotency_key), _IDEMPOTENCY_MS
            self.names += (position, keys.topic_history(topic), once)
            before, after = seal(_before(topic), b',"data":%b}' % _one_line(data), crypter)
            if is_timed and not topic.startswith(OWN_TOPICS):
                before, is_timed = seal_line(encode_time(time.time()), crypter) + before, False
            self.arguments += (channel_of(topic), before, after, *_kept(history), window_ms)

    def _add_keyed(
        self,
        items: Sequence[PublishRequest],
        keys: Keys,
        channel_of: Callable[[str], str],
        crypter: Crypter | None,
    ) -> None:
        topic, shared = None, None
        for item in items:
            keyed = item.keyed
            assert keyed is not None  # noqa: S101 - the condition of this method
            if item.topic != topic or shared is None:
                # Publications of one topic mostly follow each other, and have most of this in common.
                topic = item.topic
                shared = _TopicArguments(topic, item.history, keyed.policy, keys, channel_of(topic))
            once, window_ms = shared.position, _NO_WINDOW
            if item.idempotency_key is not None:
                once, window_ms = keys.topic_idempotency(item.topic, item.idempotency_key), _IDEMPOTENCY_MS
            before, after = seal(shared.before, _after(keyed.relevance, item.data), crypter)
            relevance = keyed.relevance
            self.names += (shared.position, shared.history, shared.snapshot, shared.seen, once)
            self.arguments += (shared.channel, seal_line(encode_relevance(relevance), crypter), before, after)
            self.arguments += (relevance.key, b"1" if relevance.is_removed else b"0", b"%d" % keyed.silent_ms)
            self.arguments += (*shared.kept, window_ms, *shared.limits)


class _TopicArguments:
    """The Redis keys and script arguments that keyed publications of one topic have in common."""

    __slots__ = ("before", "channel", "history", "kept", "limits", "position", "seen", "snapshot")

    def __init__(self, topic: str, history: HistoryPolicy, policy: Snapshot, keys: Keys, channel: str) -> None:
        self.channel, self.before = channel, _before(topic)
        self.position, self.history = keys.topic_position(topic), keys.topic_history(topic)
        self.snapshot, self.seen = keys.topic_snapshot(topic), keys.topic_seen(topic)
        self.kept = _kept(history)
        numbers = (policy.key_limit, policy.bytes_limit, round(policy.kept_seconds * 1000))
        self.limits = tuple(b"%d" % number for number in numbers)


def publish_all(client: redis.Redis, calls: Sequence[PublishCall]) -> list[Published]:
    """
    Make the calls in order, in one round trip. All of them are of the same script.

    Raises:
        redis.RedisError, OSError: Redis did not answer.
    """
    return _published(calls[0].script.run_all(client, [(call.names, call.arguments) for call in calls]))


async def publish_all_async(client: redis.asyncio.Redis, calls: Sequence[PublishCall]) -> list[Published]:
    """The async twin of `publish_all`."""
    return _published(await calls[0].script.arun_all(client, [(call.names, call.arguments) for call in calls]))


def _kept(history: HistoryPolicy) -> tuple[bytes, bytes]:
    """The script arguments for a topic's history: how many publications, and for how many milliseconds."""
    return b"%d" % history.size, b"%d" % round(history.age_seconds * 1000)


def _before(topic: str) -> bytes:
    """The bytes of a frame before its offset."""
    return b'{"type":"message","topic":%b,"offset":' % _encode(topic)


def _after(relevance: Relevance, data: bytes) -> bytes:
    """The bytes of a frame with a key after its offset."""
    removed = b'"removed":true,' if relevance.is_removed else b""
    return b',"key":%b,%b"data":%b}' % (_encode(relevance.key), removed, _one_line(data))


def _one_line(data: bytes) -> bytes:
    """A frame is one line: line breaks between JSON tokens become spaces."""
    return data.translate(_ONE_LINE) if b"\n" in data or b"\r" in data else data


def _published(replies: Iterable[Sequence[Any]]) -> list[Published]:
    published = [
        Published(position=Position(offset, epoch.decode()), receiver_count=receivers, is_repeat=False)
        if receivers >= 0
        else Published(
            position=Position(offset, epoch.decode()),
            receiver_count=0,
            is_repeat=receivers == Outcome.REPEATED,
            is_full=receivers == Outcome.FULL,
        )
        for reply in replies
        for offset, epoch, receivers in itertools.batched(reply, 3)
    ]
    count("publications.published", sum(not each.is_repeat and not each.is_full for each in published))
    return published
