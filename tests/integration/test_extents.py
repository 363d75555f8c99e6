"""Where topics publish, on a real Redis: known to all processes, whatever is lost, restarted or silent."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.broker.extents import EXTENT_BITS, Extent, decode_extent
from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import Keyed, PublishRequest
from realtime.broker.relevance import WORLD, Relevance
from realtime.broker.snapshot import Snapshot
from realtime.layer import RedisChannelLayer
from realtime.live.families import FamilyMap
from realtime.live.views import Family
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

HISTORY = HistoryPolicy(size=0)
FAMILY = Family(name="vehicles.*", snapshot=Snapshot(absent_after_seconds=120), history=HISTORY)
SBB, DB = "vehicles.sbb", "vehicles.db"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def layer(server: RedisServer) -> AsyncIterator[RedisChannelLayer]:
    """Of the process that looks."""
    layer = RedisChannelLayer([server.url])
    yield layer
    await layer.flush()


@pytest.fixture
async def family_map(layer: RedisChannelLayer) -> FamilyMap:
    return await layer.views.family_map(FAMILY)


def vehicle(topic: str, tile: int | None, *, policy: Snapshot = FAMILY.snapshot, **more: Any) -> PublishRequest:
    """A vehicle in the tile with this number from the west, on the equator; anywhere without one."""
    place = None if tile is None else ((tile << EXTENT_BITS) + 5, WORLD // 2)
    relevance = Relevance("tram", place, **more)
    return PublishRequest(topic, b"1", HISTORY, keyed=Keyed(relevance, policy, FAMILY.name))


def seen(family_map: FamilyMap, tile: int) -> set[str]:
    """The topics that a view of this tile follows."""
    x = tile << EXTENT_BITS
    return set(family_map.topics_in([(x, WORLD // 2, x + 10, WORLD // 2 + 10)]))


def hash_of(client: redis.Redis) -> str:
    (key,) = client.keys("*extents")
    return key.decode()  # type: ignore[no-any-return]


def registered(client: redis.Redis) -> dict[tuple[str, str], Extent]:
    """(topic, process) → extent, as it is in Redis."""
    fields = client.hgetall(hash_of(client))
    return {(topic, process): extent for topic, process, extent, _ in (decode_extent(*each) for each in fields.items())}


async def test_two_processes_publish_on_a_topic(
    family_map: FamilyMap, server: RedisServer, client: redis.Redis
) -> None:
    """A view anywhere between what either of them publishes follows the topic; another one does not."""
    program = f"""
import os
import django
django.setup()
from realtime.layer import RedisChannelLayer
from tests.integration.test_extents import SBB, vehicle
layer = RedisChannelLayer([{server.url!r}])
layer.publish_now(vehicle(SBB, 100))
child = os.fork()
if not child:
    layer.publish_now(vehicle(SBB, 110))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT, env=dict(os.environ))
        assert await process.wait() == 0
    await wait_until(lambda: seen(family_map, 100) == seen(family_map, 110) == {SBB})
    assert seen(family_map, 99) == seen(family_map, 111) == set()
    # Also the children, which their parents had registered nothing for.
    assert len(registered(client)) == 4


async def test_a_publication_inside_the_extent_is_not_registered_again(
    client: redis.Redis, server: RedisServer
) -> None:
    """Redis is written to when the extent grows, once for many publications; a removal needs none."""
    layer = RedisChannelLayer([server.url])
    await layer.publish_many([vehicle(SBB, 10), vehicle(SBB, 20), vehicle(DB, 30)])
    ((_, process),) = [name for name in registered(client) if name[0] == SBB]
    assert registered(client)[SBB, process][::2] == (10, 20)
    before = client.hgetall(hash_of(client))
    await layer.publish_many([vehicle(SBB, tile) for tile in (10, 15, 20)])
    await layer.publish(PublishRequest(SBB, b"null", HISTORY, keyed=Keyed(Relevance("x", is_removed=True), Snapshot())))
    assert client.hgetall(hash_of(client)) == before
    await layer.publish(vehicle(SBB, None))
    assert registered(client)[SBB, process] == Extent(0, 0, 255, 255)
    assert 0 < client.ttl(hash_of(client)) <= 1_800
    await layer.flush()


