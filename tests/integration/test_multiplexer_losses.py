"""The multiplexer when Redis or the connection goes: it heals by itself, and who may have missed something is told."""

import asyncio
import functools
import logging
from collections.abc import Callable

import pytest
import redis

from realtime.exceptions import SubscriptionGap
from realtime.pubsub.multiplexer import Multiplexer
from realtime.pubsub.subscriptions import Attachment
from realtime.redis import clients
from realtime.redis.backoff import Backoff
from tests.integration.multiplexing import (
    QUICK,
    numbered,
    publish_pipelined,
    receive_many,
    redis_knows,
    running_multiplexer,
)
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_a_killed_connection_heals_and_tells_the_gap(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The connection is killed during a burst: messages before and after are in order, with the gap between them."""
    async with multiplexer.subscribe(name("a"), name("b"), patterns=[name("p*")]) as subscription:

        async def burst() -> None:
            for number in range(2_000):
                await asyncio.to_thread(redis_client.publish, name("a"), b"%d" % number)
                if number == 1_000:
                    assert redis_client.client_kill_filter(_type="pubsub", skipme=True) >= 1

        burst_task = asyncio.create_task(burst())
        received: list[int] = []
        gap_after: list[int] = []
        async with asyncio.timeout(60):
            while not received or received[-1] != 1_999:
                try:
                    received.append(int((await subscription.receive()).data))
                except SubscriptionGap:
                    gap_after.append(len(received))
        await burst_task
        assert received == sorted(set(received)), "nothing twice, nothing out of order"
        gaps = [index for index in range(1, len(received)) if received[index] != received[index - 1] + 1]
        assert len(gap_after) == 1
        assert set(gaps) <= set(gap_after), "a gap without a notice"
        for channel in (name("b"), name("p1")):
            redis_client.publish(channel, channel)
            assert await receive_many(subscription, 1) == [channel.encode()]
    assert multiplexer.statistics().lost_connection_count == 1


async def test_after_a_loss_the_first_try_is_made_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Only repeated failures wait, because each wait makes the gap longer."""
    patient = Backoff(base_seconds=3600, cap_seconds=3600)
    async with (
        running_multiplexer(redis_server.url, backoff=patient) as multiplexer,
        multiplexer.subscribe(name("a")) as subscription,
    ):
        for _ in range(3):
            redis_client.client_kill_filter(_type="pubsub", skipme=True)
            with pytest.raises(SubscriptionGap):
                await receive_many(subscription, 1)
            # Redis has answered everything, and the waits begin anew.
            await wait_until(lambda: not multiplexer._failures)


@pytest.mark.parametrize("turn_count", range(8))
async def test_stopping_ends_it_whatever_becomes_of_the_connection_meanwhile(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str], turn_count: int
) -> None:
    """The connection ends so many turns of the event loop before it is stopped."""
    async with running_multiplexer(redis_server.url) as multiplexer, multiplexer.subscribe(name("a")):
        stream = multiplexer._stream
        assert stream is not None
        redis_client.client_kill_filter(_type="pubsub", skipme=True)
        await asyncio.wait([stream.lost])
        for _ in range(turn_count):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await multiplexer.stop()


