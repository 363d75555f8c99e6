"""
What Redis keeps of a topic: the position of its newest publication, and recent publications for clients that resume.

Owns the call that writes it (offset, history, idempotency and PUBLISH in one) and the call that reads it. Does not own
the Redis channel and host of a topic (layer), which topics exist (topics), nor the public functions (publisher).
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import redis
import redis.asyncio

from realtime.broker.publication import Crypter, History, Position, parse, seal
from realtime.exceptions import SubscriptionClosed
from realtime.redis import scripts
from realtime.redis.keys import Keys

__all__ = [
    "CALLS_PER_ROUND_TRIP",
    "PUBLICATIONS_PER_CALL",
    "HistoryPolicy",
    "HistoryReader",
    "PublishCall",
    "PublishRequest",
    "Published",
    "publish_all",
    "publish_all_async",
]

IDEMPOTENCY_SECONDS: Final = 300.0
# A topic without a publication for this long begins a new epoch.
POSITION_SECONDS: Final = 86_400.0
# The same for a topic that never had one: clients that make up names must not fill Redis.
UNPUBLISHED_SECONDS: Final = 600.0
# In one call of the script, which blocks Redis: half a millisecond, and four megabytes at most.
PUBLICATIONS_PER_CALL: Final = 50
# In one round trip: bounds what is buffered in the client and in Redis.
CALLS_PER_ROUND_TRIP: Final = 10
# Topics in one call of a reader: enough for a storm of reconnecting clients, few enough to hold in memory.
TOPICS_PER_READING: Final = 32
# Larger than every offset.
_END: Final = 2**53
_IDEMPOTENCY_MS: Final = round(IDEMPOTENCY_SECONDS * 1000)
_POSITION_MS: Final = round(POSITION_SECONDS * 1000)
_UNPUBLISHED_MS: Final = round(UNPUBLISHED_SECONDS * 1000)
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode
_PUBLISH: Final = scripts.Script("publish", answer=list)
_READ: Final = scripts.Script("read_history", answer=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPolicy:
    """
    How much history of a topic Redis keeps for clients that resume.

    Attributes:
        size: How many publications. With 0, a client that missed one is notified, but cannot get it.
        age_seconds: How long after the last publication all of it is deleted.
    """

    size: int = 100
    age_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.size < 0 or self.age_seconds <= 0:
            raise ValueError(f"a history has a size of at least 0 and an age above 0 seconds, not {self}")


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of publishing.

    Attributes:
        position: The offset of the publication, and the epoch of the counter.
        receiver_count: How many processes were subscribed to the topic.
        is_repeat: Whether it had been published before with the same idempotency key; then nothing was done.
    """

    position: Position
    receiver_count: int
    is_repeat: bool


class PublishRequest(NamedTuple):
    """
    A publication to be sent.

    Attributes:
        topic: The name of the topic.
        data: JSON text, from `publisher.encode`.
        history: How much history Redis keeps of the topic.
        idempotency_key: With the same key, only the first publication within five minutes is sent.
    """

    topic: str
    data: bytes
    history: HistoryPolicy
    idempotency_key: str | None = None


