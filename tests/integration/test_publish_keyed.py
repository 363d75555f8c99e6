"""Publishing on topics with a snapshot: what arrives, what Redis keeps and for how long, what is refused."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
import redis
from channels.db import database_sync_to_async as in_thread
from django.contrib.auth.models import User

from realtime import topics
from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import parse
from realtime.broker.publish import Keyed, Published, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.exceptions import SnapshotFull, Unavailable
from realtime.publisher import Item, apublish, apublish_many, publish, publish_many
from realtime.redis import connection_checks
from realtime.redis.connection_checks import BeforeTexts
from realtime.redis.keys import Keys
from realtime.streams.append import append_entries
from realtime.topics import Tiles, Topic
from tests.integration.clients import Client, Connect
from tests.integration.hearing import Ear, layer
from tests.support.relevances import decode_relevance
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]

TRAMS = "test.trams.bern"
SMALL = Snapshot(key_limit=3, bytes_limit=1_000)


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trams, with a history; and boats, of which there may be three, that are silent after two minutes."""
    monkeypatch.setattr(topics, "_families", list(topics._families))

    class Trams(Topic):
        pattern = "test.trams.<slug:feed>"
        snapshot = Snapshot(gather_seconds=0)
        places = Tiles()

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return True

    class Boats(Topic):
        pattern = "test.boats.<slug:feed>"
        snapshot = Snapshot(key_limit=3, absent_after_seconds=120)
        history_size = 0

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return True

    topics._resolve.cache_clear()
    yield
    topics._resolve.cache_clear()


def keyed(
    key: str, data: bytes = b"1", *, policy: Snapshot = SMALL, topic: str = TRAMS, silent_ms: int = 0, **more: Any
) -> PublishRequest:
    """Any bytes, for a topic with any policy."""
    return PublishRequest(
        topic, data, HistoryPolicy(size=0), keyed=Keyed(Relevance(key, **more), policy, silent_ms=silent_ms)
    )


def publish_now(request: PublishRequest) -> Published:
    result: Published = layer().publish_now(request)
    return result


def kept_of(client: redis.Redis, topic: str = TRAMS) -> dict[str, bytes]:
    """The newest frame of each key in Redis."""
    frames = {}
    for key, payload in client.hgetall(layer().keys.topic_snapshot(topic)).items():
        publication = parse(payload)
        assert publication is not None
        frames[key.decode()] = publication.frame
    return frames


def check_bytes(client: redis.Redis, topic: str = TRAMS) -> int:
    """The counter of bytes is right, and each key has a time of its last publication; gives the bytes."""
    payloads = client.hgetall(layer().keys.topic_snapshot(topic))
    counted = int(client.hget(layer().keys.topic_position(topic), "bytes") or 0)
    assert counted == sum(map(len, payloads.values()))
    assert {key for key, _ in client.zscan_iter(layer().keys.topic_seen(topic))} == set(payloads)
    return counted


# What arrives ---------------------------------------------------------------------------------------------------------

ODD_JSON = [
    b'{"b": 1.0E+2, "a" : [ 1e3, 12345678901234567890 ],  "a":2, "\\u00e9": "\\/"}',
    b"  [1, -0.0]  ",
    '"ünïcödé \U0001f600"'.encode(),
    # Nobody can parse these.
    b"{this is not JSON: 1.0E+2",
    b"\x07\x1e]]",
]


