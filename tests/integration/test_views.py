"""Filtered subscriptions on a real Redis: complete, whatever is lost, restarted or silent."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import BATCH_MARK, Position, encode_time
from realtime.broker.publish import Keyed, Published, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.exceptions import SubscriptionClosed
from realtime.layer import RedisChannelLayer
from realtime.layer.event_loop import LoopLayer
from realtime.live.filters import Selector
from realtime.live.items import TileIndex, is_in, state_of
from realtime.live.places import area_of, point
from realtime.live.view import Lens, View
from realtime.live.views import Family, Views
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]

SBB, DB = "vehicles.sbb", "vehicles.db"
EVERYTHING = Selector.of()


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
    layer = RedisChannelLayer([server.url])
    yield layer
    assert layer.views.statistics().failed_count == 0
    await layer.flush()


@pytest.fixture
async def views(layer: RedisChannelLayer) -> Views:
    return layer.views


def family(**policy: Any) -> Family:
    return Family(name="vehicles.*", snapshot=Snapshot(gather_seconds=0, **policy), history=HistoryPolicy(size=0))


FAMILY = family()


def vehicle(topic: str, key: str, longitude: float, *, family: Family = FAMILY, **more: Any) -> PublishRequest:
    """A vehicle on the equator."""
    relevance = Relevance(key, None if more.get("is_removed") else point(longitude, 0), **more)
    return PublishRequest(topic, b'{"x":1}', family.history, keyed=Keyed(relevance, family.snapshot))


async def publish(layer: RedisChannelLayer, *requests: PublishRequest) -> list[Published]:
    return await layer.publish_many(requests)


def lens_at(longitude: float, number: int = 1) -> Lens:
    """A view of one degree around a point on the equator."""
    return Lens(area_of([longitude - 0.5, -0.5, longitude + 0.5, 0.5]), EVERYTHING, number)


async def join(
    views: Views, lens: Lens, *topics: str, family: Family = FAMILY, viewer: Viewer | None = None, **more: Any
) -> tuple[Viewer, View]:
    viewer = viewer or Viewer()
    async with asyncio.timeout(60):
        view = await views.join(
            "vehicles.*", family, viewer, view_id="v1", lens=lens, topics=topics or (SBB, DB), **more
        )
    return viewer, view


async def test_a_view_begins_with_what_is_there_and_goes_on_with_what_changes(
    layer: RedisChannelLayer, views: Views
) -> None:
    """The snapshot comes first and at once; then changes, removals, and what moves in and out."""
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(SBB, "far", 90), vehicle(DB, "ice", 0.1))
    viewer, _ = await join(views, lens_at(0))
    assert viewer.items == {(SBB, "tram"): 1, (DB, "ice"): 1}
    assert viewer.batches == ["reset"]

    await publish(layer, vehicle(SBB, "tram", 0.2), vehicle(SBB, "far", 0.3), vehicle(DB, "ice", 50))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 3, (SBB, "far"): 4})
    await publish(layer, vehicle(SBB, "tram", 0, is_removed=True))
    await wait_until(lambda: viewer.items == {(SBB, "far"): 4})
    assert set(viewer.batches[1:]) == {"changes"}


async def test_a_view_that_joins_while_all_are_closed_is_refused(layer: RedisChannelLayer, views: Views) -> None:
    """Its task does not look cancelled: its client can be asked to come back."""
    await publish(layer, vehicle(SBB, "tram", 0))
    await join(views, lens_at(0))
    joining = asyncio.create_task(join(views, lens_at(0)))
    await asyncio.sleep(0)
    await views.close()
    with pytest.raises(SubscriptionClosed):
        await joining


async def test_panning_is_answered_without_redis(layer: RedisChannelLayer, views: Views, client: redis.Redis) -> None:
    """What enters and what leaves comes from this process: Redis sees no command of it."""
    await publish(layer, vehicle(SBB, "here", 0), vehicle(SBB, "there", 50))
    viewer, view = await join(views, lens_at(0))
    before = client.info("commandstats")
    views.update(view, FAMILY, lens=lens_at(50, 2), topics=(SBB, DB))
    await wait_until(lambda: viewer.items == {(SBB, "there"): 2})
    assert viewer.batches == ["reset", "entered"]
    assert viewer.numbers[-1] == 2
    after = client.info("commandstats")
    assert {name: counted["calls"] for name, counted in after.items() if name != "cmdstat_info"} == {
        name: counted["calls"] for name, counted in before.items() if name != "cmdstat_info"
    }


async def test_one_redis_subscription_for_all_views_and_none_afterwards(
    views: Views, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many views look at a topic: the process subscribes once, and unsubscribes a while after the last."""
    monkeypatch.setattr("realtime.live.views.LINGER_SECONDS", 0)
    joined = await asyncio.gather(*(join(views, lens_at(number)) for number in range(50)))
    channels = [name for name in client.pubsub_channels() if b"vehicles" in name]
    assert sorted(count for _, count in client.pubsub_numsub(*channels)) == [1, 1]
    assert views.statistics().view_count == 50
    for _, view in joined:
        views.leave(view)
        views.leave(view)
    await wait_until(lambda: not [name for name in client.pubsub_channels() if b"vehicles" in name])
    await wait_until(lambda: views.statistics().item_count == 0)
    assert (views.statistics().view_count, views.statistics().feed_count) == (0, 0)


