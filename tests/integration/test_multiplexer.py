"""The multiplexer against a real Redis: nothing lost, or told; every race ends in the right state."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import redis
import redis.asyncio

from realtime import connections
from realtime.backoff import Backoff
from realtime.exceptions import SubscriberTooSlow, SubscriptionClosed, SubscriptionGap
from realtime.multiplexer import Multiplexer
from realtime.subscriptions import Attachment, Message, Subscription
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.database_independent

QUICK = Backoff(base_seconds=0.01, cap_seconds=0.05)


@asynccontextmanager
async def running_multiplexer(
    url: str, *, publisher_url: str | None = None, probe_after_seconds: float = 30.0, probe_timeout_seconds: float = 5.0
) -> AsyncIterator[Multiplexer]:
    async with (
        connections.async_reader(url) as reader,
        connections.async_publisher(publisher_url or url) as publisher,
        Multiplexer(
            reader,
            publisher=publisher,
            backoff=QUICK,
            probe_after_seconds=probe_after_seconds,
            probe_timeout_seconds=probe_timeout_seconds,
        ) as multiplexer,
    ):
        yield multiplexer


@pytest.fixture
async def multiplexer(redis_server: RedisServer) -> AsyncIterator[Multiplexer]:
    async with running_multiplexer(redis_server.url) as multiplexer:
        yield multiplexer


@pytest.fixture
def name(key_prefix: str) -> Callable[[str], str]:
    """Gives a channel name of this test's own."""
    return lambda text: f"{key_prefix}{text}"


def publish_pipelined(client: redis.Redis, channel: str, payloads: list[bytes]) -> None:
    pipeline = client.pipeline(transaction=False)
    for payload in payloads:
        pipeline.publish(channel, payload)
    pipeline.execute()