async def frames_of(client: Client, count: int) -> list[str]:
    """The messages of the next frames, as text."""
    found: list[str] = []
    while len(found) < count:
        text = await client.receive_from(5)
        found += [line for line in text.split("\n") if line.startswith('{"type":"message"')]
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("data", ODD_JSON)
async def test_a_payload_is_never_parsed_between_publisher_and_client(
    connect: Connect, alice: User, data: bytes
) -> None:
    """What no JSON reader can read arrives byte for byte: in views, by the snapshot, and without a filter."""
    await layer().publish(keyed("before", data))
    client = await connect(alice)
    await client.greeted()
    await client.say(type="subscribe", topic=TRAMS)
    await client.say(type="subscribe", topic=TRAMS, view="v1", number=1, filter={"tags": {"mode": {"ne": "bus"}}})
    before = (await frames_of(client, 1))[0]
    frame = '{"type":"message","topic":"test.trams.bern","offset":'
    assert before == f'{frame}1,"key":"before","data":{data.decode()}}}'
    await layer().publish(keyed("now", data, tags={"mode": "tram"}))
    expected = f'{frame}2,"key":"now","data":{data.decode()}}}'
    assert await frames_of(client, 2) == [expected, expected]


def test_what_travels_beside_the_payload(ear: Callable[[str], Ear], redis_client: redis.Redis) -> None:
    """Key, place, tags and level are in a line of their own; a removal is marked in the frame too."""
    listener = ear(TRAMS)
    publish(TRAMS, {"a": 1}, key="tram é", at=(7.44, 46.95), tags={"mode": "tram", "line": 7}, level=12)
    publish(TRAMS, None, key="tram é", removed=True)
    tram, gone = listener.hear(2)
    relevance = decode_relevance(tram.relevance)
    assert (relevance.key, relevance.tags, relevance.level) == ("tram é", {"mode": "tram", "line": 7}, 12)
    assert relevance.place is not None
    assert len(relevance.place) == 2
    assert json.loads(tram.frame) == {
        "type": "message",
        "topic": TRAMS,
        "offset": 1,
        "key": "tram é",
        "data": {"a": 1},
    }
    assert decode_relevance(gone.relevance) == Relevance("tram é", is_removed=True)
    assert json.loads(gone.frame)["removed"] is True
    assert kept_of(redis_client) == {}


@pytest.mark.django_db(transaction=True)
async def test_consumers_of_channels_get_messages_as_before() -> None:
    """`realtime.message` with the data as JSON text; the key, and whether it was removed."""
    channel = await layer().new_channel()
    await layer().group_add(TRAMS, channel)
    await apublish(TRAMS, {"a": 1}, key="tram", at=(7.44, 46.95))
    await apublish(TRAMS, None, key="tram", removed=True)
    about = {"type": "realtime.message", "topic": TRAMS, "key": "tram"}
    assert await layer().receive(channel) == about | {"offset": 1, "data": '{"a":1}', "removed": False}
    assert await layer().receive(channel) == about | {"offset": 2, "data": "null", "removed": True}
    await layer().flush()


async def test_many_at_once_keep_the_order_of_each_topic(ear: Callable[[str], Ear], redis_client: redis.Redis) -> None:
    """Topics with and without a snapshot mixed, over several calls and round trips."""
    plain, trams = ear("news.today"), ear(TRAMS)
    items: list[Any] = []
    for number in range(600):
        items += [("news.today", number), Item(TRAMS, number, key=f"k{number % 7}", at=(number % 100, 0))]
    first, second = publish_many(items), await apublish_many(items)
    for published, start in ((first, 0), (second, 600)):
        assert [each.position.offset for each in published[::2]] == list(range(start + 1, start + 601))
        assert [each.position.offset for each in published[1::2]] == list(range(start + 1, start + 601))
    for listener in (plain, trams):
        assert [json.loads(each.frame)["data"] for each in listener.hear(1200)] == [*range(600), *range(600)]
    assert {key: json.loads(frame)["data"] for key, frame in kept_of(redis_client).items()} == {
        f"k{number % 7}": number for number in range(593, 600)
    }
    check_bytes(redis_client)


# What Redis keeps -----------------------------------------------------------------------------------------------------


