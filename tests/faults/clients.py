"""
Clients of a site under fault, as the protocol asks them to be.

Owns one user's connection: it resumes from its offset, takes each notification once by its id, and reads its inbox when
it is told that something may be missing, and only then. Does not own the equation (equation).
"""

import asyncio
import contextlib
import json
import re
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from realtime.protocol.messages import SUBPROTOCOL

__all__ = ["Client"]

OPEN_SECONDS = 5.0
# Between two tries; a browser waits longer, and at random.
RETRY_SECONDS = 0.1
_ITEM = re.compile(r'data-notification-id="(\d+)"')
_NEXT_PAGE = re.compile(r'href="[^"]*[?&]before=(\d+)')
_AWAY = (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, httpx.HTTPError)


class Client:
    """
    `async with Client(address, user_id, session) as client`: connected, and again whenever it is cut off.

    Attributes:
        received: How often each notification came over the socket.
        read: What it found in its inbox.
        connection_count: How many connections it has had.
        told_count: How often it was told that something may be missing, its first subscription included.
    """

    def __init__(self, address: str, user_id: int, session: str) -> None:
        self.user_id = user_id
        self._topic = f"user.{user_id}"
        self._address = address
        self._cookie = f"sessionid={session}"
        self.received: Counter[int] = Counter()
        self.read: set[int] = set()
        self.connection_count = self.told_count = 0
        # Offset and epoch of the last object on the topic.
        self._position: tuple[int, str] | None = None
        # Set while the inbox is to be read.
        self._is_told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._read_when_told())]
        async with asyncio.timeout(60):
            while self._position is None or self._is_told.is_set():
                self.check()
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def has(self) -> set[int]:
        """All that is in its hands."""
        return self.read | set(self.received)

    def check(self) -> None:
        """Raise what ended it, if it has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _listen(self) -> None:
        while True:
            where = ""
            if self._position is not None:
                where = f"?offset={self._position[0]}&epoch={self._position[1]}"
            with contextlib.suppress(*_AWAY):
                async with connect(
                    f"ws://{self._address}/ws/{where}",
                    additional_headers={"Cookie": self._cookie},
                    subprotocols=[SUBPROTOCOL],
                    compression=None,
                    proxy=None,
                    open_timeout=OPEN_SECONDS,
                    close_timeout=1,
                ) as socket:
                    self.connection_count += 1
                    await self._hear(socket)
            await asyncio.sleep(RETRY_SECONDS)

    async def _hear(self, socket: ClientConnection) -> None:
        async for frame in socket:
            for line in str(frame).split("\n"):
                each = json.loads(line)
                if each.get("topic") == self._topic:
                    self._take(each)

    def _take(self, each: dict[str, Any]) -> None:
        if each["type"] == "subscribed":
            self._position = (each["offset"], each["epoch"])
            if not each["recovered"]:
                self.told_count += 1
                self._is_told.set()
        elif each["type"] == "message":
            assert self._position is not None
            self._position = (each["offset"], self._position[1])
            self.received[each["data"]["id"]] += 1

    async def _read_when_told(self) -> None:
        headers = {"Cookie": self._cookie}
        async with httpx.AsyncClient(base_url=f"http://{self._address}", headers=headers, trust_env=False) as http:
            while True:
                await self._is_told.wait()
                # What comes after this is told again.
                self._is_told.clear()
                try:
                    await self._read_inbox(http)
                except _AWAY:
                    self._is_told.set()
                    await asyncio.sleep(RETRY_SECONDS)

    async def _read_inbox(self, http: httpx.AsyncClient) -> None:
        before = ""
        while True:
            answer = await http.get("/notifications/", params={"before": before} if before else {})
            answer.raise_for_status()
            self.read |= {int(text) for text in _ITEM.findall(answer.text)}
            following = _NEXT_PAGE.search(answer.text)
            if following is None:
                return
            before = following[1]