async def receive_many(subscription: Subscription, count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        return [(await subscription.receive()).data for _ in range(count)]


def redis_knows(client: redis.Redis, channel: str) -> int:
    """How many connections Redis has subscribed to `channel`."""
    return int(client.pubsub_numsub(channel)[0][1])


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


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
    """A subscriber that gives way to the event loop after each message still gets every one."""
    async with multiplexer.subscribe(name("slow"), high_water_mark=1_000) as subscription:
        publish_pipelined(redis_client, name("slow"), numbered(1_000))
        received = []
        async with asyncio.timeout(10):
            while len(received) < 1_000:
                received.append((await subscription.receive()).data)
                await asyncio.sleep(0)
        assert received == numbered(1_000)


async def test_overflow_is_told_once_and_counted(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Beyond its mark a subscriber loses the oldest, is told how many, and goes on with the newest."""
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
            async with asyncio.timeout(10):
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
        async with asyncio.timeout(10):
            first, second = await by_pattern.receive(), await by_pattern.receive()
        assert first == Message(name("sbb:7"), b"sbb:7", name("sbb:*"))
        assert second == Message(name("sbb:8"), b"sbb:8", name("sbb:*"))
        assert await receive_many(by_name, 1) == [b"sbb:7"]
    await wait_until(lambda: redis_client.pubsub_numpat() == 0)


async def test_a_killed_connection_heals_and_tells_the_gap(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """In mid-burst the connection is killed: what arrives before and after is in order, with the gap told between."""
    async with multiplexer.subscribe(name("a"), name("b"), patterns=[name("p*")]) as subscription:

        async def burst() -> None:
            for number in range(2_000):
                await asyncio.to_thread(redis_client.publish, name("a"), b"%d" % number)
                if number == 1_000:
                    assert redis_client.client_kill_filter(_type="pubsub", skipme=True) >= 1

        burst_task = asyncio.create_task(burst())
        received: list[int] = []
        gap_after: list[int] = []
        async with asyncio.timeout(30):
            while not received or received[-1] != 1_999:
                try:
                    received.append(int((await subscription.receive()).data))
                except SubscriptionGap:
                    gap_after.append(len(received))
        await burst_task
        assert received == sorted(set(received)), "nothing twice, nothing out of order"
        holes = [index for index in range(1, len(received)) if received[index] != received[index - 1] + 1]
        assert len(gap_after) == 1
        assert set(holes) <= set(gap_after), "a hole without a told gap"
        for channel in (name("b"), name("p1")):
            redis_client.publish(channel, channel)
            assert await receive_many(subscription, 1) == [channel.encode()]
    assert multiplexer.statistics().lost_connection_count == 1


async def test_ten_thousand_names_come_back_after_a_loss(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Resubscribing is done in batches, and each name is live again when the gap is told."""
    channels = [name(f"n{number}") for number in range(10_000)]
    async with multiplexer.subscribe(*channels) as subscription:
        redis_client.client_kill_filter(_type="pubsub", skipme=True)
        with pytest.raises(SubscriptionGap):
            await receive_many(subscription, 1)
        pipeline = redis_client.pipeline(transaction=False)
        for channel in channels[::1_000]:
            pipeline.publish(channel, channel)
        assert pipeline.execute() == [1] * 10
        assert await receive_many(subscription, 10) == [channel.encode() for channel in channels[::1_000]]


async def test_subscribing_while_another_unsubscribes_leaves_the_newcomer_subscribed(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The last leaver races the first joiner in every interleaving; whoever is in gets the next message."""
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

        async with asyncio.timeout(10):
            await asyncio.gather(leave(), join())
        assert redis_client.publish(name("race"), b"%d" % turn) == 1
        assert await receive_many(new, 1) == [b"%d" % turn]
        await new.__aexit__(None, None, None)
    await wait_until(lambda: redis_knows(redis_client, name("race")) == 0)


async def test_two_first_subscribers_at_once_both_listen(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Whichever of them Redis heard first, both are live once entered."""
    first, second = multiplexer.subscribe(name("x")), multiplexer.subscribe(name("x"))
    async with asyncio.timeout(10):
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
    """Cancelled while it waits for Redis's answer, a subscriber disturbs nobody and stays nowhere."""
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


async def test_a_deaf_connection_is_noticed_and_replaced(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A connection that is open but brings nothing is found by a probe, replaced, and the gap told."""
    async with (
        Proxy(redis_server.url) as proxy,
        running_multiplexer(
            proxy.url, publisher_url=redis_server.url, probe_after_seconds=0.05, probe_timeout_seconds=0.5
        ) as multiplexer,
        multiplexer.subscribe(name("d")) as subscription,
    ):
        redis_client.publish(name("d"), b"heard")
        assert await receive_many(subscription, 1) == [b"heard"]
        proxy.go_deaf()
        with pytest.raises(SubscriptionGap):
            await receive_many(subscription, 1)
        redis_client.publish(name("d"), b"heard again")
        assert await receive_many(subscription, 1) == [b"heard again"]
        assert multiplexer.statistics().deaf_count == 1


async def test_a_silent_but_healthy_connection_is_kept(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Probes come back on a quiet connection, again and again; it is never replaced."""
    async with (
        running_multiplexer(redis_server.url, probe_after_seconds=0.02) as multiplexer,
        multiplexer.subscribe(name("quiet")) as subscription,
    ):
        await wait_until(lambda: multiplexer.statistics().received_count >= 5)
        assert multiplexer.statistics().lost_connection_count == 0
        assert subscription.held_count == 0


async def test_redis_away_at_the_start_and_in_between(name: Callable[[str], str]) -> None:
    """Subscribers wait for a Redis that is not there yet; a killed and restarted one is subscribed to again."""
    with RedisServer() as server:
        server.kill()
        async with running_multiplexer(server.url) as multiplexer:
            subscription = multiplexer.subscribe(name("r"))
            entering = asyncio.create_task(subscription.__aenter__())
            server.start()
            async with asyncio.timeout(10):
                await entering
            with connections.publisher(server.url) as client:
                client.publish(name("r"), b"1")
                assert await receive_many(subscription, 1) == [b"1"]
                server.kill()
                server.start()
                with pytest.raises(SubscriptionGap):
                    await receive_many(subscription, 1)
                client.publish(name("r"), b"2")
                assert await receive_many(subscription, 1) == [b"2"]
            await subscription.__aexit__(None, None, None)


async def test_callbacks_get_whole_batches_and_gaps(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The callback form: one call a read, in order; a callback that raises is counted and stops nobody."""
    seen: list[list[bytes]] = []
    gaps: list[int] = []

    def fail(_: list[bytes]) -> None:
        raise ValueError("a callback that is broken")

    broken = multiplexer.attach(name("cb"), on_payloads=fail, on_gap=lambda: None)
    attachment = multiplexer.attach(name("cb"), on_payloads=seen.append, on_gap=lambda: gaps.append(len(seen)))
    async with asyncio.timeout(10):
        await attachment.ready()
    await asyncio.to_thread(publish_pipelined, redis_client, name("cb"), numbered(500))
    await wait_until(lambda: sum(map(len, seen)) == 500)
    assert [data for batch in seen for data in batch] == numbered(500)
    assert len(seen) < 250
    assert broken.failed_count == len(seen)
    redis_client.client_kill_filter(_type="pubsub", skipme=True)
    await wait_until(lambda: gaps == [len(seen)])
    attachment.detach()
    broken.detach()
    await wait_until(lambda: redis_knows(redis_client, name("cb")) == 0)


async def test_callbacks_may_leave_while_they_are_called(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Who is detached by another's callback gets nothing any more, be it of a batch or a gap; the others do."""
    seen: list[tuple[int, bytes]] = []
    attachments: list[Attachment] = []

    def take(number: int, payloads: list[bytes]) -> None:
        seen.extend((number, payload) for payload in payloads)
        for other in attachments:
            if other is not attachments[number]:
                other.detach()

    def take_gap(number: int) -> None:
        take(number, [b"gap"])

    attachments += [
        multiplexer.attach(
            name("leave"), on_payloads=functools.partial(take, number), on_gap=functools.partial(take_gap, number)
        )
        for number in range(3)
    ]
    for attachment in attachments:
        await attachment.ready()
    redis_client.client_kill_filter(_type="pubsub", skipme=True)
    await wait_until(lambda: seen)
    ((left, told),) = seen
    assert told == b"gap"
    redis_client.publish(name("leave"), b"1")
    await wait_until(lambda: seen == [(left, b"gap"), (left, b"1")])
    attachments[left].detach()
    assert multiplexer.statistics().lost_connection_count == 1


async def test_a_loss_and_the_return_are_called_once_and_when_everything_is_subscribed(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """`on_lost` when the connection goes; `on_back` only when each of thousands of names is live again."""
    calls: list[str] = []
    channels = [name(f"back{number}") for number in range(3_000)]

    def come_back() -> None:
        calls.append("back")
        # Whoever now reads the state misses nothing that is published from here on.
        assert {count for _, count in redis_client.pubsub_numsub(*channels)} == {1}

    async with (
        connections.async_reader(redis_server.url) as reader,
        connections.async_publisher(redis_server.url) as publisher,
        Multiplexer(
            reader, publisher=publisher, backoff=QUICK, on_lost=lambda: calls.append("lost"), on_back=come_back
        ) as multiplexer,
        multiplexer.subscribe(*channels) as subscription,
    ):
        for turn in range(3):
            redis_client.client_kill_filter(_type="pubsub", skipme=True)
            with pytest.raises(SubscriptionGap):
                await receive_many(subscription, 1)
            await wait_until(lambda turn=turn: calls == ["lost", "back"] * (turn + 1))
    assert calls == ["lost", "back"] * 3, "stopping is not losing"


async def test_stopping_ends_every_subscription(redis_server: RedisServer, name: Callable[[str], str]) -> None:
    """Iteration ends, receive says closed, what is held is still given, and a stopped one takes no more."""
    async with running_multiplexer(redis_server.url) as multiplexer:
        subscription = multiplexer.subscribe(name("s"))
        await subscription.__aenter__()
        iterating = asyncio.create_task(_collect(subscription))
        await asyncio.sleep(0)
        await multiplexer.stop()
        async with asyncio.timeout(10):
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
    """Nothing to listen to is a mistake of the caller, said at once."""
    with pytest.raises(ValueError, match="at least one channel or pattern"):
        await multiplexer.subscribe().__aenter__()
    with pytest.raises(ValueError, match="at least 1"):
        multiplexer.subscribe("x", high_water_mark=0)
