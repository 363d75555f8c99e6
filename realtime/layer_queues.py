"""
What waits on the channel layer: messages for a consumer, and messages for Redis.

Owns their order and their limits. Does not own who gets what (loop_layer).
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
# What a message that waits costs beside its bytes.
MESSAGE_OVERHEAD_BYTES = 64

# Redis channel, payload, and what its caller waits for.
type _Waiting = tuple[str, bytes, asyncio.Future[None]]


class Inbox(asyncio.Queue[Any]):
    """What waits for a consumer, and who it is."""

    def __init__(self, capacity: int | None, capacity_bytes: int) -> None:
        super().__init__()
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._waiting_bytes = 0
        # The last turn of the event loop in which something came, and whether the inbox was full when it began.
        self._turn, self._was_full = -1, False
        # How many wait for a message.
        self.reader_count = 0
        # The keys of its groups in `LoopLayer.groups`.
        self.groups: set[str] = set()

    def is_full(self, turn: int) -> bool:
        """Whether it takes no more: what comes in a turn is taken if there was room when the turn began."""
        if turn != self._turn:
            self._turn = turn
            too_many = self._capacity is not None and self.qsize() >= self._capacity
            self._was_full = too_many or self._waiting_bytes >= self._capacity_bytes
        return self._was_full

    # For the parent's methods.
    def _put(self, item: Any) -> None:
        self._waiting_bytes += _size_bytes(item)
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        self._waiting_bytes -= _size_bytes(item)
        return item


def _size_bytes(message: Any) -> int:
    """Of a payload, or of the text of a publication."""
    return MESSAGE_OVERHEAD_BYTES + len(message if isinstance(message, bytes) else message.get("data", ""))


class Sender:
    """
    Publishes in the order of the calls: one round trip is under way at a time, and the next one takes all that waits.

    Two calls at once on a pool of connections would overtake each other.

    Guarantees:
        However many wait, nobody waits for more than two round trips that Redis does not answer.
    """

    def __init__(self, publisher: redis.asyncio.Redis) -> None:
        self._publisher = publisher
        # Behind the round trip that is under way.
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False
        # Publishes what waits.
        self._task: asyncio.Task[None] | None = None

    async def publish(self, channel: str, message: bytes) -> None:
        """
        Publish, after all earlier calls.

        Raises:
            redis.RedisError, OSError: Redis did not answer; whether it was published is not known.
        """
        if self._is_busy:
            published = asyncio.get_running_loop().create_future()
            self._waiting.append((channel, message, published))
            await published
            return
        # Nobody is before it: without a task of its own.
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
            # Something is left only if this was cancelled.
            while self._waiting:
                self._waiting.popleft()[2].cancel()

    def _fail_waiting(self, error: Exception) -> None:
        """Redis is silent: who came meanwhile has waited as well, and does not wait for batch after batch."""
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
                    # This was.
                    published.cancel()
                elif isinstance(replies[index], Exception):
                    published.set_exception(replies[index])
                else:
                    published.set_result(None)
