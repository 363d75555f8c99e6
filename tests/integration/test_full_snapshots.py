"""Snapshots without room for another key, on topics that nobody looks at."""

from collections.abc import Iterator

import pytest
import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from realtime import topics
from realtime.exceptions import SnapshotFull
from realtime.publisher import Item, apublish, publish, publish_many
from realtime.topics import Snapshot, Topic

BOATS, SHIPS = "test.boats", "test.ships"


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch, signalbox: object) -> Iterator[None]:
    """Three boats at most, which may be silent for an hour; and ships, which stay until they are removed."""
    monkeypatch.setattr(topics, "_families", list(topics._families))
    topics._resolve.cache_clear()

    class Boats(Topic):
        pattern = BOATS
        snapshot = Snapshot(key_limit=3, absent_after_seconds=3600)

    class Ships(Topic):
        pattern = SHIPS
        snapshot = Snapshot(key_limit=3)

    yield
    topics._resolve.cache_clear()


def keys_of(client: redis.Redis, topic: str) -> set[str]:
    return {key.decode() for key in client.hkeys(get_channel_layer().keys.topic_snapshot(topic))}


def make_silent(client: redis.Redis, topic: str, *keys: str) -> None:
    """As if these had been published two hours ago."""
    seen = get_channel_layer().keys.topic_seen(topic)
    for key in keys:
        client.zincrby(seen, -7_200_000, key)


def test_silent_keys_make_room(redis_client: redis.Redis) -> None:
    """Nobody looks at the topic, so the publisher removes them: else it would be refused until somebody does."""
    publish_many(Item(BOATS, 1, key=key) for key in "abc")
    with pytest.raises(SnapshotFull):
        publish(BOATS, 1, key="d")
    make_silent(redis_client, BOATS, "a", "b")
    # The two removals are publications too.
    assert publish(BOATS, 1, key="d").position.offset == 6
    assert keys_of(redis_client, BOATS) == {"c", "d"}
    make_silent(redis_client, BOATS, "c")
    async_to_sync(apublish)(BOATS, 1, key="e")
    assert publish_many([Item(BOATS, 1, key="f"), Item(BOATS, 1, key="d")])[0].position.offset == 10
    assert keys_of(redis_client, BOATS) == {"d", "e", "f"}
    counted = get_channel_layer().statistics()
    assert (counted.full_count, counted.silent_count) == (1, 3)


def test_many_at_once_make_room_once(redis_client: redis.Redis) -> None:
    """Those for which there still is no room are named."""
    publish_many(Item(BOATS, 1, key=key) for key in "abc")
    make_silent(redis_client, BOATS, "a")
    with pytest.raises(SnapshotFull, match="'e'"):
        publish_many(Item(BOATS, 1, key=key) for key in "dbe")
    assert keys_of(redis_client, BOATS) == {"b", "c", "d"}


def test_a_key_that_is_removed_meanwhile_does_not_come_back(redis_client: redis.Redis) -> None:
    """It was refused, and its removal in the same call was published: there is nothing to try again."""
    publish_many(Item(BOATS, 1, key=key) for key in "abc")
    make_silent(redis_client, BOATS, "a")
    with pytest.raises(SnapshotFull, match="'d'"):
        publish_many([Item(BOATS, 1, key="d"), Item(BOATS, key="d", removed=True)])
    assert keys_of(redis_client, BOATS) == {"a", "b", "c"}


def test_keys_that_may_be_silent_stay(redis_client: redis.Redis) -> None:
    """On a topic without such a time, only their removal makes room."""
    publish_many(Item(SHIPS, 1, key=key) for key in "abc")
    make_silent(redis_client, SHIPS, "a", "b", "c")
    with pytest.raises(SnapshotFull):
        publish(SHIPS, 1, key="d")
    publish(SHIPS, None, key="a", removed=True)
    publish(SHIPS, 1, key="d")
    assert keys_of(redis_client, SHIPS) == {"b", "c", "d"}
