"""What one publication costs the event loop, with three hundred real sockets on its topic."""

import asyncio
import inspect
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.hub.sinks import RawSink
from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.database_independent, pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])]

TOPIC = "news.today"
SOCKET_COUNT = 300
FRAME = b'{"type":"message","topic":"news.today","offset":%d,"data":"again"}'
# Neither a profiler's nor the coverage's.
TOOL_ID = 4


@pytest.fixture
async def layer(signalbox: Any) -> AsyncIterator[RedisChannelLayer]:
    config = signalbox.CHANNEL_LAYERS["default"]["CONFIG"]
    layer = RedisChannelLayer(**config)
    yield layer
    await layer.flush()


class Pair:
    """A socket whose one end the hub writes to, through the event loop's own transport."""

    def __init__(self) -> None:
        self.inner, self.outer = socket.socketpair()
        self.outer.setblocking(False)
        self.transport: asyncio.Transport

    async def open(self) -> RawSink:
        self.transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=self.inner)
        return RawSink(self, limit_bytes=1_048_576, on_overflow=lambda: None)

    @property
    def write(self) -> Any:
        return self.transport.write

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def read(self) -> bytes:
        try:
            return self.outer.recv(1_000_000)
        except BlockingIOError:
            return b""

    def shut(self) -> None:
        self.transport.abort()
        self.outer.close()


@pytest.fixture
async def pairs(layer: RedisChannelLayer) -> AsyncIterator[list[Pair]]:
    """All of them on the topic."""
    pairs = [Pair() for _ in range(SOCKET_COUNT)]
    for pair in pairs:
        await layer.hub.join(TOPIC, await pair.open())
    yield pairs
    # uvloop waits for ever, when it is closed, for transports that nobody has closed.
    for pair in pairs:
        pair.shut()
    await asyncio.sleep(0)


@contextmanager
def recorded_calls() -> Iterator[Counter[str]]:
    """Python's own record of what `realtime` calls meanwhile, by name, compiled functions included."""
    calls: Counter[str] = Counter()

    def record(code: CodeType, _: int, called: Any, __: Any) -> None:
        if "/realtime/" in code.co_filename:
            assert not inspect.iscoroutinefunction(called), f"{called} is a coroutine"
            module = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
            assert module.split(".")[0] not in ("json", "_json", "msgspec"), f"{called} is JSON"
            calls[getattr(called, "__name__", repr(called))] += 1

    sys.monitoring.use_tool_id(TOOL_ID, "recorded_calls")
    sys.monitoring.register_callback(TOOL_ID, sys.monitoring.events.CALL, record)
    sys.monitoring.set_events(TOOL_ID, sys.monitoring.events.CALL)
    try:
        yield calls
    finally:
        sys.monitoring.set_events(TOOL_ID, 0)
        sys.monitoring.register_callback(TOOL_ID, sys.monitoring.events.CALL, None)
        sys.monitoring.free_tool_id(TOOL_ID)


async def test_a_publication_costs_a_socket_one_call(
    layer: RedisChannelLayer, pairs: list[Pair], redis_client: redis.Redis
) -> None:
    """
    Per socket the transport's write, and nothing else, for ten publications that come at once.

    No coroutine is begun, no task is made, nothing of JSON is called.
    """
    policy = HistoryPolicy()
    position = (await layer.publish(PublishRequest(TOPIC, b'"first"', policy))).position
    await wait_until(lambda: layer.hub.statistics().delivery_count == len(pairs))
    for pair in pairs:
        await wait_until(lambda pair=pair: pair.read().endswith(b'"first"}'))
    (stream,) = (shard._multiplexer._stream for shard in layer._get_layer().shards)
    channel = layer.redis_channel(TOPIC).encode()
    frames = [FRAME % offset for offset in range(position.offset + 1, position.offset + 11)]
    payloads = [
        b"\xc1%b:%d\n%b" % (position.epoch.encode(), offset, frame)
        for offset, frame in enumerate(frames, position.offset + 1)
    ]
    received = b"".join(
        b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)
        for payload in payloads
    )
    tasks = asyncio.all_tasks()
    with recorded_calls() as calls:
        stream.data_received(received)
    assert asyncio.all_tasks() == tasks
    for pair in pairs:
        await wait_until(lambda pair=pair: pair.read().endswith(b"\n".join(frames)))
    assert calls.pop("write") == len(pairs)
    assert calls.total() < 200, calls
