"""
The queues of the channel layer: messages that wait for a consumer, and messages that wait to be sent to Redis.

Owns their order and limits. Does not own which consumer gets a message (event_loop).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis.asyncio
import redis.exceptions

__all__ = ["Inbox", "Sender"]

# Messages published in one round trip.
MESSAGES_PER_ROUND_TRIP = 1000
# Memory that a waiting message takes in addition to its bytes.
MESSAGE_OVERHEAD_BYTES = 64

# Redis channel, payload, and the future that its caller awaits.
type _Waiting = tuple[str, bytes, asyncio.Future[None]]


class Inbox(asyncio.Queue[Any]):
    """The messages that wait for one consumer, and the groups that the consumer is in."""

    def __init__(self, capacity: int | None, capacity_bytes: int) -> None:
        super().__init__()
        # The most messages and the most bytes that may wait; None for no limit.
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        # Bytes of the messages that wait now.
        self._waiting_bytes = 0
        # The last turn of the event loop in which a message arrived, and whether the inbox was full when it began.
        self._turn, self._was_full = -1, False
        # How many calls of `receive` wait for a message.
        self.reader_count = 0
        # The keys of its groups in `LoopLayer.groups`.
        self.groups: set[str] = set()

    def is_full(self, turn: int) -> bool:
        """Whether messages of this turn are dropped: they are accepted if there was room when the turn began."""
        if turn != self._turn:
            self._turn = turn
            too_many = self._capacity is not None and self.qsize() >= self._capacity
            self._was_full = too_many or self._waiting_bytes >= self._capacity_bytes
        return self._was_full

    # Called by the methods of asyncio.Queue.
    def _put(self, item: Any) -> None:
        self._waiting_bytes += _size_bytes(item)
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        self._waiting_bytes -= _size_bytes(item)
        return item


def _size_bytes(message: Any) -> int:
    """The size of a payload, or of a publication's text."""
    return MESSAGE_OVERHEAD_BYTES + len(message if isinstance(message, bytes) else message.get("data", ""))


class Sender:
    """
    Publishes messages in the order of the calls. One round trip runs at a time; the next one sends all that wait.

    Without it, concurrent calls on a pool of connections could overtake each other.

    Guarantees:
        If Redis does not answer, no caller waits for more than two timeouts, however many callers wait.
    """

    def __init__(self, publisher: redis.asyncio.Redis) -> None:
        self._publisher = publisher
        # Messages that wait for the end of the present round trip.
        self._waiting: deque[_Waiting] = deque()
        # Whether a round trip is under way.
        self._is_busy = False
        # Publishes the messages that wait; None if none do.
        self._task: asyncio.Task[None] | None = None

    async def publish(self, channel: str, message: bytes) -> None:
        """
        Publish, after all earlier calls.

        Raises:
            redis.RedisError, OSError: Redis did not answer. Whether it was published is unknown.
        """
        if self._is_busy:
            published = asyncio.get_running_loop().create_future()
            self._waiting.append((channel, message, published))
            await published
            return
        # Nothing waits before it: publish directly, without a task.
        self._is_busy = True
        try:
            await self._publisher.publish(channel, message)
        except redis.exceptions.TimeoutError as error:
            self._fail_waiting(error)
            raise
        finally:
            self._is_busy = bool(self._waiting)
            if self._is_busy:
                self._task = asyncio.create_task(self._publish_waiting(), name="realtime layer sender")

    async def _publish_waiting(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), MESSAGES_PER_ROUND_TRIP)
                await self._publish_batch([self._waiting.popleft() for _ in range(count)])
        finally:
            self._is_busy, self._task = False, None
            # Messages are left only if this task was cancelled.
            while self._waiting:
                self._waiting.popleft()[2].cancel()

    def _fail_waiting(self, error: Exception) -> None:
        """Redis timed out: fail all that wait as well, so that they do not wait for one timeout after another."""
        while self._waiting:
            published = self._waiting.popleft()[2]
            if not published.done():
                published.set_exception(error)

    async def _publish_batch(self, batch: "list[_Waiting]") -> None:
        replies: Sequence[Any] = []
        try:
            async with self._publisher.pipeline(transaction=False) as pipeline:
                for channel, message, _ in batch:
                    pipeline.publish(channel, message)
                replies = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            replies = [error] * len(batch)
            if isinstance(error, redis.exceptions.TimeoutError):
                self._fail_waiting(error)
        finally:
            for index, (_, _, published) in enumerate(batch):
                if published.done():
                    # Its caller was cancelled.
                    continue
                if index >= len(replies):
                    # This task was cancelled.
                    published.cancel()
                elif isinstance(replies[index], Exception):
                    published.set_exception(replies[index])
                else:
                    published.set_result(None)
