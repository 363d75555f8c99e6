"""
How the vehicles of a feed get into each server, all in one go: one class for each way.

Owns the form in Redis that each server reads. Does not own when which feed is sent (publishing).

- `SignalboxPublisher`: the project's own `publish_many`: offsets, history, the snapshot and PUBLISH by its Lua script.
- `TilesPublisher`: a bare PUBLISH; the vehicle and its place are in front of the payload as three numbers.
- `SocketIoPublisher`: what @socket.io/redis-emitter does for an event to several rooms.
- `KeyPublisher`: the vehicle and its way are in the name, of the channel and of the hash field.
"""

import functools
import hashlib
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import hiredis
import msgpack  # type: ignore[import-untyped]
import msgspec

from benchmarks.map.dialects import TILE_LEVELS
from benchmarks.map.payloads import NEVER, VEHICLE_BASE
from benchmarks.map.world import WORLD, degrees
from benchmarks.payloads import TIME_BASE

__all__ = ["PUBLISHERS", "Prepared", "Publisher", "Update", "make"]

_decode = msgspec.json.Decoder().decode


class Update(NamedTuple):
    """
    Attributes:
        vehicle: Its number.
        x: Where it is now.
        y: Where it is now.
        before: Where it was in the second before; None in the first.
        payload: Its data.
        is_gone: Whether it is removed, and has no place and no data.
    """

    vehicle: int
    x: int
    y: int
    before: tuple[int, int] | None
    payload: bytes
    is_gone: bool = False


class Prepared(NamedTuple):
    """
    Attributes:
        commands: What is written to Redis; instead of the time of each update it has that of payloads.NEVER.
        count: How many commands these are.
    """

    commands: bytes
    count: int


class Publisher(Protocol):
    """Publishes updates of a feed: at once, or prepared, so that a core that others need is used less in the run."""

    def publish(self, feed: int, updates: Sequence[Update]) -> None:
        """Publish now; returns when Redis has taken all."""

    def prepare(self, feed: int, updates: Sequence[Update]) -> Prepared:
        """What `publish` would send to Redis, without a time."""

    def send(self, prepared: Prepared, microseconds: int) -> None:
        """Publish it with this time."""


