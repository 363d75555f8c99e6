"""A running multiplexer for a test, and what is said to it and heard from it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Subscription
from realtime.redis import clients
from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys

__all__ = ["QUICK", "numbered", "publish_pipelined", "receive_many", "redis_knows", "running_multiplexer"]

QUICK = Backoff(base_seconds=0.01, cap_seconds=0.05)


@asynccontextmanager
async def running_multiplexer(
    url: str,
    *,
    publisher_url: str | None = None,
    probe_after_seconds: float = 30.0,
    probe_timeout_seconds: float = 5.0,
    backoff: Backoff = QUICK,
) -> AsyncIterator[Multiplexer]:
    async with (
        clients.async_reader(url) as reader,
        clients.async_publisher(publisher_url or url) as publisher,
        Multiplexer(
            reader,
            publisher=publisher,
            probe_channel=Keys().probe_channel(),
            backoff=backoff,
            probe_after_seconds=probe_after_seconds,
            probe_timeout_seconds=probe_timeout_seconds,
        ) as multiplexer,
    ):
        yield multiplexer


def publish_pipelined(client: redis.Redis, channel: str, payloads: list[bytes]) -> None:
    pipeline = client.pipeline(transaction=False)
    for payload in payloads:
        pipeline.publish(channel, payload)
    pipeline.execute()


async def receive_many(subscription: Subscription, count: int) -> list[bytes]:
    async with asyncio.timeout(60):
        return [(await subscription.receive()).data for _ in range(count)]


def redis_knows(client: redis.Redis, channel: str) -> int:
    """How many connections Redis has subscribed to `channel`."""
    return int(client.pubsub_numsub(channel)[0][1])


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]