def test_everything_expires(redis_client: redis.Redis) -> None:
    """After each kind of publication, every key has a time to live; a topic whose keys may stay keeps them a day."""
    keys = layer().keys
    kinds: list[dict[str, Any]] = [
        {"key": "a"},
        {"key": "a", "idempotency_key": "once"},
        {"key": "b"},
        {"key": "b", "removed": True},
        {"key": "never there", "removed": True},
    ]
    for topic, kept_seconds in ((TRAMS, 86_400), ("test.boats.thun", 300)):
        for kind in kinds:
            publish(topic, None, **kind)
            for name in redis_client.scan_iter(match=f"{keys.prefix}*"):
                assert redis_client.ttl(name) > 0, (name, kind)
        for name in (keys.topic_snapshot(topic), keys.topic_seen(topic)):
            assert kept_seconds - 60 < redis_client.ttl(name) <= kept_seconds
        assert 86_000 < redis_client.ttl(keys.topic_position(topic)) <= 86_400


def test_a_position_lives_as_long_as_its_snapshot(redis_client: redis.Redis) -> None:
    """The counter of bytes is in it."""
    publish_now(keyed("a", policy=Snapshot(absent_after_seconds=500_000)))
    assert redis_client.ttl(layer().keys.topic_position(TRAMS)) > 900_000


def test_a_new_epoch_begins_without_a_snapshot(redis_client: redis.Redis) -> None:
    """The keys of the epoch before have offsets that mean nothing now."""
    old = publish(TRAMS, 1, key="old")
    publish(TRAMS, 1, key="older")
    redis_client.delete(layer().keys.topic_position(TRAMS))
    new = publish(TRAMS, 1, key="new")
    assert (new.position.offset, old.position.epoch != new.position.epoch) == (1, True)
    assert list(kept_of(redis_client)) == ["new"]
    check_bytes(redis_client)


def test_the_bytes_are_counted(redis_client: redis.Redis) -> None:
    """Over new keys, replacements that are longer and shorter, removals, refusals, and an expired snapshot."""
    keys = layer().keys
    for data in (b"1", b"1" * 200, b"1" * 20):
        publish_now(keyed("a", data))
        publish_now(keyed("b", data))
        check_bytes(redis_client)
    before = check_bytes(redis_client)
    assert publish_now(keyed("c", b"1" * 900)).is_full
    assert check_bytes(redis_client) == before
    publish_now(keyed("b", is_removed=True))
    publish_now(keyed("never there", is_removed=True))
    assert check_bytes(redis_client) < before
    publish_now(keyed("a", is_removed=True))
    assert check_bytes(redis_client) == 0
    publish_now(keyed("a", b"1" * 700))
    redis_client.delete(keys.topic_snapshot(TRAMS), keys.topic_seen(TRAMS))
    assert not publish_now(keyed("b", b"1" * 700)).is_full
    check_bytes(redis_client)


def test_a_snapshot_that_is_full_of_bytes(redis_client: redis.Redis) -> None:
    """Neither another key nor a longer publication is taken; a shorter one is, and frees what it does not need."""
    assert not publish_now(keyed("a", b"1" * 400)).is_full
    assert not publish_now(keyed("b", b"1" * 200)).is_full
    heard = redis_client.hget(layer().keys.topic_position(TRAMS), "offset")
    refused = publish_now(keyed("c", b"1" * 300))
    assert (refused.is_full, refused.receiver_count) == (True, 0)
    assert publish_now(keyed("b", b"1" * 500)).is_full
    assert redis_client.hget(layer().keys.topic_position(TRAMS), "offset") == heard
    assert not publish_now(keyed("a", b"1" * 100)).is_full
    assert not publish_now(keyed("c", b"1" * 300)).is_full
    assert check_bytes(redis_client) <= SMALL.bytes_limit


def test_a_key_cannot_grow_past_the_limit_in_small_steps(redis_client: redis.Redis) -> None:
    """However little longer each publication is than the one before."""
    full_at = next(size for size in range(100, 2_000, 10) if publish_now(keyed("a", b"1" * size)).is_full)
    assert 800 < full_at < 1_000
    assert check_bytes(redis_client) <= SMALL.bytes_limit
    redis_client.delete(layer().keys.topic_position(TRAMS))
    assert publish_now(keyed("a", b"1" * 2_000)).is_full, "also as the first of an epoch"