class _RedisPublisher:
    """A connection of its own, and commands without a library."""

    def __init__(self, redis_url: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(redis_url.removeprefix("unix://"))
        self._answers = hiredis.Reader()

    def publish(self, feed: int, updates: Sequence[Update]) -> None:
        # The updates have their times already.
        self._send(self.prepare(feed, updates))

    def prepare(self, feed: int, updates: Sequence[Update]) -> Prepared:
        commands = [command for update in updates for command in self.commands(feed, update)]
        return Prepared(b"".join(map(hiredis.pack_command, commands)), len(commands))

    def send(self, prepared: Prepared, microseconds: int) -> None:
        commands = prepared.commands.replace(self.time(NEVER), self.time(microseconds))
        self._send(Prepared(commands, prepared.count))

    def commands(self, feed: int, update: Update) -> Iterable[tuple[bytes, ...]]:
        """What is sent for an update."""
        raise NotImplementedError

    def time(self, microseconds: int) -> bytes:
        """A time as it is in a command."""
        return b'"t":%d' % (TIME_BASE + microseconds)

    def _send(self, prepared: Prepared) -> None:
        self._socket.sendall(prepared.commands)
        left = prepared.count
        while left:
            data = self._socket.recv(65_536)
            if not data:
                raise RuntimeError("Redis has closed the connection")
            self._answers.feed(data)
            while (answer := self._answers.gets()) is not False:
                if isinstance(answer, Exception):
                    raise answer
                left -= 1


class SignalboxPublisher(_RedisPublisher):
    """A topic a feed, a key a vehicle."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        import django

        django.setup()
        from channels.layers import get_channel_layer

        from realtime import publisher

        self._publisher: Any = publisher
        self._layer: Any = get_channel_layer()

    def publish(self, feed: int, updates: Sequence[Update]) -> None:
        self._publisher.publish_many(self._items(feed, updates))

    def prepare(self, feed: int, updates: Sequence[Update]) -> Prepared:
        # The same calls of the script as publish_many makes.
        requests = [self._publisher._request(item.topic, item.data, item=item) for item in self._items(feed, updates)]
        calls = [call for _, _, calls in self._layer._round_trips(requests) for call in calls]
        commands = [
            (b"EVALSHA", _sha(call.script.text), len(call.names), *call.names, *call.arguments) for call in calls
        ]
        return Prepared(b"".join(map(hiredis.pack_command, commands)), len(commands))

    def _items(self, feed: int, updates: Sequence[Update]) -> list[Any]:
        topic, item = f"map.f{feed}", self._publisher.Item
        return [
            item(topic, key=str(VEHICLE_BASE + each.vehicle), removed=True)
            if each.is_gone
            else item(topic, each.payload, key=str(VEHICLE_BASE + each.vehicle), at=degrees(each.x, each.y))
            for each in updates
        ]


class TilesPublisher(_RedisPublisher):
    """A channel a feed."""

    def commands(self, feed: int, update: Update) -> Iterable[tuple[bytes, ...]]:
        place = b"".join(number.to_bytes(4, "little") for number in (update.vehicle, update.x, update.y))
        yield b"PUBLISH", b"vehicles.f%d" % feed, place + update.payload


class SocketIoPublisher(_RedisPublisher):
    """An event for the tiles in which the vehicle is, and for those that it has left."""

    _BITS = tuple((level, WORLD.bit_length() - 1 - level) for level in TILE_LEVELS)

    def commands(self, feed: int, update: Update) -> Iterable[tuple[bytes, ...]]:
        x, y, before = update.x, update.y, update.before
        rooms = [f"{level}/{x >> bits}/{y >> bits}" for level, bits in self._BITS]
        if before is not None:
            for level, bits in self._BITS:
                if before[0] >> bits != x >> bits or before[1] >> bits != y >> bits:
                    rooms.append(f"{level}/{before[0] >> bits}/{before[1] >> bits}")
        packet = {"type": 2, "data": ["v", _decode(update.payload)], "nsp": "/"}
        options = {"rooms": rooms, "except": [], "flags": {}}
        yield b"PUBLISH", b"socket.io#/#", msgpack.packb(["emitter", packet, options])

    def time(self, microseconds: int) -> bytes:
        """A number of nine bytes."""
        packed: bytes = msgpack.packb(TIME_BASE + microseconds)
        return packed


class KeyPublisher(_RedisPublisher):
    """
    The state of a feed is a hash. The name of a field has the vehicle, its level and the box of its way in the last
    second, and so has the name of the channel.
    """

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self._keys: dict[int, bytes] = {}

    def commands(self, feed: int, update: Update) -> Iterable[tuple[bytes, ...]]:
        x, y = update.x, update.y
        before = update.before or (x, y)
        box = (min(x, before[0]), min(y, before[1]), max(x, before[0]), max(y, before[1]))
        key = b"%d/0/%d,%d,%d,%d" % (VEHICLE_BASE + update.vehicle, *box)
        if update.vehicle in self._keys:
            yield b"HDEL", b"vehicles.f%d" % feed, self._keys[update.vehicle]
        self._keys[update.vehicle] = key
        yield b"HSET", b"vehicles.f%d" % feed, key, update.payload
        yield b"PUBLISH", b"vehicles.f%d/%b" % (feed, key), update.payload


@functools.cache
def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


PUBLISHERS: dict[str, Any] = {
    "map-signalbox": SignalboxPublisher,
    "map-tiles": TilesPublisher,
    "map-socketio": SocketIoPublisher,
    "map-keys": KeyPublisher,
}


def make(kind: str, redis_url: str) -> Publisher:
    """The publisher of a kind."""
    publisher: Publisher = PUBLISHERS[kind](redis_url)
    return publisher
