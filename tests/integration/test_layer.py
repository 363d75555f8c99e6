"""The channel layer against Channels' "Channel Layer Specification", as stock senders and consumers use it."""

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest
import redis
from channels.exceptions import ChannelFull, MessageTooLarge

from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.database_independent, pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])]

type MakeLayer = Callable[..., RedisChannelLayer]


@pytest.fixture
async def make_layer(signalbox: Any) -> AsyncIterator[MakeLayer]:
    """A layer as another process would have it; in the end nothing of it is left, here or in Redis."""
    layers: list[RedisChannelLayer] = []

    def make_layer(**options: Any) -> RedisChannelLayer:
        layers.append(RedisChannelLayer(**{**signalbox.CHANNEL_LAYERS["default"]["CONFIG"], **options}))
        return layers[-1]

    yield make_layer
    for layer in layers:
        await layer.flush()
    await wait_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@pytest.fixture
def layer(make_layer: MakeLayer) -> RedisChannelLayer:
    return make_layer()


@pytest.fixture
def sender(make_layer: MakeLayer) -> RedisChannelLayer:
    return make_layer()


async def received(layer: RedisChannelLayer, channel: str, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        return [await layer.receive(channel) for _ in range(count)]


async def arrived(layer: RedisChannelLayer, sender: RedisChannelLayer) -> None:
    """Wait until everything sent before has arrived: Redis delivers in order."""
    channel = await layer.new_channel()
    await sender.send(channel, {"type": "last"})
    await received(layer, channel)


async def test_it_says_what_the_specification_asks_for(layer: RedisChannelLayer) -> None:
    """In a thread without an event loop too: an application checks its extensions at start."""
    assert await asyncio.to_thread(lambda: layer.extensions) == ["groups", "flush"]
    assert layer.group_expiry == 86_400
    assert (layer.ChannelFull, layer.MessageTooLarge) == (ChannelFull, MessageTooLarge)
    for name in ("send", "receive", "new_channel", "group_add", "group_discard", "group_send", "flush"):
        assert inspect.iscoroutinefunction(getattr(layer, name))


# Channels -------------------------------------------------------------------------------------------------------------


async def test_a_channel_gives_messages_in_order_each_once(layer: RedisChannelLayer, sender: RedisChannelLayer) -> None:
    """Messages from another process arrive, whether they were sent before or during a receive()."""
    channel = await layer.new_channel()
    for number in range(3):
        await sender.send(channel, {"type": "a.message", "number": number})
    early = await received(layer, channel, 3)
    waiting = asyncio.create_task(received(layer, channel))
    await sender.send(channel, {"type": "a.message", "number": 3})
    assert [*early, *await waiting] == [{"type": "a.message", "number": number} for number in range(4)]


async def test_every_type_of_the_specification_survives(layer: RedisChannelLayer) -> None:
    """Byte and Unicode strings, 64-bit integers, floats, lists, dicts, booleans, None; a megabyte of them too."""
    message = {
        "type": "a.message",
        "bytes": b"\x00\xc1\xff",
        "text": "Grüße, 世界 \U0001f682",
        "integers": [0, -(2**63), 2**63 - 1],
        "floats": [0.1, -1e308, float("inf")],
        "nested": {"list": [[], {}, None], "yes": True, "no": False},
        "megabyte": "x" * 1_048_576,
    }
    channel = await layer.new_channel()
    await layer.send(channel, {**message, "tuple": (1, 2)})
    assert await received(layer, channel) == [{**message, "tuple": [1, 2]}]


@pytest.mark.parametrize("message", [{"type": "x", "set": {1}}, {"type": "x", "number": 2**64}, ["type", "x"], b"x"])
async def test_what_cannot_be_sent_is_an_error_of_the_sender(layer: RedisChannelLayer, message: Any) -> None:
    """Unreadable messages of a channel and of a group are skipped; the consumer gets the next message."""
    channel = await layer.new_channel()
    await layer.group_add("a-group", channel)
    with pytest.raises((TypeError, OverflowError)):
        await layer.send(channel, message)
    with pytest.raises((TypeError, OverflowError)):
        await layer.group_send("a-group", message)
    await layer.send(channel, {"type": "next"})
    assert await received(layer, channel) == [{"type": "next"}]


@pytest.mark.parametrize("name", ["", "two words", "colon:", "ümlaut", "x" * 100, "two\nlines", None, 7, b"bytes"])
async def test_invalid_names_are_refused(layer: RedisChannelLayer, name: Any) -> None:
    """Invalid names of channels and groups raise the error of Channels' own layers."""
    channel = await layer.new_channel()
    message = {"type": "a.message"}
    for call in (
        lambda: layer.send(name, message),
        lambda: layer.receive(name),
        lambda: layer.group_send(name, message),
        lambda: layer.group_add(name, channel),
        lambda: layer.group_add("a-group", name),
        lambda: layer.group_discard(name, channel),
    ):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            await call()


async def test_names_are_never_given_twice(layer: RedisChannelLayer) -> None:
    """Whatever the random numbers of the process are; the caller's prefix is in them."""
    random.seed(1)
    first = await layer.new_channel()
    random.seed(1)
    second = await layer.new_channel(prefix="mine!")
    assert first != second
    assert "specific." in first
    assert "mine!" in second
    await layer.send(second, {"type": "a.message"})
    assert await received(layer, second) == [{"type": "a.message"}]


@pytest.mark.parametrize("channel", ["thumbnails", "process.1!client.2", "x" * 99])
async def test_a_channel_of_any_name_is_heard_by_who_receives_from_it(
    layer: RedisChannelLayer, sender: RedisChannelLayer, redis_client: redis.Redis, key_prefix: str, channel: str
) -> None:
    """As `runworker` does, and with the "!" of a process-local name."""
    channel = channel.replace("thumbnails", f"thumbnails.{key_prefix[:-1]}")
    waiting = asyncio.create_task(received(layer, channel, 2))
    await wait_until(lambda: redis_client.pubsub_numsub(f"{key_prefix}{channel}")[0][1] == 1)
    await sender.send(channel, {"type": "one"})
    await sender.send(channel, {"type": "two"})
    assert await waiting == [{"type": "one"}, {"type": "two"}]


async def test_each_message_is_for_one_of_several_receivers(layer: RedisChannelLayer) -> None:
    """When one of them leaves, the others lose nothing, even while the channel is being subscribed to."""
    first = asyncio.create_task(layer.receive("shared.channel"))
    others = [asyncio.create_task(layer.receive("shared.channel")) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await arrived(layer, layer)
    for number in range(2):
        await layer.send("shared.channel", {"type": "a.message", "number": number})
    done, waiting = set(), set(others)
    while len(done) < 2:
        newly_done, waiting = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert newly_done
        done |= newly_done
    waiting.pop().cancel()
    assert sorted(task.result()["number"] for task in done) == [0, 1]


async def test_a_message_that_nobody_can_read_is_counted_and_skipped(
    layer: RedisChannelLayer, redis_client: redis.Redis
) -> None:
    """Any program can publish on a Redis channel; no consumer ends because of that."""
    channel = await layer.new_channel()
    for payload in (b"\xff{", b"", b"\xc1", b"\xc1m1:3\n{", msgpack.packb({"type": "good"})):
        redis_client.publish(channel, payload)
    assert await received(layer, channel) == [{"type": "good"}]
    assert layer.unreadable_count == 4


@pytest.mark.parametrize("payload", [b"\xff{%d", b"\xc1m1:%d\n{", b"\xc1m1:%d", b"\xc1\xc1x%d\n"])
async def test_a_flood_of_messages_that_nobody_can_read_does_not_fill_the_log(
    layer: RedisChannelLayer, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    """A few lines of bounded length for each reason."""
    channel = await layer.new_channel()
    for number in range(50):
        redis_client.publish(channel, payload % number + b"y" * 10_000)
    redis_client.publish(channel, msgpack.packb({"type": "good"}))
    assert await received(layer, channel) == [{"type": "good"}]
    assert len(caplog.records) <= 5
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


# Capacity -------------------------------------------------------------------------------------------------------------


async def test_a_burst_arrives_in_order_up_to_the_capacity(make_layer: MakeLayer, redis_client: redis.Redis) -> None:
    """
    Ten thousand at once to a consumer that does nothing: the first are kept, the others dropped and counted.

    What comes in one turn of the event loop is taken whole.
    """
    sender, all_of_them, first_of_them = make_layer(), make_layer(capacity=10_000), make_layer(capacity=1_000)
    channels = []
    for layer in (all_of_them, first_of_them):
        channels.append(await layer.new_channel())
        await layer.group_add("busy", channels[-1])
    with redis_client.pipeline(transaction=False) as burst:
        for number in range(10_000):
            burst.publish(sender.redis_channel("busy"), sender.serialize({"type": "a.message", "number": number}))
        burst.execute()
    for layer in (all_of_them, first_of_them):
        await arrived(layer, sender)
    numbers = [[each["number"] for each in await received(all_of_them, channels[0], 10_000)]]
    kept_count = 10_000 - first_of_them.dropped_count
    assert 1_000 <= kept_count < 10_000
    numbers.append([each["number"] for each in await received(first_of_them, channels[1], kept_count)])
    assert numbers == [list(range(10_000)), list(range(kept_count))]
    assert all_of_them.dropped_count == 0
    await sender.group_send("busy", {"type": "after"})
    assert await received(first_of_them, channels[1]) == [{"type": "after"}]


async def test_a_full_consumer_takes_nothing_from_others(make_layer: MakeLayer) -> None:
    """It is in the same group. Sending never waits nor fails, because a sender does not know."""
    layer = make_layer(capacity=3)
    stuck, brisk = await layer.new_channel(), await layer.new_channel()
    for channel in (stuck, brisk):
        await layer.group_add("a-group", channel)
    for number in range(10):
        await layer.group_send("a-group", {"type": "a.message", "number": number})
        assert (await received(layer, brisk))[0]["number"] == number
    await layer.send(stuck, {"type": "one.too.many"})
    await arrived(layer, layer)
    assert layer.dropped_count == 8
    assert [each["number"] for each in await received(layer, stuck, 3)] == [0, 1, 2]
