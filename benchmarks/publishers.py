"""
How messages get into each server: one class for each way.

Owns putting (topic, payload) into Redis, or into Nchan, in one go. Does not own what is sent when (publishing).

- `SignalboxPublisher`: the project's own: offset, history and PUBLISH by its Lua script.
- `PlainPublisher`: a bare PUBLISH; ws and uWebSockets.js get the payload as it is.
- `StockPubSubPublisher`, `StockCorePublisher`: what `group_send` of channels_redis's two layers does.
- `SocketIoPublisher`: what @socket.io/redis-emitter does.
- `NchanPublisher`: POST to its publisher endpoint, pipelined on one connection. Nothing passes through Redis.
"""

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]
import redis

__all__ = ["PUBLISHERS", "Publisher", "make"]

type Items = Sequence[tuple[str, bytes]]


class Publisher(Protocol):
    """Puts messages in, in order; returns when they have been taken."""

    def publish(self, items: Items) -> None: ...


class SignalboxPublisher:
    """The project's own `publish` and `publish_many`, offsets and history on."""

    def __init__(self, redis_url: str, port: int) -> None:
        import django

        django.setup()
        from realtime import publisher
        from realtime.topics import UserTopic

        # A benchmark's message is a number and a time, not a notification; no other server looks at what it is sent.
        UserTopic.check_data = None
        self._publisher = publisher

    def publish(self, items: Items) -> None:
        if len(items) == 1:
            self._publisher.publish(*items[0])
        else:
            self._publisher.publish_many(items)


class _RedisPublisher:
    def __init__(self, redis_url: str, port: int) -> None:
        self._redis = redis.Redis.from_url(redis_url, protocol=2)

    def publish(self, items: Items) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for topic, data in items:
                pipeline.publish(*self.message(topic, data))
            pipeline.execute()

    def message(self, topic: str, data: bytes) -> tuple[str, bytes]:
        """The Redis channel and what is published on it."""
        raise NotImplementedError


class PlainPublisher(_RedisPublisher):
    """The payload on the channel of the topic's name."""

    def message(self, topic: str, data: bytes) -> tuple[str, bytes]:
        return topic, data


class StockPubSubPublisher(_RedisPublisher):
    """The event of a group, in MessagePack, on the group's channel."""

    def message(self, topic: str, data: bytes) -> tuple[str, bytes]:
        return f"asgi__group__{topic}", msgpack.packb({"type": "bench.message", "data": json.loads(data)})


class StockCorePublisher:
    """By the layer's own `group_send`: it puts the event into the list of each consumer's channel."""

    def __init__(self, redis_url: str, port: int) -> None:
        from channels_redis.core import RedisChannelLayer

        from benchmarks.stock.layers import CORE

        self._layer = RedisChannelLayer(hosts=[{"address": redis_url, "socket_timeout": None}], **CORE)
        self._runner = asyncio.Runner()

    def publish(self, items: Items) -> None:
        self._runner.run(self._send(items))

    async def _send(self, items: Items) -> None:
        for topic, data in items:
            await self._layer.group_send(topic, {"type": "bench.message", "data": json.loads(data)})


class SocketIoPublisher(_RedisPublisher):
    """An event for a room, in the adapter's MessagePack."""

    def message(self, topic: str, data: bytes) -> tuple[str, bytes]:
        packet = {"type": 2, "data": ["message", json.loads(data)], "nsp": "/"}
        options = {"rooms": [topic], "except": [], "flags": {}}
        return f"socket.io#/#{topic}#", msgpack.packb(["emitter", packet, options])


class NchanPublisher:
    """HTTP requests in a row on one connection, answers read afterwards."""

    def __init__(self, redis_url: str, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._connection.makefile("rb")

    def publish(self, items: Items) -> None:
        # Not more at once than fits into the sockets' buffers with nobody reading.
        for start in range(0, len(items), 100):
            part = items[start : start + 100]
            head = b"POST /publish?topic=%s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s"
            self._connection.sendall(b"".join(head % (topic.encode(), len(data), data) for topic, data in part))
            for _ in part:
                self._read_answer()

    def _read_answer(self) -> None:
        status = self._answers.readline()
        if status.split()[1:2] not in ([b"201"], [b"202"]):
            raise RuntimeError(f"Nchan answered {status!r}")
        length = 0
        while (line := self._answers.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self._answers.read(length)


PUBLISHERS: dict[str, Any] = {
    "signalbox": SignalboxPublisher,
    "plain": PlainPublisher,
    "stock-pubsub": StockPubSubPublisher,
    "stock-core": StockCorePublisher,
    "socketio": SocketIoPublisher,
    "nchan": NchanPublisher,
}


def make(kind: str, redis_url: str, port: int) -> Publisher:
    """The publisher of a kind; `port` is the server's."""
    publisher: Publisher = PUBLISHERS[kind](redis_url, port)
    return publisher