def test_a_snapshot_that_is_full_of_keys(redis_client: redis.Redis) -> None:
    """The error names what was refused; the others of the call are published."""
    topic = "test.boats.thun"
    publish_many([Item(topic, 1, key=key) for key in "abc"])
    with pytest.raises(SnapshotFull, match="the key 'd' was not published") as refused:
        publish_many([Item(topic, 2, key="a"), Item(topic, 2, key="d"), Item(topic, 2, key="c")])
    assert refused.value.keys == [(topic, "d")]
    with pytest.raises(SnapshotFull):
        publish(topic, 1, key="d")
    assert {key: json.loads(frame)["offset"] for key, frame in kept_of(redis_client, topic).items()} == {
        "a": 4,
        "b": 2,
        "c": 5,
    }
    publish(topic, None, key="b", removed=True)
    publish(topic, 1, key="d")
    assert set(kept_of(redis_client, topic)) == {"a", "c", "d"}


def test_an_idempotency_key_counts_once(ear: Callable[[str], Ear], redis_client: redis.Redis) -> None:
    """A repeat does nothing, also if it has another key; a refused publication is no first one."""
    topic = "test.boats.thun"
    listener = ear(topic)
    first = publish(topic, "a", key="a", idempotency_key="job-7")
    again = publish(topic, "b", key="b", idempotency_key="job-7")
    assert (again.position, again.is_repeat, again.receiver_count) == (first.position, True, 0)
    assert set(kept_of(redis_client, topic)) == {"a"}
    publish_many([Item(topic, 1, key=key) for key in "bc"])
    with pytest.raises(SnapshotFull):
        publish(topic, 1, key="d", idempotency_key="job-8")
    publish(topic, None, key="c", removed=True)
    assert not publish(topic, 1, key="d", idempotency_key="job-8").is_repeat
    assert [json.loads(each.frame)["key"] for each in listener.hear(5)] == ["a", "b", "c", "c", "d"]


def test_only_what_is_silent_is_removed_for_its_silence(redis_client: redis.Redis) -> None:
    """A key that was published meanwhile, or that is not there, is not removed: nothing is published."""
    publish_now(keyed("a"))
    for key in ("a", "never there"):
        answer = publish_now(keyed(key, b"null", silent_ms=60_000, is_removed=True))
        assert (answer.position.offset, answer.receiver_count) == (0, 0)
    redis_client.zadd(layer().keys.topic_seen(TRAMS), {"a": 1})
    assert publish_now(keyed("a", b"null", silent_ms=60_000, is_removed=True)).position.offset == 2
    assert kept_of(redis_client) == {}


@pytest.mark.parametrize("part", ["position", "snapshot", "seen", "history"])
def test_a_key_of_another_type(redis_client: redis.Redis, part: str) -> None:
    """Something else has taken the name: the error of Redis is passed on, and it works again without it."""
    name = getattr(layer().keys, f"topic_{part}")(TRAMS)
    publish(TRAMS, 1, key="a")
    redis_client.set(name, "text", ex=60)
    with pytest.raises(Unavailable, match=r"publishing on test\.trams\.bern failed .*WRONGTYPE"):
        publish(TRAMS, 1, key="b")
    redis_client.delete(name)
    publish(TRAMS, 1, key="c")
    assert "c" in kept_of(redis_client)


# Encrypted ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _encrypted(signalbox: Any) -> None:
    default = signalbox.CHANNEL_LAYERS["default"]
    config = {**default["CONFIG"], "symmetric_encryption_keys": ["a key"]}
    signalbox.CHANNEL_LAYERS = {"default": {**default, "CONFIG": config}}