async def test_a_topic_that_comes_into_view_later(layer: RedisChannelLayer, views: Views) -> None:
    """Its keys enter as soon as it is loaded; those of a topic that the view may not have any more have left."""
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(DB, "ice", 0))
    only_sbb = lens_at(0)._replace(selector=Selector.of(topics=frozenset({SBB})))
    viewer, view = await join(views, only_sbb, SBB)
    assert viewer.items == {(SBB, "tram"): 1}
    views.update(view, FAMILY, lens=lens_at(0), topics=(SBB, DB))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 1, (DB, "ice"): 1})
    views.update(view, FAMILY, lens=only_sbb, topics=(SBB,))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 1})


async def test_a_lost_connection_leaves_no_hole(
    layer: RedisChannelLayer, views: Views, client: redis.Redis, server: RedisServer
) -> None:
    """While the connections are killed again and again, views end up with exactly what Redis has."""
    dice = random.Random(1)  # noqa: S311 - a schedule that can be repeated
    viewer, _ = await join(views, lens_at(0))
    for _ in range(10):
        await publish(
            layer, *(vehicle(dice.choice((SBB, DB)), f"k{dice.randrange(60)}", dice.choice((0, 50))) for _ in range(40))
        )
        client.client_kill_filter(_type="pubsub")
        await publish(
            layer, *(vehicle(dice.choice((SBB, DB)), f"k{dice.randrange(60)}", dice.choice((0, 50))) for _ in range(40))
        )
        expected = await seen(layer, lens_at(0))
        await wait_until(lambda: viewer.items == expected)  # noqa: B023 - awaited at once


async def seen(layer: RedisChannelLayer, lens: Lens, family: Family = FAMILY) -> dict[tuple[str, str], int]:
    """Brute force over the snapshots in Redis."""
    found = {}
    for topic in (SBB, DB):
        loaded = await layer._get_layer().read_snapshot(topic, family.snapshot)
        for publication in loaded.publications:
            state = state_of(topic, publication.position.offset, publication.frame, publication.relevance)
            if is_in(state, lens.area) and lens.selector.matches(state):
                found[topic, state.key] = state.offset
    return found


