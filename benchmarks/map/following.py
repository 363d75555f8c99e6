"""
A viewer in Python that follows the protocol of views in all its parts, and reconnects whenever its connection ends.

Owns what a client must keep to resume a view, and what may never happen to it: a key that goes back in time, a `same`
for a key that it does not have. Does not own the truth with which its items are compared (soak).
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

import websockets

from benchmarks.map.payloads import SECOND_BASE

__all__ = ["Follower"]

_RETRY_SECONDS = (0.05, 0.4)

type Key = tuple[str, str]


class Follower:
    """
    Args:
        url: Of the server's WebSocket.
        session: The session cookie.
        filter_of: Makes the filter of what it sees now.

    Attributes:
        items: The newest second that it knows of each key.
        wrong: What should never happen, in words.
        connected_count: How often it has connected.
        resumed_count: How often it gave positions.
    """

    def __init__(self, url: str, session: str, filter_of: Callable[[], dict[str, Any]]) -> None:
        self._url, self._session, self._filter_of = url, session, filter_of
        self.items: dict[Key, int] = {}
        self.wrong: list[str] = []
        self.connected_count = self.resumed_count = 0
        self._offsets: dict[Key, int] = {}
        self._newest: dict[Key, int] = {}
        # Of complete batches.
        self._positions: dict[str, tuple[int, str]] = {}
        self._pending: dict[str, int] = {}
        self._number = self._answered = 0
        # The batch and number of a batch that is not complete; and what a reset has named.
        self._batch: tuple[str, int] | None = None
        self._named: set[Key] = set()
        self._socket: Any = None

    @property
    def is_settled(self) -> bool:
        """Whether its newest filter was answered by a complete batch."""
        return self._socket is not None and self._answered == self._number and self._batch is None

    def cut(self) -> None:
        """End the TCP connection, without a close frame."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def look(self) -> None:
        """Send the filter of what it sees now."""
        self._number += 1
        words = {"type": "filter", "view": "map", "number": self._number, "filter": self._filter_of()}
        with contextlib.suppress(websockets.ConnectionClosed):
            if self._socket is not None:
                await self._socket.send(json.dumps(words))

    async def run(self) -> None:
        """Connect, and again, until cancelled."""
        origin = self._url.replace("ws://", "http://").removesuffix("/ws/")
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                async with websockets.connect(
                    self._url,
                    subprotocols=[websockets.Subprotocol("signalbox.v1")],
                    additional_headers={"Cookie": f"sessionid={self._session}"},
                    origin=websockets.Origin(origin),
                    compression=None,
                    open_timeout=5,
                    max_size=None,
                ) as socket:
                    self.connected_count += 1
                    await self._subscribe(socket)
                    self._socket = socket
                    async for frame in socket:
                        await self._take(socket, str(frame))
            self._socket = None
            await asyncio.sleep(random.uniform(*_RETRY_SECONDS))  # noqa: S311 - no secret

    async def _subscribe(self, socket: Any) -> None:
        can_resume = self._answered == self._number and self._number > 0
        self._number += 1
        words = {"type": "subscribe", "topic": "map.*", "view": "map", "number": self._number}
        if can_resume:
            words["positions"] = {topic: list(position) for topic, position in self._positions.items()}
            self.resumed_count += 1
        else:
            self.items, self._offsets, self._positions = {}, {}, {}
        self._batch, self._pending, self._named = None, {}, set()
        await socket.send(json.dumps(words | {"filter": self._filter_of()}))

    async def _take(self, socket: Any, frame: str) -> None:
        head, *lines = map(json.loads, frame.split("\n"))
        if head["type"] == "view":
            self._take_batch(head, lines)
        elif any(line.get("view") == "map" and line["type"] in ("error", "unsubscribed") for line in (head, *lines)):
            # Redis is unavailable, for example: the view begins again.
            await asyncio.sleep(_RETRY_SECONDS[1])
            await self._subscribe(socket)

    def _take_batch(self, head: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        name = (head["batch"], head["number"])
        if self._batch != name:
            self._named = set()
        self._batch = name
        for line in lines:
            getattr(self, f"_take_{line['type']}")(line, head["batch"])
        if not head["complete"]:
            return
        if head["batch"] == "reset":
            for key in self.items.keys() - self._named:
                self._forget(key)
        for topic, offset in self._pending.items():
            known, epoch = self._positions.get(topic, (0, ""))
            if epoch:
                self._positions[topic] = (max(known, offset), epoch)
        self._answered = max(self._answered, head["number"])
        self._batch, self._pending = None, {}

    def _take_message(self, line: dict[str, Any], batch: str) -> None:
        key, offset = (line["topic"], line["key"]), line["offset"]
        self._pending[line["topic"]] = max(self._pending.get(line["topic"], 0), offset)
        self._named.add(key)
        if batch != "reset" and offset <= self._offsets.get(key, -1):
            return
        second = line["data"]["n"] - SECOND_BASE
        if second < self._newest.get(key, -1):
            self.wrong.append(f"{key} went back from second {self._newest[key]} to {second}, in a batch of {batch}")
        self._newest[key] = self.items[key] = second
        self._offsets[key] = offset

    def _take_left(self, line: dict[str, Any], batch: str) -> None:
        for key in line["keys"]:
            self._forget((line["topic"], key))

    def _take_same(self, line: dict[str, Any], batch: str) -> None:
        for key in line["keys"]:
            if (line["topic"], key) not in self.items:
                self.wrong.append(f"{key} of {line['topic']} is the same, but unknown here")
            self._named.add((line["topic"], key))

    def _take_position(self, line: dict[str, Any], batch: str) -> None:
        topic, offset, epoch = line["topic"], line["offset"], line["epoch"]
        known = self._positions.get(topic)
        if batch == "changes" or (known is not None and known[1] != epoch):
            # Offsets begin again.
            self._offsets.update({key: -1 for key in self._offsets if key[0] == topic})
            self._pending.pop(topic, None)
            known = None
        self._positions[topic] = (max(offset, known[0] if known else 0), epoch)

    def _forget(self, key: Key) -> None:
        self.items.pop(key, None)
        self._offsets.pop(key, None)