@pytest.mark.usefixtures("_encrypted")
@pytest.mark.django_db(transaction=True)
async def test_encrypted(connect: Connect, alice: User, redis_client: redis.Redis) -> None:
    """Views and other subscriptions read it; Redis and its channels show only the names of topics and keys."""
    with redis_client.pubsub() as pubsub:
        pubsub.psubscribe("*")
        assert pubsub.get_message(timeout=60)["type"] == "psubscribe"
        await apublish(TRAMS, {"text": "secret"}, key="tram", at=(7.44, 46.95), tags={"mode": "secretly"}, level=3)
        client = await connect(alice)
        await client.greeted()
        await client.say(type="subscribe", topic=TRAMS)
        await client.say(
            type="subscribe", topic="test.trams.*", view="v1", number=1, filter={"tags": {"mode": "secretly"}}
        )
        assert json.loads((await frames_of(client, 1))[0])["data"] == {"text": "secret"}
        await apublish(TRAMS, {"text": "secret"}, key="tram", at=(7.44, 46.95), tags={"mode": "secretly"})
        assert [json.loads(frame)["offset"] for frame in await frames_of(client, 2)] == [2, 2]
        # Silent for too long.
        await in_thread(redis_client.zadd)(layer().keys.topic_seen(TRAMS), {"tram": 1})
        removed = (
            await layer()
            ._get_layer()
            .sweep_snapshot(TRAMS, Snapshot(absent_after_seconds=60), history=HistoryPolicy(), lease_seconds=1)
        )
        assert removed == 1
        await wait_until(lambda: not redis_client.exists(layer().keys.topic_snapshot(TRAMS)))
        sent = []
        while (message := pubsub.get_message(timeout=0.1)) is not None:
            sent.append(message["data"])
    assert len(sent) >= 4
    await apublish(TRAMS, {"text": "secret"}, key="tram", at=(7.44, 46.95), tags={"mode": "secretly"})
    kept = await in_thread(redis_client.hgetall)(layer().keys.topic_snapshot(TRAMS))
    kept_before = await in_thread(redis_client.lrange)(layer().keys.topic_history(TRAMS), 0, -1)
    assert (list(kept), len(kept_before)) == ([b"tram"], 4)
    registered = await in_thread(redis_client.hgetall)(layer().keys.family_extents("test.trams.*"))
    assert len(registered) == 1
    # Each also without the name of the topic, with which a registration begins.
    texts = [text.removeprefix(b"test.trams.bern") for text in sent if isinstance(text, bytes)]
    for text in [*texts, *kept.values(), *kept_before, *registered.values()]:
        # Tile 133, 90 is the one of zoom 8 in which it is.
        assert not {part for part in (b"secret", b"mode", b"tram", b"133 90") if part in text}


def test_scripts_with_hundreds_of_arguments_get_no_numbers(
    monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis, keys: Keys
) -> None:
    """Their commands are packed without a look at the types of the arguments."""
    commands: list[tuple[Any, ...]] = []

    def pack_command(command: tuple[Any, ...]) -> bytes:
        commands.append(command)
        packed: bytes = hiredis.pack_command(command)
        return packed

    monkeypatch.setattr(connection_checks, "hiredis", SimpleNamespace(pack_command=pack_command))
    publish("news.today", {"number": 1}, idempotency_key="news-1")
    publish_many([("news.today", number) for number in range(60)])
    publish(TRAMS, 1, key="7", at=(7.4, 46.9), tags={"line": 7, "speed": 1.5}, level=3, idempotency_key="tram-1")
    publish(TRAMS, None, key="7", removed=True)
    publish_many([Item(TRAMS, number, key=str(number)) for number in range(60)])
    guard = keys.stream_guard("notifications", "7")
    append_entries(redis_client, keys.stream("notifications"), guard, [{"n": b"1"}], guard_seconds=60, length_limit=9)
    known = [command for command in commands if BeforeTexts in map(type, command)]
    # With 60 items, one command has 50 and another one the rest.
    assert len(known) >= 1 + 2 + 1 + 1 + 2 + 1
    assert {type(word) for command in known for word in command} == {str, bytes, BeforeTexts}
