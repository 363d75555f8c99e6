"""Publishing on topics with a snapshot, from a shell."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from realtime import topics
from realtime.topics import Snapshot, Tiles, Topic
from tests.integration.hearing import Ear, layer
from tests.support.relevances import decode_relevance

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]

TRAMS = "test.trams"


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trams: at most two."""
    monkeypatch.setattr(topics, "_families", list(topics._families))
    topics._resolve.cache_clear()

    class Trams(Topic):
        pattern = TRAMS
        snapshot = Snapshot(key_limit=2)
        places = Tiles()

    yield
    topics._resolve.cache_clear()


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("publish", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_key_place_tags_and_level_are_options(ear: Callable[[str], Ear]) -> None:
    """The value of a tag is a text, unless it is JSON of another type."""
    listener = ear(TRAMS)
    tags = ["--tag", "mode=tram", "--tag", "line=7", "--tag", 'name="7"', "--tag", "late=true", "--tag", "to=a=b"]
    run(TRAMS, '{"a": 1}', "--key", "tram-7", "--at", "-7.44", "46.95", *tags, "--level", "12")
    run(TRAMS, "2", "--key", "lake", "--bounds", "170", "-5", "-170", "5", "--repeat", "2")
    first, lake, again = listener.hear(3)
    relevance = decode_relevance(first.relevance)
    assert (relevance.key, relevance.level) == ("tram-7", 12)
    assert relevance.place == Tiles().point(-7.44, 46.95)
    assert relevance.tags == {"mode": "tram", "line": 7, "name": "7", "late": True, "to": "a=b"}
    assert type(relevance.tags["late"]) is bool
    assert decode_relevance(lake.relevance).place == Tiles().box(170, -5, -170, 5)
    assert [each.position.offset for each in (first, lake, again)] == [1, 2, 3]
    assert json.loads(first.frame)["data"] == {"a": 1}


def test_a_key_is_removed(ear: Callable[[str], Ear], redis_client: redis.Redis) -> None:
    """Without JSON."""
    listener = ear(TRAMS)
    run(TRAMS, "1", "--key", "tram-7")
    assert run(TRAMS, "--key", "tram-7", "--removed").startswith(f"{TRAMS}: 1 published up to offset 2")
    assert [decode_relevance(each.relevance).is_removed for each in listener.hear(2)] == [False, True]
    assert not redis_client.exists(layer().keys.topic_snapshot(TRAMS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TRAMS, "1"], "key= is a text"),
        ([TRAMS], "pass JSON"),
        ([TRAMS, "1", "--key", "a", "--removed"], "leave it out only with --removed"),
        ([TRAMS, "1", "--key", "a", "--tag", "mode"], "--tag is NAME=VALUE, not 'mode'"),
        ([TRAMS, "1", "--key", "a", "--tag", "=tram"], "--tag is NAME=VALUE"),
        ([TRAMS, "1", "--key", "a", "--at", "nan", "0"], "cannot be published"),
        ([TRAMS, "1", "--key", "a", "--at", "0", "0", "--bounds", "0", "0", "1", "1"], "not both"),
        ([TRAMS, "1", "--key", "a", "--level", "25"], "level= is a whole number from 0 to 24"),
        (["news.today", "1", "--key", "a"], "declare snapshot = Snapshot"),
    ],
)
def test_what_is_wrong(arguments: list[str], message: str, redis_client: redis.Redis) -> None:
    """The error says it, and nothing is published."""
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    for topic in (TRAMS, "news.today"):
        assert not redis_client.exists(layer().keys.topic_position(topic))


def test_a_full_snapshot(redis_client: redis.Redis) -> None:
    """The key that has no room is named."""
    for key in "ab":
        run(TRAMS, "1", "--key", key)
    with pytest.raises(CommandError, match="the key 'c' was not published"):
        run(TRAMS, "1", "--key", "c")
    found: Any = redis_client.hkeys(layer().keys.topic_snapshot(TRAMS))
    assert set(found) == {b"a", b"b"}
