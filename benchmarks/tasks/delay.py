"""
`python -m benchmarks.tasks.delay PORT TARGET MILLISECONDS`: a TCP proxy that makes a server seem further away.

Owns the delay: half of it on the way there and half on the way back, for each piece of data. TARGET is HOST:PORT or the
path of a unix socket.

One loop with `select`, which wakes up within a tenth of a millisecond. In Python, epoll counts in whole milliseconds,
so 1 ms would be any time between 1 and 2. asyncio's timers would take more CPU than everything else here, and the proxy
could become the limit of what is measured.
"""

import collections
import contextlib
import select
import socket
import sys
import time

__all__ = ["Proxy"]

CHUNK_BYTES = 65_536


class _Side:
    """One connection of a pair."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.descriptor = connection.fileno()
        # Where what it receives goes.
        self.other = self
        # What could not be sent yet, as the receiver does not read.
        self.unsent = b""

    def receive(self) -> bytes | None:
        """What has come; b"" at its end, None if nothing has come."""
        try:
            return self.connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """Send it, and what was left before it."""
        data = self.unsent + data if self.unsent else data
        sent = 0
        # A connection that has ended is seen when it is read.
        with contextlib.suppress(OSError):
            sent = self.connection.send(data)
        self.unsent = data[sent:]


class Proxy:
    """
    A proxy on the loopback.

    Args:
        port: Where it listens.
        target: HOST:PORT, or the path of a unix socket.
        round_trip_ms: What it adds to each request and its answer.
    """

    def __init__(self, port: int, target: str, *, round_trip_ms: float) -> None:
        self._target = target
        self._delay_seconds = round_trip_ms / 2e3
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._sides: dict[int, _Side] = {}
        # What is on its way: when it arrives, where, and the data; b"" ends the connection. In the order of time.
        self._underway: collections.deque[tuple[float, _Side, bytes]] = collections.deque()

    def run(self) -> None:
        """Until the process is ended."""
        sides, underway, listening = self._sides, self._underway, self._listener.fileno()
        while True:
            wait = max(0.0, underway[0][0] - time.monotonic()) if underway else None
            stuck = [side.descriptor for side in sides.values() if side.unsent]
            readable, writable, _ = select.select([listening, *sides], stuck, (), wait)
            due = time.monotonic() + self._delay_seconds
            for descriptor in readable:
                if descriptor == listening:
                    self._accept()
                elif (data := (side := sides[descriptor]).receive()) is not None:
                    underway.append((due, side.other, data))
                    if not data:
                        del sides[descriptor]
            for descriptor in writable:
                if descriptor in sides:
                    sides[descriptor].send(b"")
            while underway and underway[0][0] <= time.monotonic():
                _, side, data = underway.popleft()
                if data:
                    side.send(data)
                else:
                    self._end(side)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            far = self._connect()
        except OSError:
            connection.close()
            return
        one, other = _Side(connection), _Side(far)
        one.other, other.other = other, one
        self._sides |= {one.descriptor: one, other.descriptor: other}

    def _connect(self) -> socket.socket:
        if not self._target.startswith("/"):
            host, _, port = self._target.rpartition(":")
            return socket.create_connection((host, int(port)))
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._target)
        except OSError:
            far.close()
            raise
        return far

    def _end(self, side: _Side) -> None:
        """The other one has ended: end this one, too."""
        for each in (side, side.other):
            if self._sides.get(each.descriptor) is each:
                del self._sides[each.descriptor]
            each.connection.close()


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), sys.argv[2], round_trip_ms=float(sys.argv[3])).run()
