"""Reading the snapshot that Redis keeps of a topic: what is returned, what it costs, what is an error."""

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import redis
import redis.asyncio

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position
from realtime.broker.publish import Keyed, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Loaded, Snapshot, SnapshotReader
from realtime.exceptions import SubscriptionClosed
from realtime.layer import RedisChannelLayer
from realtime.redis import clients
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.relevances import decode_relevance
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

TOPIC = "trams.bern"
KEPT = Snapshot()
NO_HISTORY = HistoryPolicy(size=0)
# More than a reader asks for at a time.
KEY_COUNT = 12_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with clients.publisher(server.url) as client:
        yield client
        client.flushall()


@pytest.fixture
async def reader(server: RedisServer, client: redis.Redis) -> AsyncIterator[SnapshotReader]:
    asyncio_client = clients.async_publisher(server.url)
    reader = SnapshotReader(asyncio_client, keys=Keys(), crypter=None)
    yield reader
    await reader.stop()
    await asyncio_client.aclose()


@pytest.fixture
def layer(server: RedisServer, client: redis.Redis) -> RedisChannelLayer:
    return RedisChannelLayer([server.url])


def request(key: str, *, is_removed: bool = False, topic: str = TOPIC, policy: Snapshot = KEPT) -> PublishRequest:
    return PublishRequest(topic, b"null", NO_HISTORY, keyed=Keyed(Relevance(key, is_removed=is_removed), policy))


def keys_of(loaded: Loaded) -> dict[str, int]:
    """Key → offset of its publication; each key is there once."""
    found = {decode_relevance(each.relevance).key: each.position.offset for each in loaded.publications}
    assert len(found) == len(loaded.publications)
    return found