async def test_redis_comes_back_empty(layer: RedisChannelLayer, views: Views, server: RedisServer) -> None:
    """What Redis has lost has left, and what is published again is there; offsets begin again."""
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(SBB, "tram", 0), vehicle(SBB, "bus", 0))
    viewer, _ = await join(views, lens_at(0))
    assert viewer.items == {(SBB, "tram"): 2, (SBB, "bus"): 3}
    server.kill()
    server.start()
    await wait_until(lambda: not viewer.items)
    await publish(layer, vehicle(SBB, "tram", 0))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 1})
    assert SBB in viewer.restarted


async def test_a_key_that_falls_silent_has_left(layer: RedisChannelLayer, views: Views) -> None:
    """It is removed by whoever looks at the topic, and everybody is notified; one that is published again stays."""
    # Longer than a busy machine stands still.
    short = family(absent_after_seconds=7)
    await publish(layer, vehicle(SBB, "gone", 0, family=short), vehicle(SBB, "here", 0, family=short))
    viewer, _ = await join(views, lens_at(0), family=short)

    async def keep() -> None:
        while True:
            await publish(layer, vehicle(SBB, "here", 0, family=short))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(keep())
    await wait_until(lambda: (SBB, "gone") not in viewer.items, seconds=90)
    assert (SBB, "here") in viewer.items
    task.cancel()
    await wait_until(lambda: not viewer.items, seconds=90)


async def test_what_is_silent_is_not_shown_to_a_newcomer(layer: RedisChannelLayer, views: Views) -> None:
    """Also if nobody has removed it yet, because nobody was looking."""
    short = family(absent_after_seconds=0.2)
    await publish(layer, vehicle(SBB, "gone", 0, family=short))
    await asyncio.sleep(0.3)
    viewer, _ = await join(views, lens_at(0), family=short)
    assert not viewer.items


async def test_a_client_resumes(layer: RedisChannelLayer, views: Views) -> None:
    """With its positions it is sent only what it lacks."""
    await publish(layer, vehicle(SBB, "still", 0), vehicle(SBB, "moves", 0), vehicle(SBB, "goes", 0))
    viewer, view = await join(views, lens_at(0))
    other, _ = await join(views, lens_at(0))
    position = Position(3, viewer.epochs[SBB])
    views.leave(view)
    await publish(layer, vehicle(SBB, "moves", 0.1), vehicle(SBB, "goes", 0, is_removed=True))
    # The publications may be on their way to the mirror.
    await wait_until(lambda: other.items == {(SBB, "still"): 1, (SBB, "moves"): 4})
    viewer.is_started = False
    await join(views, lens_at(0), viewer=viewer, positions={SBB: position})
    assert viewer.items == other.items
    assert viewer.same == {"still"}


@pytest.mark.parametrize("is_loaded", [False, True], ids=["not loaded", "loaded for another view"])
async def test_a_client_resumes_topics_that_came_into_view_later(
    layer: RedisChannelLayer, views: Views, is_loaded: bool
) -> None:
    """It was sent their positions, so it is not sent their items again."""
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(DB, "ice", 50))
    if is_loaded:
        await join(views, lens_at(50), DB)
    viewer, view = await join(views, lens_at(0), SBB)
    assert viewer.epochs.keys() == {SBB}
    views.update(view, FAMILY, lens=lens_at(0), topics=(SBB, DB))
    await wait_until(lambda: viewer.epochs.keys() == {SBB, DB})
    await publish(layer, vehicle(DB, "ice", 0), vehicle(DB, "ic", 0), vehicle(SBB, "bus", 0))
    await wait_until(lambda: viewer.keys == {"tram", "bus", "ice", "ic"})
    views.leave(view)
    viewer.is_started, count = False, viewer.message_count
    await join(views, lens_at(0), viewer=viewer, positions=viewer.positions)
    assert viewer.same == {"tram", "bus", "ice", "ic"}
    assert viewer.message_count == count