async def test_ten_thousand_names_come_back_after_a_loss(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """Names are resubscribed in batches, and all are live again when the gap is reported."""
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


async def test_a_deaf_connection_is_noticed_and_replaced(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A probe detects a connection that is open but delivers nothing; it is replaced and the gap is reported."""
    async with (
        Proxy(redis_server.url) as proxy,
        running_multiplexer(
            proxy.url, publisher_url=redis_server.url, probe_after_seconds=0.05, probe_timeout_seconds=3.0
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
    """Probes keep arriving on a quiet connection, so it is never replaced."""
    async with (
        running_multiplexer(redis_server.url, probe_after_seconds=0.02) as multiplexer,
        multiplexer.subscribe(name("quiet")) as subscription,
    ):
        await wait_until(lambda: multiplexer.statistics().received_count >= 5)
        assert multiplexer.statistics().lost_connection_count == 0
        assert subscription.held_count == 0


async def test_redis_away_at_the_start_and_in_between(name: Callable[[str], str]) -> None:
    """Subscribers wait for a Redis that is not running yet; after a restart they are subscribed again."""
    with RedisServer() as server:
        server.kill()
        async with running_multiplexer(server.url) as multiplexer:
            subscription = multiplexer.subscribe(name("r"))
            entering = asyncio.create_task(subscription.__aenter__())
            await wait_until(lambda: multiplexer._failures)
            server.start()
            async with asyncio.timeout(60):
                await entering
            with clients.publisher(server.url) as client:
                client.publish(name("r"), b"1")
                assert await receive_many(subscription, 1) == [b"1"]
                server.kill()
                server.start()
                with pytest.raises(SubscriptionGap):
                    await receive_many(subscription, 1)
                client.publish(name("r"), b"2")
                assert await receive_many(subscription, 1) == [b"2"]
            await subscription.__aexit__(None, None, None)


async def test_a_server_that_refuses_to_subscribe_is_asked_less_and_less_often(
    name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """It can be connected to, which is no success: one line tells why, and one that all is subscribed after all."""
    caplog.set_level(logging.INFO, "realtime.pubsub.multiplexer")
    with RedisServer() as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "listener", "on", ">secret", "+@all", "&signalbox:probe:*")
        url = server.url.replace("unix://", "unix://listener:secret@")
        async with running_multiplexer(url) as multiplexer:
            subscribing = asyncio.create_task(multiplexer.subscribe(name("a")).__aenter__())
            await wait_until(lambda: multiplexer._failures >= 5)
            admin.execute_command("ACL", "SETUSER", "listener", "allchannels")
            subscription = await subscribing
            await wait_until(lambda: multiplexer._failures == 0)
            admin.publish(name("a"), b"hello")
            assert (await subscription.receive()).data == b"hello"
    lost, back = [record.getMessage() for record in caplog.records]
    assert "NOPERM" in lost
    assert "are subscribed again" in back


async def test_callbacks_get_whole_batches_and_gaps(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """The callback form: one call a read, in order; a callback that raises is counted and does not affect others."""
    seen: list[list[bytes]] = []
    gaps: list[int] = []

    def fail(_: list[bytes]) -> None:
        raise ValueError("a callback that is broken")

    broken = multiplexer.attach(name("cb"), on_payloads=fail, on_gap=lambda: None)
    attachment = multiplexer.attach(name("cb"), on_payloads=seen.append, on_gap=lambda: gaps.append(len(seen)))
    async with asyncio.timeout(60):
        await attachment.ready()
    await asyncio.to_thread(publish_pipelined, redis_client, name("cb"), numbered(500))
    await wait_until(lambda: sum(map(len, seen)) == 500)
    assert [data for batch in seen for data in batch] == numbered(500)
    assert len(seen) < 250
    assert multiplexer.statistics().failed_count == len(seen)
    redis_client.client_kill_filter(_type="pubsub", skipme=True)
    await wait_until(lambda: gaps == [len(seen)])
    attachment.detach()
    broken.detach()
    await wait_until(lambda: redis_knows(redis_client, name("cb")) == 0)


async def test_callbacks_may_leave_while_they_are_called(
    multiplexer: Multiplexer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """A listener that another's callback detaches gets nothing more of the batch or gap; the others do."""
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
        clients.async_reader(redis_server.url) as reader,
        clients.async_publisher(redis_server.url) as publisher,
        Multiplexer(
            reader,
            publisher=publisher,
            probe_channel=name("probe"),
            backoff=QUICK,
            on_lost=lambda: calls.append("lost"),
            on_back=come_back,
        ) as multiplexer,
        multiplexer.subscribe(*channels) as subscription,
    ):
        for turn in range(3):
            redis_client.client_kill_filter(_type="pubsub", skipme=True)
            with pytest.raises(SubscriptionGap):
                await receive_many(subscription, 1)
            await wait_until(lambda turn=turn: calls == ["lost", "back"] * (turn + 1))
    assert calls == ["lost", "back"] * 3, "stopping is not losing"
