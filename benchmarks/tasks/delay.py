"""
`python -m benchmarks.tasks.delay PORT TARGET MILLISECONDS`: a TCP proxy that makes a server seem further away.

Owns the delay: half of it on the way there and half on the way back, for each piece of data. TARGET is HOST:PORT or the
path of a unix socket.

`select` wakes up within a tenth of a millisecond. What asyncio uses otherwise, epoll, counts in whole ones, which would
make 1 ms any time between 1 and 2.
"""

import asyncio
import selectors
import sys
from collections.abc import Callable

__all__ = ["Proxy"]


class _Side(asyncio.Protocol):
    """One connection of a pair; what it receives goes to the other one after the delay."""

    def __init__(self, delay_seconds: float, on_made: Callable[["_Side"], None] | None = None) -> None:
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._delay_seconds = delay_seconds
        self._on_made = on_made
        # What came before the other one was connected.
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP and unix sockets have one
        self.transport = transport
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            asyncio.get_running_loop().call_later(self._delay_seconds, self.other.write, data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_later(self._delay_seconds, self.other.close)

    def join(self, other: "_Side") -> None:
        """From now on data goes to this one."""
        self.other = other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def write(self, data: bytes) -> None:
        """Send it."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End the connection, after what was written."""
        if self.transport is not None:
            self.transport.close()


class Proxy:
    """
    A proxy on the loopback; leaving the `async with` block ends it.

    Args:
        target: HOST:PORT, or the path of a unix socket.
        round_trip_ms: What it adds to each request and its answer.
    """

    def __init__(self, port: int, target: str, *, round_trip_ms: float) -> None:
        self._port = port
        self._target = target
        self._delay_seconds = round_trip_ms / 2e3
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Proxy":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Side(self._delay_seconds, self._accept), "127.0.0.1", self._port
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def serve(self) -> None:
        """Until it is cancelled."""
        assert self._server is not None  # noqa: S101 - in the `async with` block
        await self._server.serve_forever()

    def _accept(self, near: _Side) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(near), name="connect to the target")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, near: _Side) -> None:
        loop = asyncio.get_running_loop()
        far = _Side(self._delay_seconds)
        try:
            if self._target.startswith("/"):
                await loop.create_unix_connection(lambda: far, self._target)
            else:
                host, _, port = self._target.rpartition(":")
                await loop.create_connection(lambda: far, host, int(port))
        except OSError:
            near.close()
            return
        far.join(near)
        near.join(far)


async def _main(port: int, target: str, round_trip_ms: float) -> None:
    async with Proxy(port, target, round_trip_ms=round_trip_ms) as proxy:
        await proxy.serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
