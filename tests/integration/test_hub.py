"""The hub on a real Redis: while publications come at full speed, connections die and sockets stall."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from realtime.broker import publish as publish_module
from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position
from realtime.broker.publish import PublishRequest
from realtime.exceptions import SubscriptionClosed
from realtime.hub.hub import Hub, Membership
from realtime.hub.sinks import AsgiSink, RawSink, Sink
from realtime.layer import RedisChannelLayer
from realtime.protocol.close_codes import CloseCode
from realtime.statistics.counting import counted
from realtime.statistics.histograms import percentile
from tests.support.redis_server import RedisServer
from tests.support.topic_clients import Client, ClientSink, ClientWriter
from tests.support.topic_process import publishing
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.database_independent]

TOPIC = "news.today"


class NumberedClient(Client):
    """A client of publications whose data are their offsets."""

    def check(self, data: Any, position: Position) -> None:
        assert data == position.offset

    @property
    def offsets(self) -> list[int]:
        return [offset for _, offset in self.received]


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
    await layer.flush()


@pytest.fixture
async def hub(layer: RedisChannelLayer) -> AsyncIterator[Hub]:
    hub = layer.hub
    yield hub
    assert hub.statistics().failed_count == 0


async def join(hub: Hub, client: Client, *, is_raw: bool = True) -> Membership:
    """Let a client join from the position that it gives."""
    sink: Sink = ClientSink(client)
    if is_raw:
        sink = RawSink(ClientWriter(client), limit_bytes=1_048_576, on_overflow=lambda: None)
    async with asyncio.timeout(60):
        client.membership = await hub.join(TOPIC, sink, since=client.since)
    return client.membership


async def publish(layer: RedisChannelLayer, *data: bytes, history_size: int = 100) -> Position:
    policy = HistoryPolicy(size=history_size)
    published = await layer.publish_many([PublishRequest(TOPIC, each, policy) for each in data])
    return published[-1].position


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


# Coming and going -----------------------------------------------------------------------------------------------------


async def test_whoever_comes_back_gets_what_was_missed_while_publications_keep_coming(
    hub: Hub, server: RedisServer
) -> None:
    """While another process publishes at full speed, clients leave and resume: each gets each number once."""
    count = 6_000
    stays = NumberedClient(None)
    await join(hub, stays)

    async def come_and_go(number: int) -> list[int]:
        chance = random.Random(number)  # noqa: S311 - a schedule that can be repeated
        offsets: list[int] = []
        position = stays.position
        while not offsets or offsets[-1] < count:
            client = NumberedClient(position)
            try:
                membership = await join(hub, client, is_raw=chance.random() < 0.5)
            except RedisError:
                # A machine that is busy with other things: nothing was sent, and the client comes again.
                assert not client.offsets
                continue
            await asyncio.sleep(chance.random() * 0.05)
            hub.leave(membership)
            client.has_left = True
            assert client.recovered == [True]
            offsets += client.offsets
            position = client.position
            await asyncio.sleep(chance.random() * 0.02)
        return offsets

    async with publishing(server.url, TOPIC, count, history_size=count) as publisher:
        publisher.start()
        async with asyncio.timeout(60):
            for offsets in await asyncio.gather(*(come_and_go(number) for number in range(10))):
                assert offsets == list(range(1, count + 1))
    assert stays.offsets == list(range(1, count + 1))
    assert stays.recovered == [False]
    assert hub.statistics().healed_count == 0


async def test_joiners_are_no_burden_to_members(hub: Hub, server: RedisServer) -> None:
    """With a history far shorter than a round trip, joiners may be notified of a gap; members never are."""
    turn_count, count = 20, 1_000
    stays = NumberedClient(None)
    await join(hub, stays)
    async with publishing(server.url, TOPIC, count, history_size=5) as publisher:
        for _ in range(turn_count):
            publisher.start()
            for _ in range(5):
                since = random.choice([None, stays.position])  # noqa: S311 - any will do
                hub.leave(await join(hub, NumberedClient(since)))
    await wait_until(lambda: len(stays.offsets) >= turn_count * count)
    assert stays.offsets == list(range(1, turn_count * count + 1))
    assert stays.recovered == [False]


async def test_who_comes_back_past_the_history_is_told_what_is_lost_and_gets_what_is_kept(
    hub: Hub, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """From a position within the history it gets all; without one, or with an impossible one, only later ones."""
    position = await publish(layer, *numbered(1, 10), history_size=5)
    kept = [6, 7, 8, 9, 10]
    for since, recovered, lost_count, offsets in (
        (Position(5, position.epoch), True, None, kept),
        (Position(10, position.epoch), True, None, []),
        (Position(4, position.epoch), False, 1, kept),
        (Position(0, position.epoch), False, 5, kept),
        (Position(11, position.epoch), False, None, []),
        (Position(10, "another"), False, None, kept),
        (Position(3, "another"), False, None, kept),
        (Position(3, ""), False, None, kept),
        (None, False, None, []),
    ):
        for is_first in (True, False):
            joiner, other = NumberedClient(since), NumberedClient(None)
            memberships = [] if is_first else [await join(hub, other)]
            memberships.append(await join(hub, joiner))
            assert joiner.recovered == [recovered]
            assert joiner.lost_counts == [lost_count]
            assert joiner.offsets == offsets
            assert joiner.position == position
            for membership in memberships:
                hub.leave(membership)
    assert hub.statistics().topic_count == 0
    await wait_until(lambda: client.pubsub_numsub(layer.redis_channel(TOPIC))[0][1] == 0)


async def test_a_wiped_redis_is_told_to_members_and_to_those_who_come_back(
    hub: Hub, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """The epoch is new; both clients get the publications of the new counter from the first one on."""
    stays, away = NumberedClient(None), NumberedClient(None)
    await join(hub, stays)
    hub.leave(await join(hub, away))
    await publish(layer, *numbered(1, 5))
    client.flushall()
    position = await publish(layer, *numbered(1, 3))
    await wait_until(lambda: stays.position == position)
    assert stays.recovered == [False, False]
    assert stays.offsets == [1, 2, 3, 4, 5, 1, 2, 3]
    back = NumberedClient(away.position)
    await join(hub, back)
    assert (back.recovered, back.offsets, back.position) == ([False], [1, 2, 3], position)
    assert hub.statistics().unrecovered_count == 1


async def test_several_topics_of_one_socket_are_one_stream_each(hub: Hub, layer: RedisChannelLayer) -> None:
    """One sink on many topics gets all publications of each, and none of topics that it has left."""
    frames: list[bytes] = []

    class Everything(ClientSink):
        def write(self, frame: Any) -> None:
            frames.extend(frame.payload.split(b"\n"))

    sink = Everything(Client(None))
    memberships = [await hub.join(f"news.{number}", sink) for number in range(10)]
    hub.leave(memberships[0])
    await layer.publish_many([PublishRequest(f"news.{number % 10}", b"0", HistoryPolicy()) for number in range(100)])
    await wait_until(lambda: sum(b'"message"' in frame for frame in frames) == 90)
    by_topic = Counter(frame.partition(b',"offset"')[0] for frame in frames if b'"message"' in frame)
    assert set(by_topic.values()) == {10}
    assert len(by_topic) == 9


async def test_a_cancelled_joiner_leaves_nothing_behind(
    hub: Hub, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """It may be cancelled at any moment: neither Redis, the hub nor the event loop keeps anything of it."""
    for ticks in range(40):
        joiner = NumberedClient(Position(0, "x"))
        joining = asyncio.create_task(join(hub, joiner))
        for _ in range(ticks):
            await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        if not joining.cancelled():
            hub.leave(joining.result())
        assert hub.statistics().topic_count == 0
        await wait_until(lambda: client.pubsub_numsub(layer.redis_channel(TOPIC))[0][1] == 0)
    # A reading that nobody waits for any more ends by itself.
    await wait_until(
        lambda: (
            {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
            == {"multiplexer", "multiplexer sender", "multiplexer probe"}
        )
    )


async def test_joiners_wait_for_redis_and_are_told_when_the_hub_is_closed(server: RedisServer) -> None:
    """They wait while Redis is unavailable; when the hub is closed, they get an error."""
    layer = RedisChannelLayer([server.url])
    server.kill()
    joining = [asyncio.create_task(join(layer.hub, NumberedClient(None))) for _ in range(3)]
    await wait_until(lambda: layer.hub.statistics().topic_count == 1)
    await layer.flush()
    for each in await asyncio.gather(*joining, return_exceptions=True):
        assert isinstance(each, SubscriptionClosed)


# Lost connections -----------------------------------------------------------------------------------------------------


async def test_members_get_everything_once_while_connections_are_killed(
    hub: Hub, server: RedisServer, client: redis.Redis
) -> None:
    """The subscription is killed repeatedly under full load; members and joiners get everything, in order."""
    turn_count, count = 20, 1_500
    members = [NumberedClient(None) for _ in range(4)]
    for number, member in enumerate(members):
        await join(hub, member, is_raw=number % 2 == 0)
    last = turn_count * count
    async with publishing(server.url, TOPIC, count, history_size=last, batch_size=20) as publisher:
        for _ in range(turn_count):
            position = members[0].position
            publisher.start()
            await wait_until(lambda position=position: members[0].position != position)
            client.client_kill_filter(_type="pubsub", skipme=True)
            late = NumberedClient(members[0].position)
            members.append(late)
            await join(hub, late)
            assert late.recovered == [True]
    await wait_until(lambda: {member.position.offset for member in members if member.position} == {last})
    for member in members:
        first = member.since.offset + 1 if member.since is not None else 1
        assert member.offsets == list(range(first, last + 1))
    assert hub.statistics().unrecovered_count == 0
    assert hub.statistics().healed_count > 0


async def test_a_loss_beyond_history_is_told(hub: Hub, layer: RedisChannelLayer, client: redis.Redis) -> None:
    """After an outage longer than the history, members are notified of the loss and get what is kept."""
    member = NumberedClient(None)
    await join(hub, member)
    await publish(layer, *numbered(1, 3))
    await wait_until(lambda: member.offsets == [1, 2, 3])
    client.client_kill_filter(_type="pubsub", skipme=True)
    # Before the event loop sees that the connection is gone.
    layer.publish_many_now([PublishRequest(TOPIC, each, HistoryPolicy(size=5)) for each in numbered(4, 20)])
    await wait_until(lambda: member.recovered == [False, False])
    await publish(layer, b"21", history_size=5)
    await wait_until(lambda: member.offsets[-1] == 21)
    assert member.lost_counts == [None, 12]
    assert member.offsets == [1, 2, 3, *range(16, 22)]


async def test_a_restarted_redis_heals_by_itself(layer: RedisChannelLayer, server: RedisServer) -> None:
    """Redis has lost its data: members are notified, and get later publications."""
    member = NumberedClient(None)
    await join(layer.hub, member)
    await publish(layer, *numbered(1, 3))
    await wait_until(lambda: member.offsets == [1, 2, 3])
    server.kill()
    server.start()
    await wait_until(lambda: member.recovered == [False, False])
    await publish(layer, b"1")
    await wait_until(lambda: member.offsets == [1, 2, 3, 1])


# Sockets that stall ---------------------------------------------------------------------------------------------------


class StallingServer:
    """The server's end of one ASGI connection, whose client reads nothing while `stalled`."""

    def __init__(self) -> None:
        self.events: list[MutableMapping[str, Any]] = []
        self.reads = asyncio.Event()

    async def send(self, event: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.events.append(event)


async def test_a_stalled_socket_delays_nobody_and_is_closed_at_the_limit(hub: Hub, layer: RedisChannelLayer) -> None:
    """One of a hundred reads nothing: the others get everything meanwhile; it is closed as slow, once, and counted."""
    server = StallingServer()
    limit_bytes = 100_000

    def close_slow() -> None:
        hub.count_slow()
        hub.leave(membership)
        sink.close(CloseCode.SLOW, "reads too slowly")

    sink = AsgiSink(server.send, limit_bytes=limit_bytes, on_overflow=close_slow)
    membership = await hub.join(TOPIC, sink)
    others = [NumberedClient(None) for _ in range(99)]
    for number, other in enumerate(others):
        await join(hub, other, is_raw=number % 2 == 0)
    number = 0
    while hub.statistics().slow_count == 0:
        await publish(layer, *numbered(number + 1, number + 100))
        number += 100
        await wait_until(lambda last=number: {each.position.offset for each in others if each.position} == {last})
    assert hub.statistics().membership_count == 99
    frame_bytes = len(b'{"type":"message","topic":"news.today","offset":1000,"data":1000}')
    assert limit_bytes / frame_bytes * 0.8 < number < limit_bytes / frame_bytes * 1.5
    await publish(layer, *numbered(number + 1, number + 100))
    await wait_until(lambda: {each.position.offset for each in others if each.position} == {number + 100})
    assert server.events == []
    server.reads.set()
    await wait_until(lambda: len(server.events) == 2)
    assert [event["type"] for event in server.events] == ["websocket.send", "websocket.close"]
    assert server.events[1]["code"] == CloseCode.SLOW
    assert hub.statistics().slow_count == 1


# What is counted ------------------------------------------------------------------------------------------------------


async def test_resumes_gaps_and_the_way_to_sockets_are_counted(
    hub: Hub, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """Each once: a resume without a loss, one with a loss, and a gap; and how long a publication took."""
    before, counted_before = hub.statistics(), counted()
    member = NumberedClient(None)
    await join(hub, member)
    position = await publish(layer, *numbered(1, 3), history_size=5)
    await wait_until(lambda: member.offsets == [1, 2, 3])
    for since in (Position(2, position.epoch), Position(3, position.epoch)):
        await join(hub, NumberedClient(since))
    await publish(layer, *numbered(4, 20), history_size=5)
    await wait_until(lambda: member.offsets[-1] == 20)
    await join(hub, NumberedClient(Position(3, position.epoch)))
    client.client_kill_filter(_type="pubsub", skipme=True)
    await wait_until(lambda: hub.statistics().healed_count == 1)
    after = hub.statistics()
    assert after.resumed_count - before.resumed_count == 3
    assert after.unresumed_count - before.unresumed_count == 1
    assert after.gap_count - before.gap_count == 1
    buckets = {
        int(key[-1]): number - counted_before[key]
        for key, number in counted().items()
        if key[0] == "publications.socket_seconds" and number != counted_before[key]
    }
    assert 1 <= sum(buckets.values()) <= 20
    longest = percentile(buckets, 1.0)
    assert longest is not None
    assert longest < 10
    published = ("publications.published",)
    assert counted()[published] - counted_before[published] == 20


async def test_the_time_of_a_publication_is_encrypted_with_it_and_no_part_of_its_frame(server: RedisServer) -> None:
    """A layer with a key reads it; who has no key sees a token."""
    layer = RedisChannelLayer([server.url], symmetric_encryption_keys=["secret"])
    before = counted()
    member = NumberedClient(None)
    await join(layer.hub, member)
    for number in range(1, 4):
        publish_module._timing = publish_module._Timing()
        await publish(layer, b"%d" % number)
        # One after another: publications that arrive together are observed once.
        await wait_until(lambda: len(member.offsets) == number)  # noqa: B023
    assert member.offsets == [1, 2, 3]
    assert sum(counted().values()) - sum(before.values()) == 6
    with redis.Redis.from_url(server.url) as client:
        kept = client.lrange(layer.keys.topic_history(TOPIC), 0, -1)
    assert len(kept) == 3
    assert all(b"\x1e" in payload and b"@" not in payload for payload in kept)
    await layer.flush()


async def test_at_most_twenty_publications_a_second_carry_their_time(layer: RedisChannelLayer) -> None:
    """The first of a call that is due; all others are as short as before."""
    timing = publish_module._Timing()
    assert [timing.is_due() for _ in range(100)].count(True) == 1
    assert publish_module.TIMED_EVERY_SECONDS == 0.05


@pytest.mark.parametrize("line", [b"@" + b"9" * 5000, b"@" + b"9" * 400, b"@", b"@-1", b"@\xff", b"", b"[1]"])
async def test_a_strange_time_of_a_publication_does_no_harm(
    hub: Hub, layer: RedisChannelLayer, client: redis.Redis, line: bytes
) -> None:
    """Any program can publish on the channel."""
    member = NumberedClient(None)
    await join(hub, member)
    position = await publish(layer, b"1")
    frame = b'{"type":"message","topic":"news.today","offset":2,"data":2}'
    client.publish(layer.redis_channel(TOPIC), b"\xc1%b:2\n\x1e%b\n%b" % (position.epoch.encode(), line, frame))
    await wait_until(lambda: member.offsets == [1, 2])
    assert hub.statistics().gap_count == 0