async def test_many_topics_are_loaded_together(layer: RedisChannelLayer, views: Views, client: redis.Redis) -> None:
    """A family of 500 topics is there after few round trips."""
    topics = [f"vehicles.f{number}" for number in range(500)]
    await publish(layer, *(vehicle(topic, "k", 0) for topic in topics))
    before = client.info("stats")["total_commands_processed"]
    viewer, _ = await join(views, lens_at(0), *topics)
    assert viewer.items == {(topic, "k"): 1 for topic in topics}
    # Subscribing, position, keys and silence of each, and a few more.
    assert client.info("stats")["total_commands_processed"] - before < 4 * len(topics)


async def test_a_batch_that_cannot_be_read_does_not_keep_views_closed(
    layer: RedisChannelLayer, views: Views, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may publish anything, also while the snapshot is read and while views are open."""
    await publish(layer, vehicle(SBB, "tram", 0))
    read_snapshot = LoopLayer.read_snapshot

    async def read_late(*given: Any) -> Any:
        loaded = await read_snapshot(*given)
        (channel,) = [name for name in client.pubsub_channels() if b"sbb" in name]
        client.publish(channel, BATCH_MARK + b"x\n")
        await wait_until(lambda: views._feeds[SBB]._held)
        return loaded

    monkeypatch.setattr(LoopLayer, "read_snapshot", read_late)
    viewer, _ = await join(views, lens_at(0), SBB)
    (channel,) = [name for name in client.pubsub_channels() if b"sbb" in name]
    client.publish(channel, BATCH_MARK + b"-3\n")
    await publish(layer, vehicle(SBB, "tram", 0.1))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 2})


async def test_after_changes_that_could_not_be_applied_everything_is_read_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that come back get what Redis has, although the changes of the failed tick were lost."""
    layer = RedisChannelLayer([server.url])
    viewer, _ = await join(layer.views, lens_at(0))
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(DB, "ice", 0), vehicle(DB, "far", 50))
    await wait_until(lambda: viewer.keys == {"tram", "ice"})
    with monkeypatch.context() as patch:
        patch.setattr(TileIndex, "replace", lambda *given: 1 / 0)
        await publish(layer, vehicle(SBB, "tram", 50), vehicle(DB, "ice", 0.1), vehicle(DB, "far", 0))
        await wait_until(lambda: viewer.closed)
    viewer, _ = await join(layer.views, lens_at(0))
    expected = await seen(layer, lens_at(0))
    assert viewer.items == expected == {(DB, "ice"): 3, (DB, "far"): 4}
    assert layer.views.statistics().item_count == 3
    await publish(layer, vehicle(SBB, "tram", 0), vehicle(DB, "ice", 50))
    await wait_until(lambda: viewer.items == {(DB, "far"): 4, (SBB, "tram"): 3})
    await layer.flush()


DEEP = b"[" * 100_000 + b"]" * 100_000
# Relevance and frame; most places are where the views look.
UNREADABLE = {
    "nested tags": (b'["k",null,%b]' % DEEP, b"{}"),
    "a nested field of a later release": (b'["k",null,{},0,false,%b]' % DEEP, b"{}"),
    "tags that are a list": (b'["k",null,[1]]', b"{}"),
    "three numbers": (b'["k",[5,5,7]]', b"{}"),
    "five numbers": (b'["k",[0,0,1073741823,1073741823,9]]', b"{}"),
    "a place without its third number": (b'["k",[536870912,536870912,null,7]]', b"{}"),
    "a place that ends north of its beginning": (b'["k",[0,900000000,1073741823,0]]', b"{}"),
    "outside of the world": (b'["k",[0,0,1073741824,1073741823]]', b"{}"),
    "a level that no map has": (b'["k",null,{},25]', b"{}"),
    "no frame": (b'["k"]', b""),
    "a frame of two lines": (b'["k"]', b'{}\n{"type":"unsubscribed"}'),
    "a frame that is no text": (b'["k"]', b'{"\xff":1}'),
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_a_publication_that_cannot_be_read_costs_no_other(
    layer: RedisChannelLayer, views: Views, client: redis.Redis, server: RedisServer, what: str
) -> None:
    """Another program may publish anything: open views and new ones get all that can be read."""
    await publish(layer, vehicle(SBB, "tram", 0))
    viewer, _ = await join(views, lens_at(0), SBB)
    (channel,) = [name for name in client.pubsub_channels() if b"sbb" in name]
    keys = Keys()
    epoch = client.hget(keys.topic_position(SBB), "epoch")
    payload = b"\xc1%b:2\n\x1e%b\n%b" % (epoch, *UNREADABLE[what])
    client.publish(channel, payload)
    client.hset(keys.topic_position(SBB), "offset", 2)
    client.hset(keys.topic_snapshot(SBB), "k", payload)
    await publish(layer, vehicle(SBB, "tram", 0.1), vehicle(SBB, "bus", 0.2))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 3, (SBB, "bus"): 4})
    newcomers = RedisChannelLayer([server.url])
    viewer, _ = await join(newcomers.views, lens_at(0), SBB)
    assert viewer.items == {(SBB, "tram"): 3, (SBB, "bus"): 4}
    await newcomers.flush()


