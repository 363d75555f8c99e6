"""
The map in the way that was published for it: a future for each pattern, and a filter that each client runs.

Owns one Redis connection, a chain of futures for each pattern, and a task for each client. What was wrong with the
published code is left out: here a publication's future holds the next one, so that a slow client loses nothing, and
waiting is never cancelled under another client. The way is the same: the name of a channel has the vehicle and the box
of its way, a client waits for all its patterns together, and looks at each publication of them.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

__all__ = ["Multiplexer", "application"]

type Box = tuple[int, ...]
# A publication, and the future of the next one.
type Link = asyncio.Future[tuple[bytes, bytes, Any]]


class Multiplexer:
    """
    One Redis subscription for each pattern of the process, shared by all who listen to it.

    Args:
        redis: The connection is its own.
    """

    def __init__(self, redis: Redis) -> None:
        self._pubsub = redis.pubsub()
        # Of each pattern: the future of its next publication, and how many listen to it.
        self._next: dict[bytes, Link] = {}
        self._listeners: dict[bytes, int] = {}
        # Commands reach Redis in the order of what is written down here.
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def join(self, pattern: bytes) -> Link:
        """Listen to a pattern; returns the future of its next publication."""
        async with self._lock:
            self._listeners[pattern] = self._listeners.get(pattern, 0) + 1
            if pattern not in self._next:
                self._next[pattern] = asyncio.get_running_loop().create_future()
                await self._pubsub.psubscribe(pattern)
                self._task = self._task or asyncio.create_task(self._read())
            return self._next[pattern]

    async def leave(self, pattern: bytes) -> None:
        """End it; with the last listener, the subscription ends."""
        async with self._lock:
            self._listeners[pattern] -= 1
            if not self._listeners[pattern]:
                del self._listeners[pattern], self._next[pattern]
                await self._pubsub.punsubscribe(pattern)

    async def _read(self) -> None:
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is None or (future := self._next.get(message["pattern"])) is None:
                continue
            following = self._next[message["pattern"]] = asyncio.get_running_loop().create_future()
            future.set_result((message["channel"], message["data"], following))


class Client:
    """
    One viewer: a task that follows the feeds of its view, and sends what its filter lets through.

    Args:
        send: ASGI's.
    """

    def __init__(self, redis: Redis, multiplexer: Multiplexer, send: Any) -> None:
        self._redis, self._multiplexer, self._send = redis, multiplexer, send
        self._box: Box = (0, 0, 0, 0)
        self._links: dict[bytes, Link] = {}
        self._task: asyncio.Task[None] | None = None

    async def look(self, words: list[str]) -> None:
        """Take a new view: the cached state first, then what changes."""
        await self.close()
        *box, number = words
        self._box = tuple(map(int, box))
        feeds = await _feeds_in(self._redis, self._box)
        for feed in feeds:
            self._links[feed + b"/*"] = await self._multiplexer.join(feed + b"/*")
        lines = ['{"type":"snapshot"}']
        for feed in feeds:
            cached = await self._redis.hgetall(feed)
            lines += [data.decode() for key, data in cached.items() if self._is_relevant(key)]
        lines.append(f'{{"type":"done","number":{number}}}')
        await self._send({"type": "websocket.send", "text": "\n".join(lines)})
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow nothing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for pattern in self._links:
            await self._multiplexer.leave(pattern)
        self._links = {}

    async def _follow(self) -> None:
        while self._links:
            # The futures are shared: waiting does not cancel them.
            await asyncio.wait(self._links.values(), return_when=asyncio.FIRST_COMPLETED)
            for pattern, link in self._links.items():
                while link.done():
                    channel, data, link = link.result()
                    if self._is_relevant(channel):
                        await self._send({"type": "websocket.send", "text": data.decode()})
                self._links[pattern] = link

    def _is_relevant(self, key: bytes) -> bool:
        x0, y0, x1, y1 = map(int, key[key.rindex(b"/") + 1 :].split(b","))
        return x0 <= self._box[2] and x1 >= self._box[0] and y0 <= self._box[3] and y1 >= self._box[1]


async def _feeds_in(redis: Redis, box: Box) -> Iterable[bytes]:
    """The feeds whose extent touches a box."""
    async with _lock:
        await _read_extents(redis)
    x0, y0, x1, y1 = box
    return [feed for feed, (a, b, c, d) in _extents.items() if a <= x1 and c >= x0 and b <= y1 and d >= y0]


async def _read_extents(redis: Redis) -> None:
    """Once, from what is cached of each feed."""
    if not _extents:
        async for feed in redis.scan_iter(match="vehicles.*", _type="HASH"):
            boxes = [tuple(map(int, key[key.rindex(b"/") + 1 :].split(b","))) for key in await redis.hkeys(feed)]
            lowest, highest = (map(min, zip(*boxes, strict=True)), map(max, zip(*boxes, strict=True)))
            (x0, y0, _, _), (_, _, x1, y1) = lowest, highest
            _extents[feed] = (x0 - _MARGIN, y0 - _MARGIN, x1 + _MARGIN, y1 + _MARGIN)


# As far as a vehicle may drive in a run.
_MARGIN = 100_000
_extents: dict[bytes, Box] = {}
_lock = asyncio.Lock()
_state: dict[str, Any] = {}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] != "websocket":
        return
    if not _state:
        _state["redis"] = Redis.from_url(os.environ["REDIS_URL"], protocol=2)
        _state["multiplexer"] = Multiplexer(Redis.from_url(os.environ["REDIS_URL"], protocol=2))
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": '{"type":"ready"}'})
    client = Client(_state["redis"], _state["multiplexer"], send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            await client.look(event["text"].split())
    finally:
        await client.close()