class PublishCall:
    """
    The keys and arguments of one call of `publish.lua`, for `publish_all`.

    Args:
        items: At most PUBLICATIONS_PER_CALL, all on one host.
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
        names: list[str] = []
        arguments: list[Any] = []
        for topic, data, history, idempotency_key in items:
            position = keys.topic_position(topic)
            once, window_ms = position, 0
            if idempotency_key is not None:
                once, window_ms = keys.topic_idempotency(topic, idempotency_key), _IDEMPOTENCY_MS
            names += (position, keys.topic_history(topic), once)
            before, after = seal(*_halves(topic, data), crypter)
            arguments += (channel_of(topic), before, after, history.size, round(history.age_seconds * 1000), window_ms)
        self.names = names
        self.arguments = [*arguments, _POSITION_MS, _new_epoch()]


def publish_all(client: redis.Redis, calls: Sequence[PublishCall]) -> list[Published]:
    """Make the calls in order, in one round trip. Raises redis.RedisError or OSError if Redis did not answer."""
    return _published(_PUBLISH.run_all(client, [(call.names, call.arguments) for call in calls]))


async def publish_all_async(client: redis.asyncio.Redis, calls: Sequence[PublishCall]) -> list[Published]:
    """The async twin of `publish_all`."""
    return _published(await _PUBLISH.arun_all(client, [(call.names, call.arguments) for call in calls]))


class HistoryReader:
    """
    Reads histories on one Redis host. Requests that arrive during a round trip share the next one.

    So a thousand clients that reconnect at once cost a few round trips, and each topic is read once for all of them.

    Guarantees:
        One round trip at a time: histories are returned in the order in which they were read.
    """

    def __init__(self, client: redis.asyncio.Redis, *, keys: Keys, crypter: Crypter | None) -> None:
        self._client, self._keys, self._crypter = client, keys, crypter
        # Requests for the next round trip: topic → the lowest offset asked for, and the future of the answer.
        self._wanted: dict[str, tuple[int, asyncio.Future[History]]] = {}
        # The futures of the round trip that is under way.
        self._begun: list[asyncio.Future[History]] = []
        self._task: asyncio.Task[None] | None = None

    async def read(self, topic: str, *, after: int | None) -> History:
        """
        Position and history of a topic, as of one moment after this call.

        Args:
            after: Return publications after this offset; None for the position alone.

        Raises:
            redis.RedisError, OSError: Redis did not answer.
            SubscriptionClosed: The reader was stopped meanwhile.
        """
        after = _END if after is None else after
        lowest, future = self._wanted.get(topic, (after, None))
        if future is None:
            future = asyncio.get_running_loop().create_future()
        self._wanted[topic] = (min(after, lowest), future)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="history reader")
        # Others may be waiting for the same future.
        return await asyncio.shield(future)

    async def stop(self) -> None:
        """Cancel the current reading. The reader can be used again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        for future in (*self._begun, *(future for _, future in self._wanted.values())):
            if not future.done():
                _fail(future, SubscriptionClosed())
        self._wanted.clear()

    async def _run(self) -> None:
        while self._wanted:
            # All requests of this tick go into the same round trip.
            await asyncio.sleep(0)
            batch = [(topic, *self._wanted.pop(topic)) for topic in tuple(self._wanted)[:TOPICS_PER_READING]]
            self._begun = [future for _, _, future in batch]
            try:
                histories = await self._read([(topic, after) for topic, after, _ in batch])
            except Exception as error:
                for future in self._begun:
                    _fail(future, error)
            else:
                for future, history in zip(self._begun, histories, strict=True):
                    future.set_result(history)
        self._task = None

    async def _read(self, topics: Sequence[tuple[str, int]]) -> list[History]:
        names = [name(topic) for topic, _ in topics for name in (self._keys.topic_position, self._keys.topic_history)]
        offsets = [after for _, after in topics]
        replies = await _READ.arun(self._client, names, [*offsets, _UNPUBLISHED_MS, _new_epoch()])
        return [self._history(*reply) for reply in replies]

    def _history(self, offset: int, epoch: bytes, payloads: Sequence[bytes]) -> History:
        newest = expected = Position(offset, epoch.decode())
        frames: list[bytes] = []
        # Newest first. What lies before a gap, or is of an earlier epoch, is of no use.
        for payload in payloads:
            publication = parse(payload, self._crypter)
            if publication is None or publication.position != expected:
                break
            frames.append(publication.frame)
            expected = Position(expected.offset - 1, expected.epoch)
        return History(position=newest, frames=frames[::-1])


def _halves(topic: str, data: bytes) -> tuple[bytes, bytes]:
    """The bytes of a frame before and after its offset."""
    # A frame is one line: line breaks between JSON tokens become spaces.
    if b"\n" in data or b"\r" in data:
        data = data.translate(_ONE_LINE)
    return b'{"type":"message","topic":%b,"offset":' % _encode(topic), b',"data":%b}' % data


def _published(replies: Iterable[Sequence[Any]]) -> list[Published]:
    return [
        Published(position=Position(offset, epoch.decode()), receiver_count=max(receivers, 0), is_repeat=receivers < 0)
        for reply in replies
        for offset, epoch, receivers in itertools.batched(reply, 3)
    ]


def _new_epoch() -> str:
    """A random epoch, different from all earlier ones."""
    return secrets.token_hex(5)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    # Marks the exception as retrieved, because perhaps nobody waits.
    future.exception()