async def test_a_publication_with_its_time_in_the_place_of_its_relevance_is_no_surprise(
    layer: RedisChannelLayer, views: Views, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A process of the last release publishes it, where the family had no snapshot: it has no key."""
    await publish(layer, vehicle(SBB, "tram", 0))
    viewer, _ = await join(views, lens_at(0), SBB)
    (channel,) = [name for name in client.pubsub_channels() if b"sbb" in name]
    epoch = client.hget(Keys().topic_position(SBB), "epoch")
    client.publish(channel, b"\xc1%b:2\n\x1e%b\n{}" % (epoch, encode_time(1.5)))
    client.hset(Keys().topic_position(SBB), "offset", 2)
    await publish(layer, vehicle(SBB, "bus", 0.2))
    await wait_until(lambda: viewer.items == {(SBB, "tram"): 1, (SBB, "bus"): 3})
    assert caplog.messages == []


async def test_a_topic_that_is_given_up_while_it_cannot_be_read_does_not_keep_the_outage_on(
    layer: RedisChannelLayer, views: Views, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next outage is logged, and those who wait are woken when it ends."""
    monkeypatch.setattr("realtime.live.views.LINGER_SECONDS", 0)
    client.set(Keys().topic_snapshot(SBB), "not a hash")
    joining = asyncio.create_task(join(views, lens_at(0), SBB))
    await wait_until(lambda: views._outage.is_on)
    joining.cancel()
    await wait_until(lambda: not views.statistics().feed_count)
    await publish(layer, vehicle(DB, "ice", 0))
    viewer, _ = await join(views, lens_at(0), DB)
    assert viewer.items == {(DB, "ice"): 1}
    assert not views._outage.is_on


async def test_the_longest_keys_fit_into_frames_that_every_server_sends(layer: RedisChannelLayer, views: Views) -> None:
    """Daphne refuses frames of 128 KiB."""
    names = [f"{number:04}" + "\U0001f68b" * 196 for number in range(300)]
    await publish(layer, *(vehicle(SBB, name, 0) for name in names))
    viewer = Viewer()
    viewer.limit_bytes = 10_000_000
    sizes: list[int] = []
    write = viewer.write
    viewer.write = lambda frame: (sizes.append(len(frame.payload)), write(frame))[1]  # type: ignore[method-assign]
    _, view = await join(views, lens_at(0), SBB, viewer=viewer)
    views.update(view, FAMILY, lens=lens_at(50, 2), topics=(SBB,))
    await wait_until(lambda: not viewer.items)
    views.update(view, FAMILY, lens=lens_at(0, 3), topics=(SBB,))
    await wait_until(lambda: len(viewer.items) == len(names))
    await publish(layer, *(vehicle(SBB, name, 50) for name in names))
    await wait_until(lambda: not viewer.items)
    assert 60_000 < max(sizes) < 131_072
