"""Groups of the channel layer: who is in, how long, and what is left when everybody has gone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.database_independent, pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])]

MESSAGE = {"type": "a.message", "text": "hello"}


@pytest.fixture
def config(signalbox: Any) -> dict[str, Any]:
    config: dict[str, Any] = signalbox.CHANNEL_LAYERS["default"]["CONFIG"]
    return config


@pytest.fixture
async def layer(config: dict[str, Any]) -> AsyncIterator[RedisChannelLayer]:
    layer = RedisChannelLayer(**config)
    yield layer
    await layer.flush()


@pytest.fixture
async def other(config: dict[str, Any]) -> AsyncIterator[RedisChannelLayer]:
    """Of another process."""
    layer = RedisChannelLayer(**config)
    yield layer
    await layer.flush()


async def received(layer: RedisChannelLayer, channel: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        return await layer.receive(channel)


async def nothing_came(layer: RedisChannelLayer, channel: str) -> None:
    """When a message to the channel itself has arrived, earlier ones have too: it is the first one."""
    await layer.send(channel, {"type": "nothing.before"})
    assert await received(layer, channel) == {"type": "nothing.before"}


async def test_a_message_reaches_who_is_in_the_group_and_nobody_else(
    layer: RedisChannelLayer, other: RedisChannelLayer
) -> None:
    """In several processes: added twice is in once, discarded once is out, and discarding without adding is fine."""
    stays, leaves, never = [await layer.new_channel() for _ in range(3)]
    elsewhere = await other.new_channel()
    for channel in (stays, stays, leaves):
        await layer.group_add("a-group", channel)
    await other.group_add("a-group", elsewhere)
    await layer.group_add("b-group", never)
    for channel in (leaves, leaves, never):
        await layer.group_discard("a-group", channel)
    await other.group_send("a-group", MESSAGE)
    assert await received(layer, stays) == MESSAGE
    assert await received(other, elsewhere) == MESSAGE
    for channel in (stays, leaves, never):
        await nothing_came(layer, channel)


async def test_a_group_of_many_costs_redis_one_subscription(
    layer: RedisChannelLayer, redis_client: redis.Redis
) -> None:
    """Five hundred channels; each has a message of its own to change."""
    channels = [await layer.new_channel() for _ in range(500)]
    for channel in channels:
        await layer.group_add("many", channel)
    assert redis_client.pubsub_numsub(layer.redis_channel("many"))[0][1] == 1
    await layer.group_send("many", MESSAGE)
    messages = [await received(layer, channel) for channel in channels]
    messages[0]["text"] = "changed"
    assert messages[1:] == [MESSAGE] * 499


async def test_a_channel_in_many_groups_gets_each_message_once(layer: RedisChannelLayer) -> None:
    """In the order in which they were sent, also across groups."""
    channel = await layer.new_channel()
    for number in range(50):
        await layer.group_add(f"group-{number}", channel)
    for number in range(50):
        await layer.group_send(f"group-{number}", {"type": "a.message", "number": number})
    assert [(await received(layer, channel))["number"] for _ in range(50)] == list(range(50))


async def test_only_channels_of_this_process_can_be_added(layer: RedisChannelLayer, other: RedisChannelLayer) -> None:
    """As with channels_redis, and the error says what a consumer does."""
    channel = await other.new_channel()
    with pytest.raises(RuntimeError, match=r"group_add\(group, self\.channel_name\)"):
        await layer.group_add("a-group", channel)
    assert layer.groups == {}


async def test_a_membership_ends_a_while_after_it_was_last_renewed(
    config: dict[str, Any], redis_client: redis.Redis
) -> None:
    """`group_expiry`, by the event loop's clock; who adds itself again stays, and an empty group leaves Redis."""
    layer = RedisChannelLayer(**config, group_expiry=100)
    now = 1_000.0
    layer._get_layer()._now = lambda: now
    renewed, forgotten = await layer.new_channel(), await layer.new_channel()
    for channel in (renewed, forgotten):
        await layer.group_add("a-group", channel)
    now += 60
    await layer.group_add("a-group", renewed)
    now += 60
    await layer.group_send("a-group", MESSAGE)
    assert await received(layer, renewed) == MESSAGE
    await nothing_came(layer, forgotten)
    now += 60
    await layer.group_send("a-group", MESSAGE)
    await nothing_came(layer, renewed)
    assert layer.groups == {}
    await wait_until(lambda: redis_client.pubsub_numsub(layer.redis_channel("a-group"))[0][1] == 0)
    await layer.flush()


async def test_a_consumer_that_goes_leaves_nothing_behind(layer: RedisChannelLayer, redis_client: redis.Redis) -> None:
    """Channels cancels its receive(), and discards nothing: not here and not in Redis."""
    stays = await layer.new_channel()
    await layer.group_add("shared", stays)
    channels = [await layer.new_channel() for _ in range(20)]
    for channel in channels:
        await layer.group_add("shared", channel)
        await layer.group_add(f"own.{channel[-32:]}", channel)
    receiving = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0)
    for task in receiving:
        task.cancel()
    await asyncio.wait(receiving)
    assert layer.groups.keys() == {layer.redis_channel("shared")}
    assert layer.channels.keys() == {stays}
    pattern = f"{layer.prefix}*"
    # The probe of the connection is one of the three.
    await wait_until(lambda: len(redis_client.pubsub_channels(pattern)) == 3)
    await layer.group_send("shared", MESSAGE)
    assert await received(layer, stays) == MESSAGE


async def test_a_cancelled_joiner_leaves_nothing_behind(layer: RedisChannelLayer) -> None:
    """A consumer may end at any moment while it joins a group."""

    async def consume() -> None:
        channel = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive(channel))
        try:
            await layer.group_add("a-group", channel)
            await receiving
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])

    for ticks in range(40):
        consumer = asyncio.create_task(consume())
        for _ in range(ticks):
            await asyncio.sleep(0)
        consumer.cancel()
        await asyncio.wait([consumer])
        assert (layer.channels, layer.groups) == ({}, {})


async def test_a_flushed_layer_is_as_new(layer: RedisChannelLayer, redis_client: redis.Redis) -> None:
    """Groups, messages and connections are gone, and the layer can be used again."""
    channel = await layer.new_channel()
    await layer.group_add("a-group", channel)
    await layer.send(channel, MESSAGE)
    await layer.flush()
    await wait_until(lambda: redis_client.pubsub_channels(f"{layer.prefix}*") == [])
    assert (layer.channels, layer.groups) == ({}, {})
    again = await layer.new_channel()
    await layer.group_send("a-group", MESSAGE)
    await nothing_came(layer, again)
    await layer.group_add("a-group", again)
    await layer.group_send("a-group", MESSAGE)
    assert await received(layer, again) == MESSAGE
