"""
Clients other than browsers: one with a single connection, and one that connects again as often as needed.

Owns what a client remembers of its topics, and which errors it reports. Connections go directly to the site, not
through a proxy from the environment.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from realtime.protocol.messages import SUBPROTOCOL
from tests.acceptance.deployed_site import DeployedSite
from tests.support.waiting import wait_until

__all__ = ["DEADLINE_SECONDS", "Follower", "Listener", "opening"]

# Enough for a machine with two busy cores.
DEADLINE_SECONDS = 60


def opening(site: DeployedSite, session: str | None = None, *, path: str = "/ws/", **options: Any) -> connect:
    """A connection that is about to be opened."""
    headers = {"Cookie": f"sessionid={session}"} if session else {}
    options = {"compression": None, **options}
    return connect(f"ws://{site.address}{path}", additional_headers=headers, proxy=None, **options)


class Listener:
    """
    One connection of one user: `async with Listener(site, session) as listener`, past its hello.

    Attributes:
        user_id: Its user, as the server says.
        socket: The connection.
        subscribed: The server's answer about its own topic.
    """

    user_id: Any
    socket: ClientConnection
    subscribed: dict[str, Any]

    def __init__(self, site: DeployedSite, session: str, *, path: str = "/ws/") -> None:
        self._opening = opening(site, session, path=path, subprotocols=[SUBPROTOCOL])
        # Objects of the last frame that were not returned yet.
        self._objects: deque[Any] = deque()

    async def __aenter__(self) -> Self:
        self.socket = await self._opening
        hello = await self.object()
        self.user_id = hello["user_id"]
        expected = {"type": "hello", "user_id": self.user_id, "topic": f"user.{self.user_id}", "ping_seconds": 25}
        assert hello == expected
        self.subscribed = await self.object()
        assert self.subscribed["type"] == "subscribed"
        assert self.subscribed["topic"] == f"user.{self.user_id}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def object(self) -> Any:
        """The next object from the server."""
        while not self._objects:
            async with asyncio.timeout(DEADLINE_SECONDS):
                self._objects.extend(json.loads(line) for line in str(await self.socket.recv()).split("\n"))
        return self._objects.popleft()

    async def say(self, **said: Any) -> None:
        """Send an object."""
        await self.socket.send(json.dumps(said))

    async def answer(self, **said: Any) -> Any:
        """Send an object, and return the next one from the server."""
        await self.say(**said)
        return await self.object()

    async def closed(self) -> ConnectionClosed:
        """Wait until the server has closed the connection; what it sends before that is ignored."""
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    await self.socket.recv()
        return closed.value

    async def close_code(self) -> int | None:
        """The code with which the server closes; None if it sends none."""
        closed = await self.closed()
        return closed.rcvd.code if closed.rcvd else None


class Follower:
    """
    Follows one topic over as many connections as needed: `async with Follower(…)`.

    Args:
        since: Its earlier position on the topic.
        leave_after: How many messages it receives on each connection before it cuts the connection. By default it never
            cuts one.

    Attributes:
        heard: Epoch and offset of each message, in the order in which they came.
        data: Their data.
        told_count: How often the server said that messages may be missing.
        connection_count: The number of its connections so far.
        position: Offset and epoch of the last object on the topic.

    Raises:
        AssertionError: On exit, if there was an unannounced gap or a message came twice.
    """

    def __init__(
        self,
        site: DeployedSite,
        session: str,
        topic: str,
        *,
        since: tuple[int, str] | None = None,
        leave_after: Iterator[int] | None = None,
    ) -> None:
        self._site, self._session, self._topic = site, session, topic
        self._leave_after = leave_after
        self.heard: list[tuple[str, int]] = []
        self.data: list[Any] = []
        self.told_count = self.connection_count = 0
        self.position = since
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        await self.until(lambda: self.position is not None and self.connection_count)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if not self._task.done():
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until(self, fact: Callable[[], object], *, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until `fact()` is true; fail at once if the follower has failed."""
        task = self._task
        assert task is not None
        await wait_until(lambda: task.done() or fact(), seconds=seconds)
        if task.done():
            await task

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, InvalidStatus, InvalidMessage):
                async with opening(self._site, self._session, path=self._path(), open_timeout=5) as socket:
                    self.connection_count += 1
                    await self._hear(socket)
            await asyncio.sleep(0.05)

    @property
    def _is_own(self) -> bool:
        """Whether it is the user's own topic, whose position goes into the URL."""
        return self._topic.startswith("user.")

    def _path(self) -> str:
        if self.position is None or not self._is_own:
            return "/ws/"
        return f"/ws/?offset={self.position[0]}&epoch={self.position[1]}"

    async def _hear(self, socket: ClientConnection) -> None:
        if not self._is_own:
            where = {} if self.position is None else {"offset": self.position[0], "epoch": self.position[1]}
            await socket.send(json.dumps({"type": "subscribe", "topic": self._topic, **where}))
        leave_at = None if self._leave_after is None else len(self.heard) + next(self._leave_after)
        async for frame in socket:
            for line in str(frame).split("\n"):
                each = json.loads(line)
                if each.get("topic") == self._topic:
                    self._take(each)
            if leave_at is not None and len(self.heard) >= leave_at:
                # As a phone that loses its network.
                socket.transport.abort()
                return

    def _take(self, each: dict[str, Any]) -> None:
        if each["type"] == "subscribed":
            position = (each["offset"], each["epoch"])
            if self.position is not None and not each["recovered"]:
                self.told_count += 1
            elif self.position is not None and (position[0], self.position[0]) != (0, 0):
                assert position == self.position, "it goes on elsewhere"
            self.position = position
        elif each["type"] == "message":
            assert self.position is not None
            offset, epoch = self.position
            assert each["offset"] == offset + 1, f"a gap or a double after {offset}: {each['offset']}"
            self.position = (offset + 1, epoch)
            self.heard.append((epoch, offset + 1))
            self.data.append(each["data"])
