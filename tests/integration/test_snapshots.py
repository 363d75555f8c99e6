"""Snapshots on a real Redis, read and swept by several processes while others publish."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import BATCH_MARK, parse, split_batch
from realtime.broker.publish import Keyed, PublishCall, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.broker.sweep import Sweep
from realtime.layer import RedisChannelLayer
from realtime.live.filters import Selector
from realtime.live.places import area_of
from realtime.live.view import Lens
from realtime.live.views import Family
from tests.support.redis_server import RedisServer
from tests.support.relevances import decode_relevance
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

TOPIC = "vehicles.sbb"
NO_HISTORY = HistoryPolicy(size=0)
MINUTE = Snapshot(absent_after_seconds=60, gather_seconds=0)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def make_layer(server: RedisServer) -> AsyncIterator[Callable[[], RedisChannelLayer]]:
    """Layers, each of which is another process for Redis."""
    layers: list[RedisChannelLayer] = []

    def make() -> RedisChannelLayer:
        layers.append(RedisChannelLayer([server.url]))
        return layers[-1]

    yield make
    for layer in layers:
        await layer.flush()


@pytest.fixture
def run(server: RedisServer) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process of tests/support, which is ready when this returns."""
    processes: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"tests.support.{name}", server.url, TOPIC, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


async def look(layer: RedisChannelLayer, policy: Snapshot) -> Viewer:
    viewer = Viewer()
    family = Family(name=TOPIC, snapshot=policy, history=NO_HISTORY)
    lens = Lens(area_of(None), Selector.of(), 1)
    async with asyncio.timeout(60):
        await layer.views.join(TOPIC, family, viewer, view_id="v1", lens=lens, topics=[TOPIC])
    return viewer


async def publish(layer: RedisChannelLayer, *keys: str, policy: Snapshot = MINUTE) -> None:
    await layer.publish_many([PublishRequest(TOPIC, b"1", NO_HISTORY, keyed=Keyed(Relevance(k), policy)) for k in keys])


def make_silent(client: redis.Redis, layer: RedisChannelLayer, *keys: str) -> None:
    """As if these had been published two minutes ago."""
    for key in keys:
        client.zincrby(layer.keys.topic_seen(TOPIC), -120_000, key)


async def swept(layer: RedisChannelLayer, *, lease_seconds: float = 60) -> int:
    count: int = await layer._get_layer().sweep_snapshot(TOPIC, MINUTE, history=NO_HISTORY, lease_seconds=lease_seconds)
    return count


async def test_a_large_snapshot_is_read_while_it_changes(
    make_layer: Callable[[], RedisChannelLayer], run: Callable[..., Any], client: redis.Redis
) -> None:
    """Redis gives it in parts, between which keys change, come and go; the view has the truth in the end."""
    publisher = await asyncio.to_thread(run, "key_process", 12_000)
    layer = make_layer()
    viewers = [await look(layer, Snapshot(gather_seconds=0))]
    assert client.info("commandstats")["cmdstat_hscan"]["calls"] > 5
    for _ in range(3):
        # All of it is read again, and a newcomer reads it too.
        client.client_kill_filter(_type="pubsub")
        viewers.append(await look(make_layer(), Snapshot(gather_seconds=0)))
    text, _ = await asyncio.to_thread(publisher.communicate, "\n", timeout=120)
    truth = {(TOPIC, key): offset for key, offset in json.loads(text).items()}
    assert len(truth) > 10_000
    for viewer in viewers:
        await wait_until(lambda: viewer.items == truth)  # noqa: B023 - awaited at once


# Keys that are silent -------------------------------------------------------------------------------------------------


async def test_two_processes_remove_each_key_once(
    make_layer: Callable[[], RedisChannelLayer], client: redis.Redis
) -> None:
    """One of them has the lease; also more keys than go into one round trip are removed, and no others."""
    layers = [make_layer() for _ in range(3)]
    names = [f"k{number}" for number in range(230)]
    await publish(layers[0], *names, "here")
    make_silent(client, layers[0], *names)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(layers[0].redis_channel(TOPIC))
        assert pubsub.get_message(timeout=5) is None
        counts = await asyncio.gather(*(swept(layer) for layer in layers for _ in range(2)))
        assert sum(counts) == 230
        removed: Counter[str] = Counter()
        while (message := pubsub.get_message(timeout=0.2)) is not None:
            data = message["data"]
            for payload in split_batch(data) if data.startswith(BATCH_MARK) else [data]:
                publication = parse(payload)
                assert publication is not None
                relevance = decode_relevance(publication.relevance)
                assert relevance.is_removed
                removed[relevance.key] += 1
    assert removed == Counter(names)
    assert client.hkeys(layers[0].keys.topic_snapshot(TOPIC)) == [b"here"]
    # Only one of the three has the lease, and the others wait until it does not come again.
    make_silent(client, layers[0], "here")
    holder = client.get(layers[0].keys.topic_sweep(TOPIC)).decode()
    layers.sort(key=lambda layer: layer._get_layer()._id == holder)
    assert [await swept(layer) for layer in layers] == [0, 0, 1]
    assert client.pttl(layers[0].keys.topic_sweep(TOPIC)) > 50_000


async def test_another_process_goes_on_when_one_is_killed(
    make_layer: Callable[[], RedisChannelLayer], run: Callable[..., Any], client: redis.Redis
) -> None:
    """After the lease of the killed one."""
    layer = make_layer()
    short = Snapshot(absent_after_seconds=5, gather_seconds=0)
    first = await asyncio.to_thread(run, "view_process", 5)
    lease = layer.keys.topic_sweep(TOPIC)
    holder = await wait_until(lambda: client.get(lease))
    viewer = await look(layer, short)
    await publish(layer, "a", policy=short)
    await wait_until(lambda: (TOPIC, "a") in viewer.items)
    make_silent(client, layer, "a")
    await wait_until(lambda: not viewer.items)
    first.kill()
    await publish(layer, "b", policy=short)
    await wait_until(lambda: (TOPIC, "b") in viewer.items)
    make_silent(client, layer, "b")
    await wait_until(lambda: not viewer.items)
    assert client.get(lease) not in (None, holder)


async def test_a_key_that_is_published_while_it_is_removed_stays(
    make_layer: Callable[[], RedisChannelLayer], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found to be silent, and is published before it is removed."""
    layer, publisher = make_layer(), make_layer()
    await publish(layer, "gone", "back")
    make_silent(client, layer, "gone", "back")
    make_removals = Sweep._removals

    def removals(self: Sweep, found: list[bytes]) -> PublishCall:
        assert sorted(found) == [b"back", b"gone"]
        publisher.publish_now(PublishRequest(TOPIC, b"2", NO_HISTORY, keyed=Keyed(Relevance("back"), MINUTE)))
        return make_removals(self, found)

    monkeypatch.setattr(Sweep, "_removals", removals)
    assert await swept(layer) == 1
    assert client.hkeys(layer.keys.topic_snapshot(TOPIC)) == [b"back"]
    assert client.zrange(layer.keys.topic_seen(TOPIC), 0, -1) == [b"back"]