async def test_an_extent_shrinks_after_two_periods(
    client: redis.Redis, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a topic was published long ago, nobody follows it; keys that may be silent for ever stay there."""
    monkeypatch.setattr("realtime.broker.extents._period_seconds", lambda item: 0.05)
    layer = RedisChannelLayer([server.url])
    silent = Snapshot(absent_after_seconds=None)
    now: dict[str, tuple[int, ...]] = {}
    await layer.publish_many([vehicle(SBB, 10), vehicle(DB, 10, policy=silent)])

    async def has_shrunk() -> bool:
        await layer.publish_many([vehicle(SBB, 20), vehicle(DB, 20, policy=silent)])
        now.update({topic: extent[::2] for (topic, _), extent in registered(client).items()})
        return now[SBB] == (20, 20)

    assert not await has_shrunk()
    assert now[SBB] == (10, 20)
    async with asyncio.timeout(60):
        while not await has_shrunk():
            await asyncio.to_thread(time.sleep, 0.01)
    assert now[DB] == (10, 20)
    await layer.flush()


async def test_redis_is_wiped(layer: RedisChannelLayer, client: redis.Redis) -> None:
    """The first publication after that registers its topic again: it may be the only one for long."""
    publisher = RedisChannelLayer(layer.hosts)
    await publisher.publish(vehicle(SBB, 10))
    client.flushall()
    await publisher.publish(vehicle(SBB, 10))
    assert len(registered(client)) == 1
    client.flushall()
    await asyncio.to_thread(publisher.publish_now, vehicle(SBB, 10))
    assert len(registered(client)) == 1
    await publisher.flush()


async def test_a_lost_registration_does_not_fail_the_publication(
    layer: RedisChannelLayer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publication tries again after a while, and what was published before is not forgotten."""
    publisher = RedisChannelLayer(layer.hosts)
    await publisher.publish(vehicle(SBB, 10))
    key = hash_of(client)
    client.delete(key)
    client.set(key, "of another type")
    for _ in range(3):
        await publisher.publish(vehicle(SBB, 20))
        await asyncio.to_thread(publisher.publish_now, vehicle(SBB, 20))
    assert publisher.statistics().unregistered_count == 1, "not each publication is delayed by an attempt"
    monkeypatch.setattr(publisher._extents, "_retry_at", {})
    client.delete(key)
    await publisher.publish(vehicle(SBB, 20))
    ((_, extent),) = registered(client).items()
    assert extent[::2] == (10, 20)
    await publisher.flush()


async def test_publications_fail_once_while_redis_is_unavailable(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait for the registration first, and then for themselves; nor each for another attempt."""
    publisher = RedisChannelLayer([server.url])
    server.kill()
    with monkeypatch.context() as patch:
        patch.delattr("realtime.layer.channel_layer.publish_all_async")
        with pytest.raises(redis.ConnectionError):
            await publisher.publish(vehicle(SBB, 10))
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            await publisher.publish(vehicle(SBB, 10))
    assert publisher.statistics().unregistered_count == 1
    await publisher.flush()


async def test_threads_that_register_at_the_same_time(layer: RedisChannelLayer, client: redis.Redis) -> None:
    """The last one to reach Redis does not overwrite what another has added."""
    await asyncio.gather(
        *(asyncio.to_thread(layer.publish_now, vehicle(SBB, 100 + number)) for number in range(20)),
        *(layer.publish(vehicle(SBB, 100 - number)) for number in range(20)),
    )
    ((_, extent),) = registered(client).items()
    assert extent[::2] == (81, 119)


async def test_where_keys_stay_the_extents_of_ended_publishers_stay(
    client: redis.Redis, layer: RedisChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new publisher makes them its own; also those that others have added later."""
    forever = Snapshot(absent_after_seconds=None)
    first, second = RedisChannelLayer(layer.hosts), RedisChannelLayer(layer.hosts)
    first.publish_now(vehicle(SBB, 10, policy=forever))
    await layer.publish(vehicle(SBB, 20, policy=forever))
    second.publish_now(vehicle(SBB, 30, policy=forever))
    assert sorted(extent[::2] for extent in registered(client).values()) == [(10, 10), (10, 20), (10, 30)]
    # The next publication begins a new period.
    layer._extents._known[SBB].renew_at = 0
    await layer.publish(vehicle(SBB, 20, policy=forever))
    assert sorted(extent[::2] for extent in registered(client).values()) == [(10, 10), (10, 30), (10, 30)]
    await second.flush()
    await first.flush()


async def test_new_topics_share_what_was_read_of_ended_publishers(
    client: redis.Redis, layer: RedisChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole family is read once for many topics, in each period, and not for each of them."""
    monkeypatch.setattr("realtime.broker.extents._READ_SECONDS", 3_600)
    forever = Snapshot(absent_after_seconds=None)
    topics = [f"vehicles.{number}" for number in range(20)]

    def read_count() -> int:
        return client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]  # type: ignore[no-any-return]

    ended = RedisChannelLayer(layer.hosts)
    await ended.publish_many([vehicle(topic, 10, policy=forever) for topic in topics])
    before = read_count()
    for topic in topics[:10]:
        await layer.publish(vehicle(topic, 20, policy=forever))
    for topic in topics[10:]:
        await asyncio.to_thread(layer.publish_now, vehicle(topic, 20, policy=forever))
    assert read_count() == before + 1
    assert sorted(extent[::2] for extent in registered(client).values()) == [(10, 10)] * 20 + [(10, 20)] * 20
    # A new period finds what has been added meanwhile.
    await ended.publish_many([vehicle(topic, 30, policy=forever) for topic in topics])
    before = read_count()
    for topic in topics:
        layer._extents._known[topic].renew_at = 0
        await layer.publish(vehicle(topic, 20, policy=forever))
    assert read_count() == before + 1
    assert sorted(extent[::2] for extent in registered(client).values()) == [(10, 30)] * 40
    await ended.flush()


async def test_a_lost_connection_leaves_no_hole(
    layer: RedisChannelLayer, family_map: FamilyMap, client: redis.Redis
) -> None:
    """What was registered while the channel was not subscribed is read again."""
    called: list[float] = []
    family_map.on_change(lambda: called.append(time.monotonic()))
    publisher = RedisChannelLayer(layer.hosts)
    await publisher.publish(vehicle(SBB, 10))
    await wait_until(lambda: seen(family_map, 10) == {SBB})
    for number in range(5):
        client.client_kill_filter(_type="pubsub")
        await publisher.publish(vehicle(DB, 20 + number))
    await wait_until(lambda: seen(family_map, 20) == seen(family_map, 24) == {DB})
    await wait_until(lambda: called)
    assert seen(family_map, 10) == {SBB}
    await publisher.flush()


async def test_what_has_expired_is_ignored_and_removed(
    layer: RedisChannelLayer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what expired while nobody looked: processes come and go, but the hash stays while one of them publishes."""
    monkeypatch.setattr("realtime.live.families._EXPIRY_SECONDS", 0.01)
    publisher = RedisChannelLayer(layer.hosts)
    await publisher.publish(vehicle(SBB, 10))
    key = hash_of(client)
    soon = round(time.time() * 1000) + 1_500
    client.hset(key, "vehicles.old gone-1", f"10 0 10 255 {soon - 60_000}")
    client.hset(key, "vehicles.old going-1", f"10 0 10 255 {soon}")
    client.hset(key, "vehicles.new other-release", "v2 10 0 10 255")
    family_map = await layer.views.family_map(FAMILY)
    assert "vehicles.new" not in seen(family_map, 10)
    await wait_until(lambda: seen(family_map, 10) == {SBB})
    await wait_until(lambda: client.hlen(key) == 2)
    assert {field.split()[0] for field in client.hkeys(key)} == {b"vehicles.sbb", b"vehicles.new"}
    await publisher.flush()


async def test_what_was_renewed_meanwhile_is_not_removed(layer: RedisChannelLayer, client: redis.Redis) -> None:
    """A process that was silent for long may publish again just when its registration is removed."""
    publisher = RedisChannelLayer(layer.hosts)
    await publisher.publish(vehicle(SBB, 10))
    ((field, value),) = client.hgetall(hash_of(client)).items()
    client.hset(hash_of(client), "vehicles.old gone-1", "old")
    await layer._get_layer().remove_extents(FAMILY.name, {field: b"older", b"vehicles.old gone-1": b"old"})
    assert client.hgetall(hash_of(client)) == {field: value}
    await publisher.flush()