class Writer:
    """Publishes on random keys in a thread: new ones, replacements and removals. Remembers each key's publications."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self._layer = layer
        self._random = random.Random(7)  # noqa: S311 - the same in each run
        # Key → (offset, whether it was removed), in order.
        self.published: dict[str, list[tuple[int, bool]]] = defaultdict(list)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")

    def publish(self, requests: Sequence[PublishRequest]) -> None:
        for each, published in zip(requests, self._layer.publish_many_now(requests), strict=True):
            assert each.keyed is not None
            relevance = each.keyed.relevance
            self.published[relevance.key].append((published.position.offset, relevance.is_removed))

    def _run(self) -> None:
        while not self._end.is_set():
            numbers = [self._random.randrange(KEY_COUNT * 2) for _ in range(100)]
            self.publish([request(f"k{number}", is_removed=self._random.random() < 0.4) for number in numbers])

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


async def test_a_large_snapshot_is_complete_while_it_changes(
    reader: SnapshotReader, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """Each key has its newest publication up to the position, or a newer one; no key is missing, none is made up."""
    writer = Writer(layer)
    writer.publish([request(f"k{number}") for number in range(KEY_COUNT)])
    with writer:
        begun = sum(map(len, writer.published.values()))
        await wait_until(lambda: sum(map(len, tuple(writer.published.values()))) > begun)
        loaded = [await reader.read(TOPIC, KEPT) for _ in range(8)]
    assert loaded[0].position.offset < loaded[-1].position.offset, "nothing was published meanwhile"
    for each in loaded:
        found = keys_of(each)
        for key, publications in writer.published.items():
            before = [(0, True), *(one for one in publications if one[0] <= each.position.offset)]
            possible = {before[-1], *(one for one in publications if one[0] > each.position.offset)}
            if key in found:
                assert (found[key], False) in possible, key
            else:
                assert any(is_removed for _, is_removed in possible), key
        assert found.keys() <= writer.published.keys()
    final = await reader.read(TOPIC, KEPT)
    truth = {key: last[0] for key, (*_, last) in writer.published.items() if not last[1]}
    assert keys_of(final) == truth
    assert final.position.offset == sum(map(len, writer.published.values()))
    assert client.hlen(Keys().topic_snapshot(TOPIC)) == len(truth)


async def test_many_topics_share_round_trips(
    reader: SnapshotReader, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """A hundred topics at once, each asked for twice, are read once in a few round trips."""
    names = [f"trams.t{number}" for number in range(100)]
    layer.publish_many_now([request(f"of {name}", topic=name) for name in names])
    await reader.read("trams.connects", KEPT)
    before = client.info("stats")["total_reads_processed"]
    found = await asyncio.gather(*(reader.read(name, KEPT) for name in [*names, *names]))
    assert client.info("stats")["total_reads_processed"] - before < 20
    assert [keys_of(each) for each in found[:100]] == [{f"of {name}": 1} for name in names]
    assert all(one is other for one, other in zip(found[:100], found[100:], strict=True))


async def test_a_topic_without_publications(reader: SnapshotReader, client: redis.Redis) -> None:
    """It has no epoch, and asking leaves nothing in Redis."""
    loaded = await reader.read(TOPIC, KEPT)
    assert (loaded.position, list(loaded.publications)) == (Position(0, ""), [])
    assert client.keys() == []


async def test_silent_keys_are_not_read(reader: SnapshotReader, layer: RedisChannelLayer, client: redis.Redis) -> None:
    """Also before anybody has removed them; on a topic where keys stay, they are."""
    layer.publish_many_now([request(key) for key in "abc"])
    client.zincrby(Keys().topic_seen(TOPIC), -61_000, "b")
    assert set(keys_of(await reader.read(TOPIC, Snapshot(absent_after_seconds=60)))) == {"a", "c"}
    assert set(keys_of(await reader.read(TOPIC, KEPT))) == {"a", "b", "c"}


async def test_what_is_no_publication_is_left_out(
    reader: SnapshotReader, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """Somebody else has written into the hash."""
    layer.publish_many_now([request(key) for key in "ab"])
    client.hset(Keys().topic_snapshot(TOPIC), mapping={"b": b"garbage", "c": b"\xc1e:x\n{}"})
    assert keys_of(await reader.read(TOPIC, KEPT)) == {"a": 1}


async def test_a_key_of_another_type_is_an_error(reader: SnapshotReader, client: redis.Redis) -> None:
    """Something else has taken the name: it is not taken for an empty snapshot."""
    client.set(Keys().topic_snapshot(TOPIC), "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await reader.read(TOPIC, KEPT)
    client.flushall()
    assert not (await reader.read(TOPIC, KEPT)).publications


async def test_a_topic_that_cannot_be_read_fails_alone(
    reader: SnapshotReader, layer: RedisChannelLayer, client: redis.Redis
) -> None:
    """Other topics of the same round trips are read: those before it, those after it, and those with silent keys."""
    minute = Snapshot(absent_after_seconds=60)
    names = [f"trams.t{number}" for number in range(9)]
    layer.publish_many_now([request(key, topic=name, policy=minute) for name in names for key in ("here", "silent")])
    for name in names:
        client.zincrby(Keys().topic_seen(name), -61_000, "silent")
    bad = {Keys().topic_snapshot(names[1]), Keys().topic_position(names[3]), Keys().topic_seen(names[5])}
    for key in bad:
        client.set(key, "text")
    client.hset(Keys().topic_position(names[7]), "offset", "no number")
    answers = await asyncio.gather(*(reader.read(name, minute) for name in names), return_exceptions=True)
    for answer in (answers[1], answers[3], answers[5]):
        assert isinstance(answer, redis.ResponseError)
        assert "WRONGTYPE" in str(answer)
    assert isinstance(answers[7], ValueError)
    for answer in answers[::2]:
        assert isinstance(answer, Loaded)
        assert keys_of(answer) == {"here": 1}


async def test_redis_is_unavailable() -> None:
    """Each reader gets an error, and the next reading works."""
    with RedisServer() as server:
        asyncio_client = clients.async_publisher(server.url)
        reader = SnapshotReader(asyncio_client, keys=Keys(), crypter=None)
        await reader.read(TOPIC, KEPT)
        server.kill()
        answers = await asyncio.gather(
            *(reader.read(f"t{number}", KEPT) for number in range(40)), return_exceptions=True
        )
        assert {isinstance(answer, redis.RedisError | OSError) for answer in answers} == {True}
        server.start()
        assert (await reader.read(TOPIC, KEPT)).position.epoch == ""
        server.pause()
        waiting = asyncio.ensure_future(reader.read(TOPIC, KEPT))
        await asyncio.sleep(0)
        await reader.stop()
        with pytest.raises(SubscriptionClosed):
            await waiting
        server.resume()
        assert (await reader.read(TOPIC, KEPT)).position.epoch == ""
        await reader.stop()
        await asyncio_client.aclose()
