"""The multiplexer against a real Redis: nothing lost below the mark; every race ends in the right state."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import redis

from realtime.exceptions import SubscriberTooSlow, SubscriptionClosed
from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Message, Subscription
from tests.integration.multiplexing import (
    numbered,
    publish_pipelined,
    receive_many,
    redis_knows,
    running_multiplexer,
)
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_many_subscribers_share_one_redis_subscription(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A hundred subscribers to a channel are one to Redis; the last one to leave takes it along."""
    async with AsyncExitStack() as stack:
        subscriptions = [await stack.enter_async_context(multiplexer.subscribe(name("a"))) for _ in range(100)]
        assert redis_client.publish(name("a"), b"hello") == 1
        for subscription in subscriptions:
            assert await receive_many(subscription, 1) == [b"hello"]
    await wait_until(lambda: redis_knows(redis_client, name("a")) == 0)
    assert multiplexer.statistics().name_count == 0


async def test_a_burst_to_an_idle_subscriber_loses_nothing(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """1,000 pipelined messages all reach a subscriber that waits, in order, in far fewer wake-ups."""
    async with multiplexer.subscribe(name("burst")) as subscription:
        waiting = asyncio.create_task(receive_many(subscription, 1_000))
        await asyncio.to_thread(publish_pipelined, redis_client, name("burst"), numbered(1_000))
        assert await waiting == numbered(1_000)
    statistics = multiplexer.statistics()
    assert statistics.received_count == 1_000
    assert statistics.dropped_count == 0
    assert statistics.batch_count < 500


async def test_a_burst_to_a_slow_subscriber_loses_nothing_below_its_mark(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A subscriber that yields to the event loop after each message still gets all of them."""
    async with multiplexer.subscribe(name("slow"), high_water_mark=1_000) as subscription:
        publish_pipelined(redis_client, name("slow"), numbered(1_000))
        received = []
        async with asyncio.timeout(60):
            while len(received) < 1_000:
                received.append((await subscription.receive()).data)
                await asyncio.sleep(0)
        assert received == numbered(1_000)


async def test_overflow_is_told_once_and_counted(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Beyond its mark a subscriber loses the oldest messages, gets their number, and continues with the newest."""
    async with (
        multiplexer.subscribe(name("flood"), high_water_mark=10) as slow,
        multiplexer.subscribe(name("flood")) as fast,
    ):
        publish_pipelined(redis_client, name("flood"), numbered(100))
        assert await receive_many(fast, 100) == numbered(100)
        assert slow.held_count == 10
        with pytest.raises(SubscriberTooSlow, match="90 messages were dropped") as told:
            await slow.receive()
        assert told.value.dropped_count == 90
        assert await receive_many(slow, 10) == numbered(100)[90:]
        redis_client.publish(name("flood"), b"after")
        assert await receive_many(slow, 1) == [b"after"]
    assert multiplexer.statistics().dropped_count == 90


async def test_several_names_in_one_tick_all_arrive(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Messages on many names at once reach a subscriber of all of them, again and again."""
    channels = [name(f"feed{number}") for number in range(20)]
    async with multiplexer.subscribe(*channels) as subscription:
        for turn in range(5):
            pipeline = redis_client.pipeline(transaction=False)
            for channel in channels:
                pipeline.publish(channel, b"%d" % turn)
            pipeline.execute()
            async with asyncio.timeout(60):
                messages = [await subscription.receive() for _ in channels]
            assert [message.channel for message in messages] == channels
            assert {message.data for message in messages} == {b"%d" % turn}


async def test_patterns_tell_channel_and_pattern(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A pattern subscription gets every matching channel in publish order; a name beside it gets its own copy."""
    async with (
        multiplexer.subscribe(patterns=[name("sbb:*")]) as by_pattern,
        multiplexer.subscribe(name("sbb:7")) as by_name,
    ):
        for channel in ("sbb:7", "other", "sbb:8"):
            redis_client.publish(name(channel), channel)
        async with asyncio.timeout(60):
            first, second = await by_pattern.receive(), await by_pattern.receive()
        assert first == Message(name("sbb:7"), b"sbb:7", name("sbb:*"))
        assert second == Message(name("sbb:8"), b"sbb:8", name("sbb:*"))
        assert await receive_many(by_name, 1) == [b"sbb:7"]
    await wait_until(lambda: redis_client.pubsub_numpat() == 0)


async def test_subscribing_while_another_unsubscribes_leaves_the_joiner_subscribed(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The last one to leave races the first one to join, in every interleaving; a subscriber gets the next message."""
    for turn in range(300):
        old = multiplexer.subscribe(name("race"))
        await old.__aenter__()
        new = multiplexer.subscribe(name("race"))

        async def leave(subscription: Subscription = old, ticks: int = turn % 5) -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            await subscription.__aexit__(None, None, None)

        async def join(subscription: Subscription = new, ticks: int = turn // 5 % 5) -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            await subscription.__aenter__()

        async with asyncio.timeout(60):
            await asyncio.gather(leave(), join())
        assert redis_client.publish(name("race"), b"%d" % turn) == 1
        assert await receive_many(new, 1) == [b"%d" % turn]
        await new.__aexit__(None, None, None)
    await wait_until(lambda: redis_knows(redis_client, name("race")) == 0)


async def test_two_first_subscribers_at_once_both_listen(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Whichever subscription reaches Redis first, both are live once entered."""
    first, second = multiplexer.subscribe(name("x")), multiplexer.subscribe(name("x"))
    async with asyncio.timeout(60):
        await asyncio.gather(first.__aenter__(), second.__aenter__())
    redis_client.publish(name("x"), b"1")
    assert await receive_many(first, 1) == await receive_many(second, 1) == [b"1"]
    await first.__aexit__(None, None, None)
    redis_client.publish(name("x"), b"2")
    assert await receive_many(second, 1) == [b"2"]
    await second.__aexit__(None, None, None)


async def test_a_cancelled_subscriber_leaves_nothing_behind(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A subscriber that is cancelled while it waits for Redis leaves nothing behind and does not affect others."""
    async with multiplexer.subscribe(name("kept")) as kept:
        for ticks in range(6):
            entering = asyncio.create_task(multiplexer.subscribe(name("gone"), name("kept")).__aenter__())
            for _ in range(ticks):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait([entering])
            if not entering.cancelled():
                await entering.result().__aexit__(None, None, None)
        await wait_until(lambda: redis_knows(redis_client, name("gone")) == 0)
        redis_client.publish(name("kept"), b"still here")
        assert await receive_many(kept, 1) == [b"still here"]


async def test_a_cancelled_receive_loses_nothing(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The message that was about to be returned is returned by the next call."""
    async with multiplexer.subscribe(name("c")) as subscription:
        for number in range(50):
            waiting = asyncio.create_task(subscription.receive())
            await asyncio.sleep(0)
            redis_client.publish(name("c"), b"%d" % number)
            await wait_until(lambda task=waiting: subscription.held_count == 1 or task.done())
            if waiting.cancel():
                await asyncio.wait([waiting])
            message = waiting.result() if not waiting.cancelled() else await subscription.receive()
            assert message.data == b"%d" % number


async def test_stopping_ends_every_subscription(redis_server: RedisServer, name: Callable[[str], str]) -> None:
    """Iteration ends, receive says closed, what is held is still given, and a stopped one takes no more."""
    async with running_multiplexer(redis_server.url) as multiplexer:
        subscription = multiplexer.subscribe(name("s"))
        await subscription.__aenter__()
        iterating = asyncio.create_task(_collect(subscription))
        await asyncio.sleep(0)
        await multiplexer.stop()
        async with asyncio.timeout(60):
            assert await iterating == []
        for operation in (subscription.receive, multiplexer.subscribe(name("s")).__aenter__):
            await _expect_closed(operation)
        assert multiplexer.statistics().lost_connection_count == 0


async def _collect(subscription: Subscription) -> list[Message]:
    return [message async for message in subscription]


async def _expect_closed(operation: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(SubscriptionClosed):
        await operation()


async def test_a_subscription_without_a_name_is_refused(multiplexer: Multiplexer) -> None:
    """Subscribing to nothing is an error of the caller, raised at once."""
    with pytest.raises(ValueError, match="at least one channel or pattern"):
        await multiplexer.subscribe().__aenter__()
    with pytest.raises(ValueError, match="at least 1"):
        multiplexer.subscribe("x", high_water_mark=0)
